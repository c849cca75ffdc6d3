"""An endpoint that says one token after the other at a steady pace, and remembers when.

    python paced_endpoint.py TOKENS_PER_SECOND steps|spread

The pace is each stream's. In `steps` all streams have their tokens at the same moments, as those of an
engine's batch; `spread`, each has its own. Its port is the first line that it prints. GET /times gives
{prompt: [when each token left]} in seconds of the monotonic clock.
"""

from __future__ import annotations

import asyncio
import json
import math
import sys
import time

HEAD = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n"
    b"connection: close\r\n\r\n"
)
rate, in_steps = float(sys.argv[1]), sys.argv[2] == "steps"
times: dict[str, list[float]] = {}


def chunk(document: object) -> bytes:
    data = document if isinstance(document, bytes) else b"data: " + json.dumps(document).encode()
    return b"%x\r\n%b\n\n\r\n" % (len(data) + 2, data)


def piece(**fields: object) -> bytes:
    """Of the size that vLLM sends."""
    about = {"id": "cmpl-8f0e7c6d5b4a39281706f5e4d3c2b1a0", "object": "text_completion"}
    return chunk(about | {"created": 1764182000, "model": "paced", **fields})


def choice(text: str, reason: str | None = None) -> list[dict[str, object]]:
    return [{"index": 0, "text": text, "logprobs": None, "finish_reason": reason}]


TOKEN = piece(choices=choice(" token"))


async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
    if head.startswith("get"):
        path = head.split()[1]
        found = json.dumps(times if path == "/times" else {"data": [{"id": "paced"}]}).encode()
        length = b"content-length: %d" % len(found)
        writer.write(b"HTTP/1.1 200 OK\r\nconnection: close\r\n" + length + b"\r\n\r\n" + found)
    else:
        size = int(head.partition("content-length:")[2].split()[0])
        await speak(json.loads(await reader.readexactly(size)), writer)
    writer.close()


async def speak(asked: dict[str, object], writer: asyncio.StreamWriter) -> None:
    prompt, count = str(asked["prompt"]), int(str(asked["max_tokens"]))
    came, left = time.monotonic(), times.setdefault(prompt, [])
    writer.write(HEAD)
    start = math.ceil(came * rate) / rate if in_steps else came
    for index in range(1, count + 1):
        await asyncio.sleep(start + index / rate - time.monotonic())
        left.append(time.monotonic())
        writer.write(TOKEN)
    usage = {"prompt_tokens": len(prompt.split()), "completion_tokens": count}
    writer.write(piece(choices=choice("", "length")))
    writer.write(piece(choices=[], usage=usage) + chunk(b"data: [DONE]") + b"0\r\n\r\n")


async def main() -> None:
    server = await asyncio.start_server(answer, "127.0.0.1", 0, backlog=4096)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


asyncio.run(main())
