"""Are the accelerators all there, idle, well and well joined, and does the engine take them?"""

from __future__ import annotations

from collections.abc import Iterator

from dsdeploy.deploy.driver import built_for, fit, newer_driver
from dsdeploy.doctor.check import FITS, Check
from dsdeploy.doctor.facts import Accelerators, Facts, LinkKind, Software
from dsdeploy.doctor.judging.need import Need
from dsdeploy.hardware.profile import Link, Machine
from dsdeploy.units import format_bytes

_TAKEN = 2**30
"""Of a device's memory, which an idle driver stays below."""
_DIRECT_LINKS = ("NVLink", "Infinity Fabric", "XGMI", "HCCS")
_RUNTIMES = {"nvidia": "CUDA", "amd": "ROCm", "huawei": "CANN"}
_SHOW = {"nvidia": "nvidia-smi", "amd": "amd-smi monitor", "huawei": "npu-smi info"}
_LOAD_DRIVER = {
    "nvidia": "sudo modprobe nvidia; where there is no such module: sudo apt install nvidia-driver-580-server-open",
    "amd": "sudo modprobe amdgpu; where it fails: sudo amdgpu-install --usecase=rocm",
    "huawei": "sudo ./Ascend-hdk-*-npu-driver_*.run --full; in a container mount /usr/local/Ascend/driver",
}
_TOPOLOGY = {
    "nvidia": "nvidia-smi topo -m",
    "amd": "rocm-smi --showtopo",
    "huawei": "npu-smi info -t topo",
}


def judge_accelerators(all_facts: Facts, need: Need) -> Iterator[Check]:
    facts = all_facts.accelerators
    machine = facts.machine
    if machine is None:
        yield Check("accelerators", "red", facts.problem, "one that a profile knows", facts.fix)
        return
    yield _present(facts, machine, need)
    yield from _taken_by_engine(machine, need)
    if machine.accelerator.vendor == "cpu":
        return
    yield _driver(facts, machine, _cuda_wanted(all_facts.software, need))
    yield from _open(facts)
    yield from _devices(facts, machine)
    yield from _links(facts, machine)


def _present(facts: Accelerators, machine: Machine, need: Need) -> Check:
    name, found, count = "accelerators", machine.description, machine.accelerators_per_node
    vendor = machine.accelerator.vendor
    unseen = next((v for v, n in facts.on_the_bus.items() if v != vendor or n > count), "")
    if vendor == "cpu" and unseen:
        there = f"{facts.on_the_bus[unseen]} of {unseen} on the bus, and no driver for them"
        return Check(name, "red", there, "a driver", _LOAD_DRIVER[unseen])
    wanted = need.machine
    if wanted is not None:
        chip, least = wanted.accelerator, wanted.accelerators_per_node
        text = f"{least} x {chip.name}"
        if machine.accelerator.architecture != chip.architecture or count < least:
            return Check(name, "red", found, text, _for_fewer(facts))
        if machine.device_memory < 0.95 * wanted.device_memory:
            text += f" with {format_bytes(wanted.device_memory)}"
            return Check(name, "yellow", found, text, "Take a profile of this very card.")
        return Check(name, "green", found, text)
    if unseen:
        there = f"{found}; the bus has {facts.on_the_bus[unseen]} of {unseen}"
        return Check(name, "yellow", there, "all of them", _for_fewer(facts))
    return Check(name, "green", found)


def _for_fewer(facts: Accelerators) -> str:
    if facts.visible:
        return f"unset {facts.visible.partition('=')[0]} (it is {facts.visible})"
    return "Plan for what is here: dsdeploy profiles detect --output here.yaml"


def _taken_by_engine(machine: Machine, need: Need) -> Iterator[Check]:
    if need.engine is None:
        return
    chip, rules = machine.accelerator, need.engine.rules
    if formats := need.engine.formats(chip):
        yield Check("engine takes them", "green", f"{rules.title}: {', '.join(formats)}")
        return
    because = next(iter(rules.precisions.values())).because
    yield Check(
        "engine takes them",
        "red",
        f"{rules.title} takes no weights on {chip.architecture}",
        because,
        "dsdeploy plan MODEL says which engines do.",
    )


def _cuda_wanted(software: Software, need: Need) -> str:
    """By the engine; empty where the torch beside it says so better."""
    if need.engine is None:
        return ""
    backend = need.engine.backend
    here = next((each for each in software.engines if each.backend == backend), None)
    if here is not None and software.torch is not None:
        return ""
    return built_for(backend, here.release if here else None)


def _driver(facts: Accelerators, machine: Machine, cuda: str) -> Check:
    vendor = machine.accelerator.vendor
    runtime = f"{_RUNTIMES[vendor]} {facts.runtime}" if facts.runtime else ""
    found = ", ".join(filter(None, (facts.driver, runtime)))
    if not facts.driver:
        text = f"not known; {found}" if found else "not known"
        return Check("driver", "yellow", text, "one that answers", _SHOW[vendor])
    if vendor != "nvidia" or not (cuda and facts.runtime):
        return Check("driver", "green", found)
    state = FITS[fit(cuda, facts.runtime)]
    return Check(
        "driver", state, found, f"CUDA {cuda}", "" if state == "green" else newer_driver(cuda)
    )


def _open(facts: Accelerators) -> Iterator[Check]:
    """Is there access to the devices, and to the switches between them?"""
    if not facts.kfd_open:
        fix = "sudo usermod -aG render,video $USER, then log in again"
        yield Check("/dev/kfd", "red", "closed to this user", "readable and writable", fix)
    if facts.fabric in ("not started", "in progress"):
        fix = "sudo systemctl restart nvidia-fabricmanager; its release must be the driver's"
        yield Check("NVSwitch fabric", "red", facts.fabric, "ready", fix)


def _devices(facts: Accelerators, machine: Machine) -> Iterator[Check]:
    vendor = machine.accelerator.vendor
    ill = {i: device.trouble for i, device in enumerate(facts.devices) if device.trouble}
    busy = {i: d.taken for i, d in enumerate(facts.devices) if (d.taken or 0) > _limit(vendor)}
    if ill:
        text = "; ".join(f"device {index}: {trouble}" for index, trouble in ill.items())
        yield Check("health", "red", text, "none in trouble", _SHOW[vendor])
    if busy:
        text = ", ".join(f"device {i} {format_bytes(taken or 0)}" for i, taken in busy.items())
        fix = f"{_SHOW[vendor]} says by whom; end it, or leave these devices out"
        yield Check("memory in use", "yellow", text, "idle devices", fix)
    elif not facts.devices or any(device.taken is None for device in facts.devices):
        yield Check("memory in use", "yellow", "not known", "idle devices", _SHOW[vendor])
    else:
        yield Check("memory in use", "green", f"{_counted(len(facts.devices), 'device')} idle")


def _limit(vendor: str) -> int:
    """An Ascend driver keeps some gigabytes of each NPU for itself."""
    return 4 * _TAKEN if vendor == "huawei" else _TAKEN


def _links(facts: Accelerators, machine: Machine) -> Iterator[Check]:
    chip = machine.accelerator
    if machine.accelerators_per_node == 1:
        return
    found = ", ".join(_pairs(kind, count, chip.link) for kind, count in facts.links.items())
    direct = chip.link.kind.startswith(_DIRECT_LINKS)
    show = _TOPOLOGY[chip.vendor]
    if not found:
        yield Check("links", "yellow", "not known", chip.link.kind, show)
    elif direct and set(facts.links) != {"direct"}:
        yield Check("links", "yellow", found, f"all by {chip.link.kind}", show)
    elif facts.links.get("host memory"):
        fix = f"{show}; in a virtual machine or with the IOMMU on, devices do not reach each other"
        yield Check("links", "yellow", found, "peer to peer", fix)
    else:
        yield Check("links", "green", found)


def _pairs(kind: LinkKind, count: int, link: Link) -> str:
    return f"{_counted(count, 'pair')} by {link.kind if kind == 'direct' else kind}"


def _counted(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"
