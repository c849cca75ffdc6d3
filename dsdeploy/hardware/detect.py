"""This machine as a profile: what NVML, amd-smi or npu-smi report, or the processor itself.

A chip is known by the name its driver gives it (`reported_as` in the accelerators' profiles). Of a
processor, memory rate and arithmetic are measured, for a second in all.
"""

from __future__ import annotations

import platform
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil

from dsdeploy.errors import DeployError
from dsdeploy.hardware.profile import Accelerator, Disk, Link, Machine
from dsdeploy.hardware.profiles import parse_accelerator, parsed
from dsdeploy.hardware.tools import json_of, output_of
from dsdeploy.units import format_bytes

_DISK_RATE = 10**9
"""Assumed: measuring it honestly would mean reading gigabytes."""


@dataclass(frozen=True)
class Device:
    name: str
    """As its driver gives it."""
    memory: int


def detect(folder: Path) -> Machine:
    """This machine; `folder` is on the disk where models lie. Raises DeployError for accelerators
    that no profile knows."""
    devices = next((found for found in map(_asked, _PROBES) if found), [])
    return _with_accelerators(devices, folder) if devices else _of_processor(folder)


def _asked(probe: Callable[[], Iterator[Device]]) -> list[Device]:
    """What makes no sense is no answer."""
    try:
        return list(probe())
    except (AttributeError, LookupError, TypeError, ValueError):
        return []


def _with_accelerators(devices: list[Device], folder: Path) -> Machine:
    kinds = Counter(device.name for device in devices)
    name, count = kinds.most_common(1)[0]
    same = [device for device in devices if device.name == name]
    chip = _known(name)
    # A driver's total may hold more than a program gets of it.
    total = min(device.memory for device in same)
    chip = chip.model_copy(update={"usable_memory": min(total, chip.usable_memory or total)})
    others = "".join(f"; left out: {n} x {other}" for other, n in kinds.items() if other != name)
    return _machine(chip, count, f"{count} x {name}, detected{others}", folder)


def _known(reported: str) -> Accelerator:
    for _, chip in parsed("accelerators", parse_accelerator)[0]:
        if reported.casefold() in map(str.casefold, chip.reported_as):
            return chip
    raise DeployError(
        f"No profile knows the accelerator that its driver calls {reported!r}.",
        "Write one with this name under reported_as, beside your profiles in accelerators/; "
        "dsdeploy profiles schema has the fields.",
    )


def _of_processor(folder: Path) -> Machine:
    memory = psutil.virtual_memory().total
    chip = Accelerator(
        name=_processor_name(),
        vendor="cpu",
        architecture=_architecture(),
        usable_memory=memory,
        bandwidth=_memory_rate(),
        teraflops={"fp32": _teraflops()},
        link=Link(kind="none", bandwidth=10**9),
    )
    cores = psutil.cpu_count(logical=False) or psutil.cpu_count() or 1
    text = f"{cores} cores, {format_bytes(memory)} of memory, no accelerator, detected"
    return _machine(chip, 1, text, folder)


def _machine(chip: Accelerator, count: int, description: str, folder: Path) -> Machine:
    return Machine(
        name="detected",
        description=description,
        accelerator=chip,
        nodes=1,
        accelerators_per_node=count,
        host_memory=psutil.virtual_memory().total,
        disk=Disk(space=max(1, shutil.disk_usage(folder).free), read=_DISK_RATE),
        container_runtime=next(
            (name for name in ("docker", "podman") if shutil.which(name)), "none"
        ),
    )


def _architecture() -> str:
    machine = platform.machine()
    name = {"AMD64": "x86_64", "arm64": "aarch64"}.get(machine, machine)
    if name not in ("x86_64", "aarch64"):
        raise DeployError(f"A profile cannot describe a processor of the kind {name}.")
    return name


def _processor_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())


def _memory_rate() -> int:
    """Bytes a second that all cores read together."""
    threads = psutil.cpu_count() or 1
    part = np.ones(max(2**22, 2**26 // threads), np.float32)
    parts = [part.copy() for _ in range(threads)]
    with ThreadPoolExecutor(threads) as pool:
        return int(
            sum(part.nbytes for part in parts) / _best(lambda: list(pool.map(np.sum, parts)))
        )


def _teraflops() -> float:
    """Of float32 products, by numpy's own library."""
    size = 1024
    matrix = np.ones((size, size), np.float32)
    return 2 * size**3 / _best(lambda: matrix @ matrix) / 1e12


def _best(work: Callable[[], object], seconds: float = 0.4) -> float:
    end, best = time.perf_counter() + seconds, float("inf")
    while time.perf_counter() < end:
        begun = time.perf_counter()
        work()
        best = min(best, time.perf_counter() - begun)
    return best


def _nvidia() -> Iterator[Device]:
    import pynvml

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return
    try:
        for index in range(pynvml.nvmlDeviceGetCount()):
            handle = pynvml.nvmlDeviceGetHandleByIndex(index)
            name = pynvml.nvmlDeviceGetName(handle)
            yield Device(name, pynvml.nvmlDeviceGetMemoryInfo(handle).total)
    except pynvml.NVMLError as error:
        raise DeployError(f"NVIDIA's driver does not answer: {error}.") from None
    finally:
        pynvml.nvmlShutdown()


def _amd_smi() -> Iterator[Device]:
    cards = json_of("amd-smi", "static", "--asic", "--vram", "--json")
    for card in cards["gpu_data"] if isinstance(cards, dict) else cards:
        size = card["vram"]["size"]
        name = str(card["asic"]["market_name"])
        yield Device(name, int(size["value"]) * _UNITS[size["unit"]])


def _rocm_smi() -> Iterator[Device]:
    """For installations older than amd-smi."""
    cards = json_of("rocm-smi", "--showproductname", "--showmeminfo", "vram", "--json")
    for name, card in sorted(cards.items() if isinstance(cards, dict) else []):
        if name.startswith("card"):
            series = card.get("Card Series") or card["Card series"]
            yield Device(str(series), int(card["VRAM Total Memory (B)"]))


def _npu_smi() -> Iterator[Device]:
    """Rows of `npu-smi info`: | 0     910B3  | OK ... | and below it memory as used / total."""
    name = ""
    for line in output_of("npu-smi", "info").splitlines():
        cells = [cell.split() for cell in line.strip().strip("|").split("|")]
        if len(cells) != 3:
            continue
        if len(cells[0]) == 2 and cells[0][0].isdigit() and not cells[0][1].isdigit():
            name = cells[0][1]
        elif name and "/" in cells[2]:
            yield Device(f"Ascend {name}", int(cells[2][-1]) * 2**20)


_UNITS = {"MB": 2**20, "GB": 2**30}
_PROBES = (_nvidia, _amd_smi, _rocm_smi, _npu_smi)
