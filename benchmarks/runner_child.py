"""One measurement in a process of its own: `runner_child.py WHAT FOLDER DTYPE ...`, JSON out.

Every decoding run is the same: prompts of 128 random tokens, greedy, 64 tokens out. Prefill is the
time to the first token, decoding the rate of the others, medians of three runs; one before them compiles and warms up.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median
from typing import Any

PROMPT, ANSWER, RUNS = 128, 64, 3


def prompts(count: int, vocabulary: int) -> list[list[int]]:
    chooser = random.Random(0)
    return [[chooser.randrange(5, vocabulary) for _ in range(PROMPT)] for _ in range(count)]


def resident() -> int:
    """Bytes of anonymous memory: what is mapped from files does not count."""
    status = Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if "RssAnon" in line) * 1024


def rates(run: Callable[[int], tuple[float, float]]) -> dict[str, float]:
    """`run` gives (seconds to the first tokens, seconds for the others)."""
    found = {}
    for batch in (1, 8):
        run(batch)
        times = [run(batch) for _ in range(RUNS)]
        found[f"prefill {batch}"] = median(batch * PROMPT / first for first, _ in times)
        found[f"decode {batch}"] = median(batch * (ANSWER - 1) / rest for _, rest in times)
    return found


def native(folder: Path, dtype: str) -> dict[str, Any]:
    from dsdeploy.runner.start import Settings, start

    before = resident()
    runner = start(folder, Settings(dtype=dtype, step_tokens=2048), lambda nbytes: _ignore)
    assert runner is not None
    weights = resident() - before
    config = runner.model.config

    def run(batch: int) -> tuple[float, float]:
        from dsdeploy.runner.engine import Engine, EngineOptions
        from dsdeploy.runner.request import Request, Sampling

        engine = Engine(runner.engine.executor, None, EngineOptions(step_tokens=2048))
        sampling = Sampling(max_tokens=ANSWER, temperature=0)
        for prompt in prompts(batch, config.vocab_size):
            engine.add(Request(tuple(prompt), sampling, lambda output: None))
        begun = time.perf_counter()
        engine.step()
        first = time.perf_counter()
        while engine.busy:
            engine.step()
        return first - begun, time.perf_counter() - first

    return {**rates(run), "resident": weights}


def _ignore(nbytes: int, detail: str) -> None:
    pass


def transformers(folder: Path, dtype: str) -> dict[str, Any]:
    import torch
    from transformers import AutoModelForCausalLM

    before = resident()
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, dtype)).eval()
    weights = resident() - before

    @torch.inference_mode()
    def run(batch: int) -> tuple[float, float]:
        tokens = torch.tensor(prompts(batch, model.config.vocab_size))
        begun = time.perf_counter()
        out = model(tokens, use_cache=True, logits_to_keep=1)
        new = out.logits[:, -1:].argmax(-1)
        first = time.perf_counter()
        for _ in range(ANSWER - 1):
            out = model(new, past_key_values=out.past_key_values, use_cache=True)
            new = out.logits[:, -1:].argmax(-1)
        return first - begun, time.perf_counter() - first

    return {**rates(run), "resident": weights}


def load(folder: Path, dtype: str) -> dict[str, Any]:
    """Loading, beside reading the same bytes into fresh memory with as many threads."""
    from dsdeploy.checkpoint.reader import open_checkpoint
    from dsdeploy.runner.load import LoadOptions, load_model

    checkpoint = open_checkpoint(folder)
    size = sum(shard.size for shard in checkpoint.shards)
    files = [shard.data.path for shard in checkpoint.shards]
    ours, plain = [], []
    for _ in range(RUNS + 1):
        begun = time.perf_counter()
        model = load_model(checkpoint, LoadOptions(dtype=dtype))
        ours.append(time.perf_counter() - begun)
        del model
        begun = time.perf_counter()
        with ThreadPoolExecutor(4) as threads:
            kept = list(threads.map(_read_whole, files))
        plain.append(time.perf_counter() - begun)
        del kept
    return {"load": size / median(ours[1:]), "read": size / median(plain[1:])}


def _read_whole(path: Path) -> bytearray:
    target = bytearray(path.stat().st_size)
    view = memoryview(target)
    with path.open("rb", buffering=0) as stream:
        while view:
            view = view[stream.readinto(view) :]
    return target


def offline(folder: Path, dtype: str, streams: str) -> dict[str, Any]:
    """Tokens/s of the engine alone with so many requests at once."""
    from dsdeploy.runner.request import Request, Sampling
    from dsdeploy.runner.start import Settings, start

    runner = start(folder, Settings(dtype=dtype), lambda nbytes: _ignore)
    assert runner is not None
    found = []
    for _ in range(4):
        sampling = Sampling(max_tokens=ANSWER, temperature=0, ignore_eos=True)
        for prompt in prompts(int(streams), runner.model.config.vocab_size):
            runner.engine.add(Request(tuple(prompt), sampling, lambda output: None))
        begun = time.perf_counter()
        while runner.engine.busy:
            runner.engine.step()
        found.append(int(streams) * ANSWER / (time.perf_counter() - begun))
    return {"tokens/s": median(found[1:])}


def client(folder: Path, address: str, streams: str) -> dict[str, Any]:
    """The same requests over HTTP, streamed, on plain sockets: a client costs cores as well."""
    from dsdeploy.checkpoint.reader import open_checkpoint

    vocabulary = open_checkpoint(folder).config.vocab_size
    host, _, port = address.removeprefix("http://").partition(":")

    async def ask(prompt: list[int]) -> None:
        body = {"prompt": prompt, "max_tokens": ANSWER, "temperature": 0, "ignore_eos": True}
        text = json.dumps({**body, "stream": True}).encode()
        head = f"POST /v1/completions HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n"
        head += f"Content-Type: application/json\r\nContent-Length: {len(text)}\r\n\r\n"
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(head.encode() + text)
        answer = await reader.read(-1)
        writer.close()
        if b"data: [DONE]" not in answer:
            raise SystemExit(f"an answer is not whole: {answer[:300]!r}")

    async def all_of_them() -> float:
        begun = time.perf_counter()
        await asyncio.gather(*(ask(prompt) for prompt in prompts(int(streams), vocabulary)))
        return int(streams) * ANSWER / (time.perf_counter() - begun)

    found = [asyncio.run(all_of_them()) for _ in range(4)]
    return {"tokens/s": median(found[1:])}


if __name__ == "__main__":
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    measures = {f.__name__: f for f in (native, transformers, load, offline, client)}
    what, folder, *rest = sys.argv[1:]
    print(json.dumps(measures[what](Path(folder), *rest)))
