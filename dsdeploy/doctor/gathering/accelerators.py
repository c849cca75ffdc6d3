"""What is known of the accelerators beside what they are: driver, state, and what joins them."""

from __future__ import annotations

import contextlib
import os
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from dsdeploy.doctor.facts import Accelerators
from dsdeploy.doctor.gathering.amd import amd
from dsdeploy.doctor.gathering.huawei import huawei
from dsdeploy.doctor.gathering.nvidia import nvidia
from dsdeploy.doctor.gathering.texts import text_of
from dsdeploy.errors import DeployError
from dsdeploy.hardware.detect import detect

# Vendors by the numbers of the PCI bus, and the classes of devices that compute: display (of
# NVIDIA alone, others' are for screens), 3D controller, processing accelerator.
_VENDORS = {"0x10de": "nvidia", "0x1002": "amd", "0x19e5": "huawei"}
_CLASSES = {"nvidia": ("0x0300", "0x0302"), "amd": ("0x0380", "0x1200"), "huawei": ("0x1200",)}
_VISIBLE = (
    "CUDA_VISIBLE_DEVICES",
    "HIP_VISIBLE_DEVICES",
    "ROCR_VISIBLE_DEVICES",
    "ASCEND_RT_VISIBLE_DEVICES",
)
_DETAILS: Mapping[str, Callable[[Accelerators], Accelerators]] = {
    "nvidia": nvidia,
    "amd": amd,
    "huawei": huawei,
}


def accelerators(folder: Path) -> Accelerators:
    found = replace(
        _detected(folder),
        on_the_bus=on_the_bus(Path("/sys/bus/pci/devices")),
        visible=next((f"{key}={os.environ[key]}" for key in _VISIBLE if key in os.environ), ""),
    )
    details = _DETAILS.get(found.machine.accelerator.vendor if found.machine else "")
    if details is not None:
        # What a driver or its tool prints in a form that we do not know stays unknown.
        with contextlib.suppress(AttributeError, LookupError, TypeError, ValueError):
            return details(found)
    return found


def on_the_bus(folder: Path) -> Mapping[str, int]:
    """Devices that compute, by vendor."""
    found: Counter[str] = Counter()
    for place in folder.glob("*"):
        vendor = _VENDORS.get(text_of(place / "vendor"), "")
        if text_of(place / "class").startswith(_CLASSES.get(vendor, ("none",))):
            found[vendor] += 1
    return dict(found)


def _detected(folder: Path) -> Accelerators:
    try:
        return Accelerators(machine=detect(folder))
    except DeployError as error:
        return Accelerators(machine=None, problem=error.message, fix=error.hint)
