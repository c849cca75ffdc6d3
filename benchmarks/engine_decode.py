"""How fast a server decodes at batch 1: any endpoint that speaks OpenAI's completions.

    python benchmarks/engine_decode.py http://127.0.0.1:8000 [--prompt 128] [--tokens 64]

Requests come one after the other, each with random tokens of its own, so that no prefix cache
helps. A rate begins with the first token's arrival: it is of decoding alone. Log-probabilities are
asked for because they tell how many tokens an event brings: text does not, as half a character has
none.
"""

from __future__ import annotations

import argparse
import json
import random
import time
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

PATIENCE_S = 600


@dataclass(frozen=True)
class Timed:
    """One answer that was streamed."""

    first: float
    """Seconds to the first event that brought tokens."""
    rate: float
    """Tokens a second after it."""


def measure(base_url: str, model: str, prompts: Sequence[Sequence[int]], tokens: int) -> float:
    """Decoded tokens a second: the median of a request for each prompt."""
    return median(ask(base_url, model, prompt, tokens).rate for prompt in prompts)


def ask(base_url: str, model: str, prompt: Sequence[int], tokens: int) -> Timed:
    body = {
        "model": model,
        "prompt": list(prompt),
        "max_tokens": tokens,
        "temperature": 0,
        "ignore_eos": True,
        "logprobs": 0,
        "stream": True,
    }
    start = time.perf_counter()
    arrived: list[tuple[float, int]] = []
    for event in _events(f"{base_url}/v1/completions", body):
        for choice in event["choices"]:
            if choice.get("logprobs"):
                count = len(choice["logprobs"]["tokens"])
                arrived.append((time.perf_counter(), count))
    total = sum(count for _, count in arrived)
    if total != tokens:
        raise SystemExit(f"{base_url} streamed {total} tokens with log-probabilities, not {tokens}")
    (first, at_first), (last, _) = arrived[0], arrived[-1]
    return Timed(first - start, (total - at_first) / (last - first))


def _events(url: str, body: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Of a stream, each as it comes."""
    data, headers = json.dumps(body).encode(), {"Content-Type": "application/json"}
    request = urllib.request.Request(url, data, headers)
    with urllib.request.urlopen(request, timeout=PATIENCE_S) as lines:
        for line in lines:
            text = line.decode().strip().removeprefix("data: ")
            if text.startswith("{"):
                yield json.loads(text)


def served_model(base_url: str) -> str:
    with urllib.request.urlopen(f"{base_url}/v1/models", timeout=PATIENCE_S) as answer:
        name: str = json.load(answer)["data"][0]["id"]
    return name


def random_prompts(count: int, length: int, vocabulary: int, seed: int) -> list[list[int]]:
    chance = random.Random(seed)
    return [[chance.randrange(vocabulary) for _ in range(length)] for _ in range(count)]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("url", help="without /v1")
    parser.add_argument("--model", help="default: the first that /v1/models names")
    parser.add_argument("--prompt", type=int, default=128, help="tokens in (%(default)s)")
    parser.add_argument("--tokens", type=int, default=64, help="tokens out (%(default)s)")
    parser.add_argument("--requests", type=int, default=9, help="%(default)s")
    parser.add_argument("--vocabulary", type=int, default=2048, help="%(default)s")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    url = arguments.url.rstrip("/")
    model = arguments.model or served_model(url)
    prompts = random_prompts(
        arguments.requests + 1, arguments.prompt, arguments.vocabulary, arguments.seed
    )
    ask(url, model, prompts.pop(), arguments.tokens)  # warms it up
    timed = [ask(url, model, prompt, arguments.tokens) for prompt in prompts]
    rates = sorted(one.rate for one in timed)
    print(
        f"{model} at {url}: {median(rates):.1f} tokens/s at batch 1 "
        f"({rates[0]:.1f} to {rates[-1]:.1f}, {len(rates)} requests of {arguments.prompt} tokens "
        f"in, {arguments.tokens} out); first token after "
        f"{1000 * median(one.first for one in timed):.0f} ms"
    )


if __name__ == "__main__":
    main()
