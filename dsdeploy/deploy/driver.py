"""Is NVIDIA's driver new enough for an engine?

A driver runs what was built for its own CUDA or an older one, and within a major release also a newer
one, without its new features. What was built for a later major release does not start (NVIDIA, CUDA
Compatibility: minor version compatibility).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Fit = Literal["full", "limited", "none"]

_BUILT_FOR: Mapping[str, tuple[str, str]] = {
    "vllm": ("0.33.0", "13.0"),
    "sglang": ("0.5.23", "13.0"),
    "tensorrt-llm": ("1.3", "13.0"),
}
"""The first release that is known to be built for a CUDA, and that CUDA. vLLM's and SGLang's wheels
say it in what they require, TensorRT-LLM in its installation guide."""
_LEAST_DRIVERS = {11: 450, 12: 525, 13: 580}


@dataclass(frozen=True)
class Driver:
    release: str
    """580.65.06"""
    cuda: str
    """The newest that it runs: 13.0."""


def read_driver() -> Driver | None:
    """Of this machine, by NVML; None where none answers."""
    import pynvml

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return None
    try:
        cuda = pynvml.nvmlSystemGetCudaDriverVersion()
        release = pynvml.nvmlSystemGetDriverVersion()
    except pynvml.NVMLError:
        return None
    finally:
        pynvml.nvmlShutdown()
    return Driver(release, f"{cuda // 1000}.{cuda % 1000 // 10}")


def built_for(backend: str, release: str | None) -> str:
    """The CUDA of an engine's release, None being the newest; empty where nobody can tell. A wheel of
    another CUDA than the usual one carries it in its name: 0.33.0+cu129."""
    if told := re.search(r"\+cu(\d+)(\d)$", release or ""):
        return f"{told[1]}.{told[2]}"
    first, cuda = _BUILT_FOR.get(backend, ("", ""))
    known = cuda and (release is None or _numbers(release) >= _numbers(first))
    return cuda if known else ""


def fit(built: str, cuda: str) -> Fit:
    """Of what is built for one CUDA on a driver that runs another."""
    wanted, given = _numbers(built), _numbers(cuda)
    if wanted <= given:
        return "full"
    return "limited" if wanted[0] == given[0] else "none"


def newer_driver(built: str) -> str:
    """The command that installs the least driver for this CUDA."""
    least = _LEAST_DRIVERS.get(_numbers(built)[0], max(_LEAST_DRIVERS.values()))
    return f"sudo apt install nvidia-driver-{least}-server-open, then reboot"


def _numbers(release: str) -> tuple[int, ...]:
    """0.33.0rc1+cu129 -> (0, 33, 0)"""
    found = re.match(r"\d+(\.\d+)*", release)
    return tuple(map(int, found[0].split("."))) if found else (0,)
