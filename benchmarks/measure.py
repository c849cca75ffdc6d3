"""Child processes with their wall time and peak memory, the page cache, and what this machine is."""

from __future__ import annotations

import os
import platform
import subprocess
import tempfile
import time
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

MB = 1e6
GB = 1e9

_FEATURES = ("avx2", "avx512f", "avx512vbmi", "sha_ni", "asimd", "sve", "sha2")


@dataclass(frozen=True)
class Run:
    """One child process, from its start to its end."""

    seconds: float
    peak: int
    """Bytes: the largest resident set, mapped file pages included."""
    output: str


class ChildError(Exception):
    """A measured command failed; the message holds what it said."""


def run(*argv: str | Path) -> Run:
    """Run to the end. The caller must be small: until exec, a child counts its parent's pages as
    its own, and the kernel remembers that as the child's peak."""
    words = [str(word) for word in argv]
    with tempfile.TemporaryFile("w+") as errors:
        start = time.perf_counter()
        with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=errors, text=True) as child:
            output = child.stdout.read() if child.stdout else ""
            _, status, usage = os.wait4(child.pid, 0)
            seconds = time.perf_counter() - start
            child.returncode = os.waitstatus_to_exitcode(status)
        if child.returncode != 0:
            errors.seek(0)
            raise ChildError(f"{' '.join(words)}: exit {child.returncode}\n{errors.read()}{output}")
    return Run(seconds, usage.ru_maxrss * 1024, output)


def settle() -> None:
    """Let no earlier write run into the next measurement."""
    os.sync()


def drop(files: Iterable[Path]) -> None:
    """Put files out of the page cache; only pages that are on the disk can go."""
    for path in files:
        with path.open("rb") as stream:
            os.fsync(stream.fileno())
            os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def warm(files: Iterable[Path]) -> None:
    """Read files into the page cache."""
    buffer = bytearray(1 << 20)
    for path in files:
        with path.open("rb", buffering=0) as stream:
            while stream.readinto(buffer):
                pass


def weights(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.safetensors"))


def nbytes(files: Iterable[Path]) -> int:
    return sum(path.stat().st_size for path in files)


def machine(work: Path) -> dict[str, str]:
    """Facts that a figure means nothing without."""
    cpu = _fields("/proc/cpuinfo")
    features = (cpu.get("flags") or cpu.get("Features") or "").split()
    memory = int(_fields("/proc/meminfo").get("MemTotal", "0 kB").split()[0]) * 1024
    return {
        "date": time.strftime("%Y-%m-%d"),
        "cpu": cpu.get("model name") or platform.processor() or platform.machine(),
        "cores": str(len(os.sched_getaffinity(0))),
        "simd": " ".join(name for name in _FEATURES if name in features),
        "memory": f"{memory / GB:.1f} GB",
        "kernel": f"{platform.system()} {platform.release()}",
        "file system": _file_system(work),
        "python": platform.python_version(),
        **{name: version(name) for name in ("numpy", "numba", "torch", "safetensors", "dsdeploy")},
    }


def _fields(path: str) -> dict[str, str]:
    """The first value of each `key : value` line."""
    found: dict[str, str] = {}
    try:
        text = Path(path).read_text()
    except OSError:
        return found
    for line in text.splitlines():
        key, _, value = line.partition(":")
        found.setdefault(key.strip(), value.strip())
    return found


def _file_system(folder: Path) -> str:
    """`ext4 on /dev/vda`: the mount with the longest path above the folder."""
    lines = [line.split() for line in Path("/proc/self/mounts").read_text().splitlines()]
    above = [line for line in lines if folder.resolve().is_relative_to(line[1])]
    device, _, kind, *_ = max(above, key=lambda line: len(line[1]))
    return f"{kind} on {device}"
