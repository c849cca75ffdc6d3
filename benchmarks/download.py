"""What a download costs beside curl and the Hub's own client, from a Hub on loopback.

    python benchmarks/download.py [--work DIR] [--json FILE] [--quick] [--only NAME...]

Needs curl and about 12 GB of disk in --work, which must not be a tmpfs. Server and client share
this machine's cores. Each figure is a median of runs that alternate, of whole processes, imports
included; curl and the client have their files synced to the disk as ours are.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from measure import GB, MB, Run, machine, nbytes, run, settle, warm, weights
from report import Row, Target, document, markdown

HERE = Path(__file__).parent
DSDEPLOY = Path(sys.executable).parent / "dsdeploy"
REPOSITORY = "owner/model"
SHARDS = {"model": "500MB", "pieces": "125MB"}
LINK = 100_000_000
"""Bytes a second of the throttled link."""

CLIENT = """
import sys
from huggingface_hub import snapshot_download
snapshot_download(sys.argv[1], local_dir=sys.argv[2])
"""


@dataclass(frozen=True)
class Bench:
    work: Path
    source: Path
    hub: Hub
    repetitions: int

    def path(self, name: str) -> Path:
        return self.work / name

    @property
    def times(self) -> range:
        return range(self.repetitions)


@dataclass(frozen=True)
class Hub:
    process: subprocess.Popen[str]
    url: str

    def throttle(self, rate: int) -> None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{rate}\n")
        self.process.stdin.flush()
        self.process.stdout.readline()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--work", type=Path, default=Path("/var/tmp/dsdeploy-benchmark/download"))
    parser.add_argument("--json", type=Path, help="save the table there as well")
    parser.add_argument("--quick", action="store_true", help="one repetition, small inputs")
    parser.add_argument("--only", nargs="+", choices=list(SECTIONS), default=list(SECTIONS))
    arguments = parser.parse_args()
    work = arguments.work.resolve()
    work.mkdir(parents=True, exist_ok=True)
    sources = [_source(work / name, size, arguments.quick) for name, size in SHARDS.items()]
    os.environ |= {"HF_HOME": str(work / "home"), "HF_HUB_DISABLE_XET": "1"}
    try:
        with serving(sources) as hub:
            os.environ["HF_ENDPOINT"] = hub.url
            bench = Bench(work, sources[0], hub, 1 if arguments.quick else 3)
            rows = [row for name in arguments.only for row in SECTIONS[name](bench)]
    finally:
        shutil.rmtree(work)
    facts = machine(work.parent)
    print(markdown(facts, rows))
    if arguments.json:
        arguments.json.write_text(json.dumps(document(facts, rows), indent=2) + "\n")


def _source(folder: Path, shard_size: str, quick: bool) -> Path:
    """True dimensions, few experts: 2 GB."""
    fields = ["num_nextn_predict_layers=0", "vocab_size=4096", "num_experts_per_tok=4"]
    fields += [f"n_routed_experts={8 if quick else 24}"]
    options = [word for field in fields for word in ("--set", field)]
    run(DSDEPLOY, "synth", folder, "--preset", "slice", *options, "--shard-size", shard_size)
    return folder


@contextmanager
def serving(folders: list[Path]) -> Iterator[Hub]:
    words = [sys.executable, str(HERE / "hub_server.py"), *map(str, folders)]
    with subprocess.Popen(words, stdin=-1, stdout=-1, text=True) as process:
        try:
            assert process.stdout is not None
            yield Hub(process, process.stdout.readline().strip())
        finally:
            process.terminate()


def full_speed(bench: Bench) -> Iterator[Row]:
    warm(weights(bench.source))
    ours, curls, clients = [], [], []
    for _ in bench.times:
        ours.append(_download(bench))
        curls.append(_curl(bench))
        clients.append(_client(bench))
    size = nbytes(weights(bench.source))
    how = f"{size / GB:.2f} GB in {len(weights(bench.source))} shards, hashed and synced"
    yield Row("download", _rate(size, ours), "MB/s", None, how)
    yield Row("curl --parallel, then sync", _rate(size, curls), "MB/s", None, "nothing hashed")
    how = "snapshot_download, then sync; nothing hashed"
    yield Row("the Hub's own client", _rate(size, clients), "MB/s", None, how)
    yield Row("download / curl", _ratio(curls, ours), "%", Target(">=", 80))
    yield Row("download / the Hub's own client", _ratio(clients, ours), "%", Target(">=", 80))
    peak = max(one.peak for one in ours)
    yield Row("peak memory of download", peak / MB, "MB", Target("<", 300))


def throttled(bench: Bench) -> Iterator[Row]:
    bench.hub.throttle(LINK)
    ours, curls = [], []
    for _ in range(1):
        ours.append(_download(bench))
        curls.append(_curl(bench))
    bench.hub.throttle(0)
    size = nbytes(weights(bench.source))
    yield Row("curl over a link of 100 MB/s", _rate(size, curls), "MB/s", None, "then sync")
    yield Row("download over it", _rate(size, ours), "MB/s", None, "hashed and synced")
    yield Row("download / curl over it", _ratio(curls, ours), "%", Target(">=", 95))


def conversions(bench: Bench) -> Iterator[Row]:
    """In V3's proportion of what is read (4.3 GB) and made (5 GB), an output reads one or two
    shards; an output larger than all of them cannot be finished before the last has come."""
    yield from _conversions(bench, bench.path("pieces"), "145MB")
    yield from _conversions(bench, bench.source, "5GB")


def _conversions(bench: Bench, source: Path, shard_size: str) -> Iterator[Row]:
    local, remote = [], []
    for _ in bench.times:
        warm(weights(source))
        local.append(_convert(bench, str(source), shard_size))
        warm(weights(source))
        remote.append(_convert(bench, f"hf://owner/{source.name}", shard_size))
    size = 2 * nbytes(weights(source))
    what = f"{len(weights(source))} shards to outputs of {shard_size}"
    yield Row("convert a folder", _rate(size, local), "MB/s", None, f"{what}, BF16, checked")
    yield Row("convert hf://", _rate(size, remote), "MB/s", None, "the same from the Hub")
    pairs = zip(remote, local, strict=True)
    ratio = median(one.seconds / other.seconds for one, other in pairs)
    yield Row("convert hf:// / convert a folder", ratio, "x", Target("<=", 1.3))
    peak = max(one.peak for one in remote)
    yield Row("peak memory of convert hf://", peak / MB, "MB", Target("<", 300))


SECTIONS: dict[str, Callable[[Bench], Iterator[Row]]] = {
    "speed": full_speed,
    "link": throttled,
    "convert": conversions,
}


# One measurement each.


def _download(bench: Bench) -> Run:
    return _measured(bench, DSDEPLOY, "download", REPOSITORY, "--to", bench.path("out"))


def _client(bench: Bench) -> Run:
    out = bench.path("out")
    return _measured(bench, sys.executable, "-c", CLIENT, REPOSITORY, out, sync=out)


def _curl(bench: Bench) -> Run:
    out = bench.path("out")
    base = f"{bench.hub.url}/{REPOSITORY}/resolve/main"
    words = ["--silent", "--fail", "--location", "--parallel", "--create-dirs"]
    for path in weights(bench.source):
        words += ["-o", str(out / path.name), f"{base}/{path.name}"]
    return _measured(bench, "curl", *words, sync=out)


def _convert(bench: Bench, source: str, shard_size: str) -> Run:
    size = ("--max-shard-size", shard_size)
    return _measured(bench, DSDEPLOY, "convert", source, bench.path("out"), *size)


def _measured(bench: Bench, *words: str | Path, sync: Path | None = None) -> Run:
    settle()
    child = run(*words)
    seconds = child.seconds
    if sync is not None:
        seconds += run("sync", *weights(sync)).seconds
    print(f"{Path(words[0]).name} {words[1]}: {seconds:.1f} s", file=sys.stderr, flush=True)
    shutil.rmtree(bench.path("out"))
    return Run(seconds, child.peak, child.output)


def _rate(size: int, runs: list[Run]) -> float:
    return size / median(one.seconds for one in runs) / MB


def _ratio(theirs: list[Run], ours: list[Run]) -> float:
    """Per cent of their speed that is ours."""
    return 100 * median(a.seconds / b.seconds for a, b in zip(theirs, ours, strict=True))


if __name__ == "__main__":
    main()
