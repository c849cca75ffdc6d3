"""AMD's devices, by amd-smi and rocm-smi."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from dsdeploy.doctor.facts import Accelerators, Device, LinkKind
from dsdeploy.doctor.gathering.texts import text_of
from dsdeploy.hardware.tools import json_of

_LINK = "(Topology) Link type between DRM devices "
_KFD = Path("/dev/kfd")
_DRIVER = Path("/sys/module/amdgpu/version")
_ROCM = Path("/opt/rocm/.info/version")


def amd(found: Accelerators) -> Accelerators:
    versions = _versions(_told("amd-smi", "version"))
    return replace(
        found,
        # The kernel's own amdgpu has no such file.
        driver=text_of(_DRIVER) or versions.get("amdgpu_version", ""),
        runtime=versions.get("rocm_version") or text_of(_ROCM),
        devices=tuple(_devices(_told("rocm-smi", "--showmeminfo", "vram"))),
        links=Counter(_links(_told("rocm-smi", "--showtopotype"))),
        kfd_open=not _KFD.exists() or os.access(_KFD, os.R_OK | os.W_OK),
    )


def _told(*command: str) -> Any:
    """[] where the tool is not there, hangs or prints nonsense."""
    try:
        return json_of(*command, "--json")
    except ValueError:
        return []


def _versions(told: Any) -> dict[str, str]:
    """Releases of amd-smi differ in whether a list stands around them."""
    first = told[0] if isinstance(told, list) and told else told
    found = first if isinstance(first, dict) else {}
    return {key: str(value) for key, value in found.items() if value != "N/A"}


def _devices(cards: Any) -> Iterator[Device]:
    for name, card in sorted(cards.items() if isinstance(cards, dict) else []):
        if name.startswith("card"):
            used = str(card.get("VRAM Total Used Memory (B)", ""))
            yield Device(int(used) if used.isdigit() else None)


def _links(topology: Any) -> Iterator[LinkKind]:
    """`{"system": {"(Topology) Link type between DRM devices 0 and 1": "XGMI"}}`."""
    pairs = topology.get("system", {}) if isinstance(topology, dict) else {}
    for name, kind in pairs.items():
        if name.startswith(_LINK):
            yield "direct" if kind == "XGMI" else "PCIe"
