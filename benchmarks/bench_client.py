"""What `dsdeploy bench` costs and how far its clock is off: it measures an endpoint that knows when
each of its tokens left. Beside it the least that can read such streams is measured, a loop over bare
sockets: what it takes is what the machine takes to wake a process that has something to read.

    python benchmarks/bench_client.py [--json FILE]

Less than a minute. Client and endpoint are processes of this machine, so the cost wants two idle cores.
"""

from __future__ import annotations

import argparse
import json
import os
import selectors
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from urllib.parse import urlsplit

from measure import machine
from report import Row, Target, document, markdown

from dsdeploy.client.bench.load import Concurrency
from dsdeploy.client.bench.prompts import GUESSED, Length, synthetic
from dsdeploy.client.bench.run import Asking, Measurement, measure
from dsdeploy.client.bench.statistics import Summary, distribution, percentile, summarise
from dsdeploy.client.endpoint import Endpoint, get

HERE = Path(__file__).parent
RATE = 2000
STREAMS = 40
TOKENS = 250
ROUNDS = 2
"""Requests of a stream."""


@dataclass(frozen=True)
class Truth:
    """Seconds, by the endpoint's clock, which is the client's."""

    delays: list[float]
    """From when a token left to when the client says that it came; sorted."""
    ttft: list[float]
    gaps: list[float]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, help="save the table there as well")
    arguments = parser.parse_args()
    rows = [row for way in ("spread", "steps") for row in rows_of(way)]
    facts = machine(HERE) | {"load average": f"{os.getloadavg()[0]:.1f}"}
    print(markdown(facts, rows))
    if arguments.json:
        arguments.json.write_text(json.dumps(document(facts, rows), indent=2) + "\n")


def rows_of(way: str) -> Iterator[Row]:
    first, *questions = synthetic(
        1 + STREAMS * ROUNDS, Length(64, 64), Length(TOKENS, TOKENS), GUESSED, seed=1
    )
    with endpoint(way) as found:
        asking = Asking(found, "paced", timeout=120)
        measure(asking, [first], Concurrency(1))
        begun = time.process_time()
        measurement = measure(asking, questions, Concurrency(STREAMS))
        summary = summarise(measurement)
        cost = time.process_time() - begun
        prompts = [str(question.prompt) for question in questions]
        truth = compare(measurement, prompts, get(found, "/times").json())
        bare = bare_delays(found)
    how = f"{STREAMS} streams, {way}"
    rate = summary.output_tokens_per_second
    yield Row(f"tokens, {way}", rate, "tokens/s", None, f"{how}; {summary.output_tokens} in all")
    share = 100 * cost / (summary.output_tokens / 500)
    target = Target("<", 5)
    yield Row(f"cost of 500 tokens/s, {way}", share, "% of a core", target, "reading included")
    yield from delays(f"from leaving to noted, {way}", truth.delays, Target("<=", 1))
    yield from delays(f"from leaving to read by a bare loop, {way}", bare, None)
    yield from distortions(way, summary, truth)


def bare_delays(found: Endpoint) -> list[float]:
    """Seconds from when a token left to when a process had read it; sorted."""
    parts = urlsplit(found.address)
    noted: dict[str, list[float]] = {f"bare {number}": [] for number in range(STREAMS)}
    with selectors.DefaultSelector() as selector:
        for prompt in noted:
            body = json.dumps({"prompt": prompt, "max_tokens": TOKENS}).encode()
            stream = socket.create_connection((parts.hostname, parts.port))
            stream.sendall(b"POST / HTTP/1.1\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body))
            selector.register(stream, selectors.EVENT_READ, (stream, noted[prompt]))
        while selector.get_map():
            for key, _ in selector.select():
                stream, times = key.data
                data = stream.recv(2**16)
                times += [time.monotonic()] * data.count(b'" token"')
                if not data:
                    selector.unregister(stream)
                    stream.close()
    left = get(found, "/times").json()
    return sorted(
        now - then
        for prompt, times in noted.items()
        for now, then in zip(times, left[prompt], strict=True)
    )


def compare(measurement: Measurement, prompts: list[str], times: dict[str, list[float]]) -> Truth:
    """A request leaves when it is written, which the client does at once and in one piece; how long
    the endpoint then lets it wait is its own affair, and part of its time to the first token."""
    delays, ttft, gaps = [], [], []
    for sample, prompt in zip(measurement.samples, prompts, strict=True):
        left = times[prompt]
        delays += [noted - sent for noted, sent in zip(sample.texts, left, strict=True)]
        ttft.append(left[0] - sample.sent)
        gaps += [after - before for before, after in pairwise(left)]
    return Truth(sorted(delays), ttft, gaps)


def delays(what: str, ordered: list[float], target: Target | None) -> Iterator[Row]:
    for percent in (50, 99):
        yield Row(f"{what}, p{percent}", 1000 * percentile(ordered, percent), "ms", target)
    yield Row(f"{what}, most", 1000 * ordered[-1], "ms")


def distortions(way: str, summary: Summary, truth: Truth) -> Iterator[Row]:
    for what, told, true in (
        ("TTFT", summary.ttft, distribution(truth.ttft)),
        ("ITL", summary.itl, distribution(truth.gaps)),
    ):
        for name in ("p50", "p99"):
            here, there = 1000 * getattr(told, name), 1000 * getattr(true, name)
            how = f"{here:.3f} told, {there:.3f} true"
            off = abs(here - there)
            yield Row(f"{what} {name}, off by, {way}", off, "ms", Target("<=", 1), how)


@contextmanager
def endpoint(way: str) -> Iterator[Endpoint]:
    words = [sys.executable, HERE / "paced_endpoint.py", str(RATE / STREAMS), way]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield Endpoint(f"http://127.0.0.1:{process.stdout.readline().strip()}")
        finally:
            process.terminate()


if __name__ == "__main__":
    main()
