"""Ascend NPUs, by npu-smi and the files of CANN."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from dsdeploy.doctor.facts import Accelerators, Device, LinkKind
from dsdeploy.doctor.gathering.texts import text_of
from dsdeploy.hardware.tools import output_of

_ROOTS = (Path("/usr/local/Ascend"), Path.home() / "Ascend")
_CANN = ("cann", "ascend-toolkit/latest")
_DIRECT = ("HCCS", "HCCS_SW", "SIO")
_MiB = 2**20


def huawei(found: Accelerators) -> Accelerators:
    text = output_of("npu-smi", "info")
    version = re.search(r"Version: (\S+)", text)
    return replace(
        found,
        driver=version[1] if version else "",
        runtime=_cann_release(),
        devices=tuple(devices(text)),
        links=Counter(links(output_of("npu-smi", "info", "-t", "topo"))),
    )


def devices(text: str) -> Iterator[Device]:
    """Rows of `npu-smi info`: | 0     910B3  | OK ... | and below it memory as used / total."""
    health = ""
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        if len(cells) != 3:
            continue
        memory = re.search(r"(\d+)\s*/\s*\d+$", cells[2])
        if re.fullmatch(r"\d+\s+(\D\S*|\d{3}\D\S*)", cells[0]):
            health = cells[1]
        elif memory and health:
            trouble = "" if health == "OK" else f"its health is {health}"
            yield Device(int(memory[1]) * _MiB, trouble)


def links(text: str) -> Iterator[LinkKind]:
    """Of each pair in the matrix of `npu-smi info -t topo`: HCCS or SIO (two dies of a chip) is
    direct, PIX and its kin are PCIe."""
    names = r"(NPU|Phy-ID)\d+"  # the second where a chip is two devices
    rows = [line.split() for line in text.splitlines() if re.match(rf"\s*{names}\s+\S", line)]
    rows = [row[1:] for row in rows if not re.match(names, row[1])]
    for index, row in enumerate(rows):
        for kind in row[index + 1 : len(rows)]:
            yield "direct" if kind in _DIRECT else "PCIe"


def _cann_release() -> str:
    for root in _ROOTS:
        for place in _CANN:
            for file in sorted(root.glob(f"{place}/*-linux/ascend_toolkit_install.info")):
                version = re.search(r"^version=(\S+)", text_of(file), re.MULTILINE)
                if version:
                    return version[1]
    return ""
