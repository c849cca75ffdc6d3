"""The end of `make demo`: serve a checkpoint, ask it one question over HTTP, show what came.

On a terminal the server then stays for its chat page, until Ctrl-C.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from urllib.request import Request, urlopen

QUESTION = "What is a mixture of experts?"


def main() -> None:
    dsdeploy, folder = Path(sys.executable).with_name("dsdeploy"), sys.argv[1]
    command = [dsdeploy, "serve", folder, "--backend", "native", "--port", "0", "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        facts = ready(server)
        try:
            ask(facts["address"])
            print(f"\nThe chat page is at {facts['address']}/")
            if sys.stdin.isatty():
                print("Ctrl-C ends the server.")
                server.wait()
        except KeyboardInterrupt:
            pass
        finally:
            server.terminate()


def ready(server: subprocess.Popen[str]) -> dict[str, str]:
    """What it says when it can be asked."""
    for line in server.stdout or ():
        event: dict[str, str] = json.loads(line)
        if event.get("event") == "ready":
            print(f"{event['model']} is ready at {event['address']}: {event['answer']}")
            return event
    sys.exit(server.wait())


def ask(address: str) -> None:
    body = {"messages": [{"role": "user", "content": QUESTION}], "max_tokens": 64, "stream": True}
    body |= {"temperature": 0, "ignore_eos": True, "stream_options": {"include_usage": True}}
    url, head = f"{address}/v1/chat/completions", {"Content-Type": "application/json"}
    print(f"\n> {QUESTION}\n(The weights are random, so the answer is too.)\n")
    first, usage = 0.0, {}
    with urlopen(Request(url, json.dumps(body).encode(), head), timeout=120) as answer:
        for line in answer:
            if not line.startswith(b"data: {"):
                continue
            event = json.loads(line.removeprefix(b"data: "))
            usage = event.get("usage") or usage
            for choice in event["choices"]:
                if text := choice["delta"].get("content"):
                    first = first or time.monotonic()
                    print(text, end="", flush=True)
    seconds = time.monotonic() - first
    tokens = usage["completion_tokens"]
    print(f"\n\n{tokens} tokens, {(tokens - 1) / seconds:.1f} tokens/s")


if __name__ == "__main__":
    main()
