"""NVIDIA's devices, by NVML."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from itertools import combinations
from typing import Any

import pynvml

from dsdeploy.deploy.driver import read_driver
from dsdeploy.doctor.facts import Accelerators, Device, Fabric, LinkKind


def nvidia(found: Accelerators) -> Accelerators:
    driver = read_driver()
    if driver is None:
        return found
    found = replace(found, driver=driver.release, runtime=driver.cuda)
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return found
    try:
        count = pynvml.nvmlDeviceGetCount()
        handles = [pynvml.nvmlDeviceGetHandleByIndex(index) for index in range(count)]
        return replace(
            found,
            devices=tuple(map(_device, handles)),
            links=Counter(_link(a, b) for a, b in combinations(handles, 2)),
            fabric=_fabric(handles[0]),
        )
    except pynvml.NVMLError:
        return found
    finally:
        pynvml.nvmlShutdown()


def _device(handle: Any) -> Device:
    errors = _asked(
        lambda: pynvml.nvmlDeviceGetTotalEccErrors(
            handle, pynvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED, pynvml.NVML_VOLATILE_ECC
        )
    )
    mode = _asked(lambda: pynvml.nvmlDeviceGetMigMode(handle)[0])
    trouble = f"{errors} uncorrected memory errors" if errors else ""
    if mode == pynvml.NVML_DEVICE_MIG_ENABLE:
        trouble = "cut into parts (MIG)"
    return Device(pynvml.nvmlDeviceGetMemoryInfo(handle).used, trouble)


def _link(first: Any, second: Any) -> LinkKind:
    def joined(capability: int) -> bool:
        status = _asked(lambda: pynvml.nvmlDeviceGetP2PStatus(first, second, capability))
        return bool(status == pynvml.NVML_P2P_STATUS_OK)

    if joined(pynvml.NVML_P2P_CAPS_INDEX_NVLINK):
        return "direct"
    return "PCIe" if joined(pynvml.NVML_P2P_CAPS_INDEX_READ) else "host memory"


def _fabric(handle: Any) -> Fabric:
    info = pynvml.c_nvmlGpuFabricInfo_t()
    _asked(lambda: pynvml.nvmlDeviceGetGpuFabricInfo(handle, pynvml.byref(info)))
    # Left at zero, which is "not supported", where the driver or the device knows of none.
    states: dict[int, Fabric] = {
        pynvml.NVML_GPU_FABRIC_STATE_NOT_STARTED: "not started",
        pynvml.NVML_GPU_FABRIC_STATE_IN_PROGRESS: "in progress",
        pynvml.NVML_GPU_FABRIC_STATE_COMPLETED: "ready",
    }
    return states.get(info.state, "none")


def _asked(ask: Callable[[], Any]) -> Any:
    """None where this device or driver does not know."""
    try:
        return ask()
    except pynvml.NVMLError:
        return None
