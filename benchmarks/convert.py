"""What the conversion costs: arithmetic, disk, memory and planning, beside what it competes with.

    python benchmarks/convert.py [--work DIR] [--json FILE] [--quick] [--keep] [--only NAMES]

Needs the `native` extra (torch is the baseline), GNU cp and sync, and about 15 GB of disk in
--work, which must not be a tmpfs. Each figure is a median; what is compared alternates, from
files that are in the same state: dropped from the page cache, or read into it. A child's time is
that of its whole process, imports included, on both sides.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from measure import GB, MB, Run, drop, machine, nbytes, run, settle, warm, weights
from report import Row, Target, document, markdown

HERE = Path(__file__).parent
DSDEPLOY = Path(sys.executable).parent / "dsdeploy"
V3_AS_BF16 = 1_368_979_721_216
RANKS = 8
SPACE = 15e9


@dataclass(frozen=True)
class Bench:
    work: Path
    repetitions: int
    experts: int
    """Of the slice's one mixture-of-experts layer; each is 44 MB of FP8."""
    slice_settings: tuple[str, ...]
    """Of the checkpoint that `synth` is measured on."""

    def path(self, name: str) -> Path:
        return self.work / name

    @property
    def times(self) -> range:
        return range(self.repetitions)


def main() -> None:
    arguments = _arguments()
    bench = _bench(arguments)
    bench.work.mkdir(parents=True, exist_ok=True)
    if shutil.disk_usage(bench.work).free < SPACE:
        raise SystemExit(
            f"{bench.work} has less than {SPACE / GB:.0f} GB free: give another --work."
        )
    rows = []
    try:
        _warm_up(bench)
        for name in arguments.only:
            say(f"== {name}")
            rows += list(SECTIONS[name](bench))
    finally:
        _clean(bench, arguments.keep)
    facts = machine(bench.work.parent)
    print(markdown(facts, rows))
    if arguments.json:
        arguments.json.write_text(json.dumps(document(facts, rows), indent=2) + "\n")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--work", type=Path, default=Path("/var/tmp/dsdeploy-benchmark"))
    parser.add_argument("--json", type=Path, help="save the table there as well")
    parser.add_argument("--quick", action="store_true", help="one repetition, small inputs")
    parser.add_argument("--keep", action="store_true", help="leave the inputs for the next run")
    parser.add_argument("--only", type=_names, default=list(SECTIONS), help=", ".join(SECTIONS))
    return parser.parse_args()


def _names(text: str) -> list[str]:
    names = text.split(",")
    if unknown := set(names) - set(SECTIONS):
        raise argparse.ArgumentTypeError(f"{', '.join(unknown)}: one of {', '.join(SECTIONS)}")
    return names


def _bench(arguments: argparse.Namespace) -> Bench:
    work = arguments.work.resolve()
    if arguments.quick:
        return Bench(work / "quick", 1, 8, ("--set", "num_nextn_predict_layers=0"))
    return Bench(work / "full", 3, 24, ())


# Each section measures, and yields rows.


def kernel_rows(bench: Bench) -> Iterator[Row]:
    passes = 40 if bench.repetitions == 1 else 300
    child = run(sys.executable, HERE / "kernel.py", str(passes))
    rate = json.loads(child.output)
    how = f"2048 x 7168, one core, into a reused window of 16 MiB; median of {passes} passes"
    share = 100 * rate["dequantise"] / rate["copy"]
    yield Row(
        "FP8 → BF16, arithmetic", rate["dequantise"], "GB/s", Target(">=", 5), f"{how}; output"
    )
    yield Row("np.copyto of the same output", rate["copy"], "GB/s", None, "same core, same window")
    yield Row("arithmetic / copy", share, "%", Target(">=", 40))
    yield Row("BF16 → FP8, arithmetic", rate["quantise"], "GB/s", None, "of BF16 read; one core")
    yield Row("FP8 → BF16 in torch", rate["torch"], "GB/s", None, "one core; same bits as dsdeploy")


def end_to_end_rows(bench: Bench) -> Iterator[Row]:
    source = slice_of(bench)
    cold = [_convert_and_copy(bench, source, drop) for _ in bench.times]
    hot = [_convert_and_copy(bench, source, warm) for _ in bench.times]
    checked = [_convert(bench, source, drop) for _ in bench.times]
    size = cold[0].size
    yield from _pair_rows("source not in the page cache", cold)
    yield from _pair_rows("source in the page cache", hot)
    seconds = median(one.seconds for one in checked)
    yield Row("the same with the final check", seconds, "s", None, _rate(size, seconds))
    peak = max(pair.conversion.peak for pair in [*cold, *hot])
    how = f"{_input(source)}; the largest of {2 * len(cold)} runs"
    yield Row("peak memory, the slice", peak / MB, "MB", Target("<", 400), how)


def cast_rows(bench: Bench) -> Iterator[Row]:
    """The demo's cast, slower by far, on a smaller checkpoint of the same shapes."""
    sample = synth(bench, "sample", 8, *_only_moe())
    theirs, ours = [], []
    for _ in bench.times:
        conversion = _convert(bench, sample, drop, "--no-check")
        ours.append(conversion.seconds)
        theirs.append(_baseline(bench, sample, "cast"))
    size = nbytes(weights(sample)) * 2
    seconds = median(child.seconds for child in theirs)
    how = f"{_input(sample)}: one layer, 8 experts; fsync; {_rate(size, seconds)}"
    yield Row("the demo's cast in torch on the CPU", seconds, "s", None, how)
    how = f"the same sample, whole process; {_rate(size, median(ours))}"
    yield Row("dsdeploy", median(ours), "s", None, how)
    ratio = median(child.seconds / one for child, one in zip(theirs, ours, strict=True))
    yield Row("the demo's cast / dsdeploy", ratio, "x", Target(">=", 20))
    peak = max(child.peak for child in theirs)
    yield Row("peak memory of the demo's cast", peak / MB, "MB", None, "the sample is one shard")


def ranks_rows(bench: Bench) -> Iterator[Row]:
    source = slice_of(bench)
    demo = ("--to", "same", "--layout", "demo", "--ranks", str(RANKS), "--no-check")
    ours, theirs = [], []
    for _ in bench.times:
        ours.append(_convert(bench, source, drop, *demo, keep="ours"))
        theirs.append(_baseline(bench, source, "ranks", str(RANKS), str(bench.experts), keep=True))
        _require_same(bench.path("ours"), bench.path("theirs"))
        remove(bench.path("ours"), bench.path("theirs"))
    how = f"{_input(source)}, {RANKS} ranks, fsync, source not in the page cache"
    yield Row("demo layout", median(one.seconds for one in ours), "s", None, how)
    how = "torch, whole process; the files are equal, byte for byte"
    yield Row("the demo's convert.py", median(one.seconds for one in theirs), "s", None, how)
    ratio = median(our.seconds / their.seconds for our, their in zip(ours, theirs, strict=True))
    yield Row("demo layout / convert.py", ratio, "x", Target("<=", 1))
    yield Row(
        "peak memory, demo layout", max(one.peak for one in ours) / MB, "MB", Target("<", 400)
    )
    peak = max(one.peak for one in theirs)
    yield Row("peak memory, convert.py", peak / MB, "MB", None, "mapped file pages included")


def plan_rows(bench: Bench) -> Iterator[Row]:
    """The full model: hollow, so that it takes no disk."""
    hollow = hollow_v3(bench)
    target = bench.path("of-hollow")
    plans = [run(DSDEPLOY, "convert", hollow, target, "--dry-run", "--json") for _ in bench.times]
    answer = json.loads(plans[0].output)
    how = f"{len(weights(hollow))} shards of headers; convert --dry-run"
    seconds = median(plan.seconds for plan in plans)
    yield Row("planning the full 671 B", seconds, "s", Target("<", 10), how)
    yield Row("peak memory of it", max(plan.peak for plan in plans) / MB, "MB", Target("<", 400))
    planned = Target("=", V3_AS_BF16)
    yield Row("tensor bytes planned", answer["tensor_bytes"], "bytes", planned)
    part = _one_part(hollow, target, len(answer["files"]))
    size = nbytes(target.rglob("*.safetensors"))
    remove(target)
    how = f"one of {len(answer['files'])} parts: {size / GB:.2f} GB written"
    yield Row("peak memory, a part of 671 B", part.peak / MB, "MB", Target("<", 400), how)


def command_rows(bench: Bench) -> Iterator[Row]:
    helps = [run(DSDEPLOY, "--help").seconds for _ in range(10)]
    yield Row("dsdeploy --help", median(helps), "s", Target("<", 0.2), "median of 10")
    runs = []
    for _ in bench.times:
        settle()
        target = bench.path("synth")
        runs.append(run(DSDEPLOY, "synth", target, "--preset", "slice", *bench.slice_settings))
        size = nbytes(weights(target))
        remove(target)
    peak = max(one.peak for one in runs)
    yield Row("peak memory, synth", peak / MB, "MB", Target("<", 300), f"slice, {size / GB:.2f} GB")
    rate = size / median(one.seconds for one in runs) / MB
    yield Row("synth", rate, "MB/s", None, "with fsync")


SECTIONS: dict[str, Callable[[Bench], Iterator[Row]]] = {
    "kernel": kernel_rows,
    "end-to-end": end_to_end_rows,
    "cast": cast_rows,
    "ranks": ranks_rows,
    "plan": plan_rows,
    "commands": command_rows,
}


# The inputs.


def slice_of(bench: Bench) -> Path:
    """One dense and one mixture-of-experts layer of true dimensions in one shard of 2 GB."""
    return synth(bench, "slice", bench.experts)


def hollow_v3(bench: Bench) -> Path:
    folder = bench.path("hollow")
    if not folder.exists():
        run(DSDEPLOY, "synth", folder, "--preset", "v3", "--hollow", "--shard-size", "4.27GB")
    return folder


def synth(bench: Bench, name: str, experts: int, *settings: str) -> Path:
    """Made once; a second call finds it complete."""
    folder = bench.path(name)
    fields = ["num_nextn_predict_layers=0", "vocab_size=4096", f"n_routed_experts={experts}"]
    fields += ["num_experts_per_tok=4", *settings]
    options = [word for field in fields for word in ("--set", field)]
    say(f"making {name}")
    run(DSDEPLOY, "synth", folder, "--preset", "slice", *options, "--shard-size", "4.3GB")
    return folder


def _only_moe() -> tuple[str, ...]:
    return "num_hidden_layers=1", "first_k_dense_replace=0"


# One measurement each.


@dataclass(frozen=True)
class Pair:
    conversion: Run
    copy_seconds: float
    size: int

    @property
    def ratio(self) -> float:
        return self.conversion.seconds / self.copy_seconds


def _convert_and_copy(bench: Bench, source: Path, prepare: Callable[..., None]) -> Pair:
    """A conversion, then a copy of its output, from files in the same state of the page cache."""
    conversion = _convert(bench, source, prepare, "--no-check", keep="ours")
    files, copy = weights(bench.path("ours")), bench.path("copy")
    copy.mkdir()
    settle()
    prepare(files)
    seconds = run("cp", "--reflink=never", *files, copy).seconds
    seconds += run("sync", *weights(copy)).seconds
    size = nbytes(files)
    say(f"convert {conversion.seconds:.1f} s, cp and sync {seconds:.1f} s, {size / GB:.2f} GB")
    remove(bench.path("ours"), copy)
    return Pair(conversion, seconds, size)


def _convert(
    bench: Bench, source: Path, prepare: Callable[..., None], *options: str, keep: str = ""
) -> Run:
    target = bench.path(keep or "ours")
    settle()
    prepare(weights(source))
    child = run(DSDEPLOY, "convert", source, target, *options)
    say(f"convert {' '.join(options)} {child.seconds:.1f} s, {child.peak / MB:.0f} MB")
    if not keep:
        remove(target)
    return child


def _baseline(bench: Bench, source: Path, what: str, *numbers: str, keep: bool = False) -> Run:
    target = bench.path("theirs")
    settle()
    drop(weights(source))
    child = run(sys.executable, HERE / "baselines.py", what, source, target, *numbers)
    say(f"torch {what} {child.seconds:.1f} s, {child.peak / MB:.0f} MB")
    if not keep:
        remove(target)
    return child


# All parts share a target, so the first asks for the space of all; here there is only one.
_PART = """
from dsdeploy.building import staging
from dsdeploy.cli.main import main
staging.require_space = lambda *_: None
main()
"""


def _one_part(hollow: Path, target: Path, parts: int) -> Run:
    part = ("--part", f"1/{parts}", "--no-check")
    say(f"one part of {parts}")
    return run(sys.executable, "-c", _PART, "convert", hollow, target, *part)


def _require_same(ours: Path, theirs: Path) -> None:
    for path in weights(theirs):
        run("cmp", path, ours / path.name)


def _pair_rows(state: str, pairs: list[Pair]) -> Iterator[Row]:
    size = pairs[0].size
    seconds = median(pair.conversion.seconds for pair in pairs)
    how = f"{state}; fsync, --no-check, {_rate(size, seconds)}"
    yield Row("FP8 → BF16, end to end", seconds, "s", None, how)
    seconds = median(pair.copy_seconds for pair in pairs)
    how = f"{state}; {_rate(size, seconds)}"
    yield Row("cp of the output, and sync", seconds, "s", None, how)
    ratio = median(pair.ratio for pair in pairs)
    how = f"median of {len(pairs)} pairs that alternate"
    yield Row("conversion / cp and sync", ratio, "x", Target("<=", 1), how)


def _rate(size: int, seconds: float) -> str:
    return f"{size / GB:.2f} GB out, {size / GB / seconds:.2f} GB/s"


def _input(source: Path) -> str:
    return f"{nbytes(weights(source)) / GB:.2f} GB of FP8"


# The rest.


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def remove(*folders: Path) -> None:
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)


def _warm_up(bench: Bench) -> None:
    """A first conversion compiles the kernels, for all later processes."""
    tiny, target = bench.path("tiny"), bench.path("tiny-bf16")
    run(DSDEPLOY, "synth", tiny)
    run(DSDEPLOY, "convert", tiny, target)
    remove(target)


def _clean(bench: Bench, keep: bool) -> None:
    remove(*(bench.path(name) for name in ("ours", "theirs", "copy", "of-hollow", "synth")))
    if not keep:
        remove(bench.work)


if __name__ == "__main__":
    main()
