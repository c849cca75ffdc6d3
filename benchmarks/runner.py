"""What the native runner does in a second, beside transformers and vLLM on the same checkpoint.

    python benchmarks/runner.py [--work DIR] [--json FILE] [--only NAMES] [--vllm PYTHON]

Needs the `native` and `test` extras and about 9 GB of disk in --work. Each measurement is a
process of its own, one after the other; figures are medians of its runs. `--vllm` names the Python
of an environment with vLLM's CPU build, which is started and asked over HTTP; without it that
comparison is left out.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

from engine_decode import measure
from measure import GB, MB, machine, nbytes, run, settle, warm, weights
from report import Row, Target, document, markdown
from runner_child import PROMPT, prompts

HERE = Path(__file__).parent
DSDEPLOY = Path(sys.executable).parent / "dsdeploy"
STREAMS = 64
MODEL = {
    "hidden_size": 1024,
    "num_hidden_layers": 8,
    "moe_intermediate_size": 512,
    "intermediate_size": 2816,
    "num_attention_heads": 8,
    "q_lora_rank": 512,
    "vocab_size": 4096,
    "num_nextn_predict_layers": 0,
}
LARGE = MODEL | {"n_routed_experts": 256, "n_group": 8, "topk_group": 4, "num_experts_per_tok": 8}
LARGE |= {"moe_intermediate_size": 1024}


def main() -> None:
    arguments = _arguments()
    work = arguments.work.resolve()
    work.mkdir(parents=True, exist_ok=True)
    rows = []
    for name in arguments.only:
        print(f"== {name}", file=sys.stderr)
        for row in SECTIONS[name](work, arguments):
            print(f"   {row.what}: {row.figure:,.2f} {row.unit}", file=sys.stderr)
            rows.append(row)
    facts = machine(work)
    print(markdown(facts, rows))
    if arguments.json:
        arguments.json.write_text(json.dumps(document(facts, rows), indent=2) + "\n")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--work", type=Path, default=Path("/var/tmp/dsdeploy-benchmark/runner"))
    parser.add_argument("--json", type=Path, help="save the table there as well")
    parser.add_argument("--only", type=lambda text: text.split(","), default=list(SECTIONS))
    parser.add_argument("--vllm", help="Python of an environment with vLLM for the CPU")
    return parser.parse_args()


def checkpoint(work: Path, precision: str, settings: dict[str, int], name: str) -> Path:
    folder = work / f"{name}-{precision}"
    if not folder.exists():
        fields = [part for item in settings.items() for part in ("--set", "{}={}".format(*item))]
        run(DSDEPLOY, "synth", folder, "--precision", precision, *fields)
    warm(weights(folder))
    settle()
    return folder


def child(what: str, folder: Path, *rest: object) -> dict[str, Any]:
    answer = run(sys.executable, HERE / "runner_child.py", what, folder, *map(str, rest))
    found: dict[str, Any] = json.loads(answer.output.splitlines()[-1])
    return found


def speed_rows(work: Path, arguments: argparse.Namespace) -> Iterator[Row]:
    folder = checkpoint(work, "bf16", MODEL, "model")
    how = f"{nbytes(weights(folder)) / MB:.0f} MB of BF16, {PROMPT} tokens in, 64 out"
    for dtype in ("float32", "bfloat16"):
        ours, theirs = child("native", folder, dtype), child("transformers", folder, dtype)
        for batch in (1, 8):
            for what, least in (("decode", 3), ("prefill", 1)):
                name, key = f"{what}, {dtype}, batch {batch}", f"{what} {batch}"
                yield Row(name, ours[key], "tokens/s", None, how)
                yield Row("transformers", theirs[key], "tokens/s", None, "the same")
                ratio = ours[key] / theirs[key]
                yield Row(f"{what} / transformers", ratio, "x", Target(">=", least))


def fp8_rows(work: Path, arguments: argparse.Namespace) -> Iterator[Row]:
    kept = {
        p: child("native", checkpoint(work, p, MODEL, "model"), "auto") for p in ("bf16", "fp8")
    }
    for batch in (1, 8):
        key = f"decode {batch}"
        for precision, rates in kept.items():
            yield Row(f"decode, {precision}, batch {batch}", rates[key], "tokens/s")
        yield Row("fp8 / bf16", kept["fp8"][key] / kept["bf16"][key], "x", Target(">=", 1))
    yield Row("prefill, fp8, batch 1", kept["fp8"]["prefill 1"], "tokens/s")
    memory = {precision: rates["resident"] for precision, rates in kept.items()}
    how = f"{memory['fp8'] / MB:.0f} MB against {memory['bf16'] / MB:.0f}, what loading adds"
    yield Row("memory of FP8 / BF16", memory["fp8"] / memory["bf16"], "x", Target("<=", 0.55), how)


def vllm_rows(work: Path, arguments: argparse.Namespace) -> Iterator[Row]:
    """Nothing without --vllm."""
    if not arguments.vllm:
        return
    folder = checkpoint(work, "bf16", MODEL, "model")
    questions = prompts(5, MODEL["vocab_size"])
    for dtype in ("float32", "bfloat16"):
        ours = child("native", folder, dtype)["decode 1"]
        with vllm(work, folder, arguments.vllm, dtype) as address:
            rate = measure(address, "model", questions, 64)
        yield Row(f"vLLM's CPU build, {dtype}, batch 1", rate, "tokens/s", None, "decode, HTTP")
        yield Row("decode / vLLM", ours / rate, "x", Target(">=", 1))


@contextmanager
def vllm(work: Path, folder: Path, python: str, dtype: str) -> Iterator[str]:
    port = 18231
    command = [Path(python).parent / "vllm", "serve", folder, "--served-model-name", "model"]
    command += ["--host", "127.0.0.1", "--port", port, "--max-model-len", 2048]
    command += ["--dtype", dtype]
    settings = {"VLLM_CPU_KVCACHE_SPACE": "1", "HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1"}
    if dtype == "float32":  # compiling it takes two minutes and gains nothing that shows
        command.append("--enforce-eager")
        settings["TORCH_COMPILE_DISABLE"] = "1"
    environment = os.environ | settings
    with serving(work, command, environment, f"http://127.0.0.1:{port}/health") as address:
        yield address.removesuffix("/health")


@contextmanager
def serving(
    work: Path, command: list[Any], environment: dict[str, str], health: str
) -> Iterator[str]:
    """A server in a process group of its own, from its first healthy answer on."""
    from urllib.request import urlopen

    with (work / "server.log").open("w") as log:
        process = subprocess.Popen(
            [str(word) for word in command],
            env=environment,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            for _ in range(600):
                try:
                    urlopen(health, timeout=1).close()
                    break
                except OSError:
                    if process.poll() is not None:
                        raise SystemExit(f"the server has ended: see {log.name}") from None
                    time.sleep(0.5)
            yield health
        finally:
            os.killpg(process.pid, signal.SIGTERM)
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)


def loading_rows(work: Path, arguments: argparse.Namespace) -> Iterator[Row]:
    for precision in ("bf16", "fp8"):
        found = child("load", checkpoint(work, precision, MODEL, "model"), "auto")
        yield Row(f"loading, {precision}", found["load"] / GB, "GB/s", None, "from the page cache")
        yield Row("reading the files", found["read"] / GB, "GB/s", None, "4 threads, fresh memory")
        ratio = found["load"] / found["read"]
        yield Row("loading / reading", ratio, "x", Target(">=", 0.8))


def start_rows(work: Path, arguments: argparse.Namespace) -> Iterator[Row]:
    tiny = checkpoint(work, "fp8", {}, "tiny")
    command = (DSDEPLOY, "generate", tiny, "hello", "--max-tokens", "1", "-q")
    run(*command)
    seconds = median(run(*command).seconds for _ in range(5))
    yield Row("start to first token", seconds, "s", Target("<", 5), "tiny, whole process")


def server_rows(work: Path, arguments: argparse.Namespace) -> Iterator[Row]:
    folder = checkpoint(work, "fp8", MODEL, "model")
    offline = child("offline", folder, "fp8", STREAMS)["tokens/s"]
    port = 18232
    command = [DSDEPLOY, "serve", folder, "--port", port]
    with serving(work, command, dict(os.environ), f"http://127.0.0.1:{port}/health") as health:
        served = child("client", folder, health.removesuffix("/health"), STREAMS)["tokens/s"]
    how = f"{STREAMS} requests at once, {PROMPT} tokens in, 64 out"
    yield Row("engine alone", offline, "tokens/s", None, how)
    yield Row("over HTTP, streamed", served, "tokens/s", None, "the client runs on the same cores")
    yield Row("server / engine", 100 * served / offline, "%", Target(">=", 90))


def streaming_rows(work: Path, arguments: argparse.Namespace) -> Iterator[Row]:
    folder = checkpoint(work, "fp8", LARGE, "large")
    size = nbytes(weights(folder)) / GB
    begun = run(
        DSDEPLOY, "generate", folder, "a question", "--max-tokens", 16, "--ignore-eos",
        "--expert-memory", "800MB", "--cache-memory", "64MB", "--context", 1024,
    )  # fmt: skip
    how = f"{size:.1f} GB of FP8, --expert-memory 800MB, 16 tokens, {begun.seconds:.1f} s"
    yield Row("peak memory, streamed experts", begun.peak / MB, "MB", Target("<", 2000), how)


SECTIONS = {
    "speed": speed_rows,
    "fp8": fp8_rows,
    "vllm": vllm_rows,
    "loading": loading_rows,
    "start": start_rows,
    "server": server_rows,
    "streaming": streaming_rows,
}

if __name__ == "__main__":
    main()
