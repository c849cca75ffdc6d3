"""Memory, limits, clock and disk."""

from __future__ import annotations

from collections.abc import Iterator

from dsdeploy.doctor.check import Check, State
from dsdeploy.doctor.facts import Facts, Host, Limits, Storage
from dsdeploy.doctor.judging.need import Need
from dsdeploy.units import format_bytes

_GIB = 2**30
_SHARED_MEMORY = {"sglang": 32 * _GIB, "rocm": 16 * _GIB, "rocm-vllm": 16 * _GIB}
"""That the engines' own documentation gives a container."""
_LEAST_SHARED = 2**28
"""Docker's 64 MiB are too few for NCCL between several devices."""
_OPEN_FILES, _FEWEST_FILES = 65536, 1024
_PROCESSES = 4096
_DISK_RATE = 10**9
"""Below it a checkpoint of 689 GB takes more than eleven minutes to load."""


def judge_host(facts: Facts, need: Need) -> Iterator[Check]:
    machine, host = facts.accelerators.machine, facts.host
    several = machine is not None and machine.accelerators_per_node > 1
    yield _memory(host, need)
    yield _shared_memory(host, need, several)
    yield from _limits(host.limits, any(port.active for port in facts.network.rdma))
    if machine is not None and machine.accelerator.vendor == "amd" and host.numa_balancing:
        fix = "sudo sysctl kernel.numa_balancing=0"
        yield Check("NUMA balancing", "yellow", "on", "off", fix)
    yield _clock(host)
    yield _disk(facts.storage, need)


def _memory(host: Host, need: Need) -> Check:
    found = f"{format_bytes(host.available)} of {format_bytes(host.memory)} available"
    if need.machine is None:
        return Check("memory", "green", found)
    wanted = need.machine.host_memory
    text = f"{format_bytes(wanted)} by the profile"
    if host.memory < 0.9 * wanted:
        fix = "Set host_memory in a profile of your own, then plan with it."
        return Check("memory", "yellow", found, text, fix)
    return Check("memory", "green", found, text)


def _shared_memory(host: Host, need: Need, several: bool) -> Check:
    name = "/dev/shm"
    mount = "sudo mount -o remount,size=32G /dev/shm (docker: --shm-size 32g)"
    if host.shared_memory is None:
        return Check(name, "red", "cannot be written", fix="sudo mount -t tmpfs tmpfs /dev/shm")
    found = f"{format_bytes(host.shared_memory)} free"
    advised = _SHARED_MEMORY.get(need.engine.backend, 0) if need.engine else 0
    if several and host.shared_memory < _LEAST_SHARED:
        return Check(name, "red", found, format_bytes(max(advised, _LEAST_SHARED)), mount)
    if several and host.shared_memory < advised:
        return Check(name, "yellow", found, format_bytes(advised), mount)
    return Check(name, "green", found)


def _limits(limits: Limits, rdma: bool) -> Iterator[Check]:
    soft, hard = limits.open_files
    if soft is not None and soft < _OPEN_FILES:
        fix = f"{_raised('n', 'nofile', _OPEN_FILES, hard)} (docker: --ulimit nofile={_OPEN_FILES})"
        state: State = "red" if soft < _FEWEST_FILES else "yellow"
        yield Check("open files", state, str(soft), str(_OPEN_FILES), fix)
    else:
        yield Check("open files", "green", _number(soft))
    soft, hard = limits.locked_memory
    text = "unlimited" if soft is None else format_bytes(soft)
    if soft is not None and rdma:
        fix = f"{_raised('l', 'memlock', None, hard)} (docker: --ulimit memlock=-1)"
        yield Check("locked memory", "red", text, "unlimited, for RDMA", fix)
    else:
        yield Check("locked memory", "green", text)
    soft, hard = limits.processes
    if soft is not None and soft < _PROCESSES:
        fix = f"{_raised('u', 'nproc', _OPEN_FILES, hard)} (docker: --pids-limit=-1)"
        yield Check("processes", "yellow", str(soft), str(_PROCESSES), fix)
    else:
        yield Check("processes", "green", _number(soft))


def _raised(letter: str, name: str, wanted: int | None, hard: int | None) -> str:
    """The command for this shell; above the hard limit it takes root. None is without limit."""
    value = _number(wanted)
    if hard is None or (wanted is not None and wanted <= hard):
        return f"ulimit -{letter} {value}"
    return f"sudo prlimit --pid $$ --{name}={value}:{value}"


def _number(limit: int | None) -> str:
    return "unlimited" if limit is None else str(limit)


def _clock(host: Host) -> Check:
    fix = "sudo timedatectl set-ntp true (of a container or virtual machine: on its host)"
    match host.clock_synchronised:
        case True:
            return Check("clock", "green", "synchronised")
        case False:
            return Check("clock", "yellow", "not synchronised", "by NTP or PTP", fix)
        case None:
            return Check("clock", "yellow", "the kernel does not say", "synchronised", fix)


def _disk(storage: Storage, need: Need) -> Check:
    name = "disk"
    place = f"{storage.folder} ({storage.file_system}), {format_bytes(storage.free)} free"
    if storage.rate is None:
        fix = "Name the folder of a checkpoint with --folder."
        return Check(name, "yellow", f"{place}; not measured: {storage.how}", fix=fix)
    found = f"{format_bytes(storage.rate)}/s, of {storage.how}; {place}"
    wanted = need.machine.disk.read // 2 if need.machine else _DISK_RATE
    if storage.rate < wanted:
        fix = "Put the checkpoint on a local NVMe disk, and name that with --folder."
        return Check(name, "yellow", found, f"{format_bytes(wanted)}/s", fix)
    return Check(name, "green", found)
