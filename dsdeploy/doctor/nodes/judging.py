"""Do nodes reach each other, quickly, and agree on the time?"""

from __future__ import annotations

from collections.abc import Iterator
from statistics import median

from dsdeploy.doctor.check import Check, State
from dsdeploy.doctor.nodes.facts import Nodes, Path
from dsdeploy.units import format_bytes

_LATENCY = 1e-3
_RATE = 10**9 / 8
_SKEW = 1.0
_PORTS = "Open all TCP ports between the nodes: engines choose theirs at run time."


def judge_nodes(nodes: Nodes) -> list[Check]:
    open_paths = [path for path in nodes.paths if not path.problem]
    faults = [
        Check(host, "red", fault.problem, "ssh and python3", fault.fix)
        for host, fault in nodes.faults.items()
    ]
    return [*faults, *_reach(nodes), *_quality(open_paths), *_interfaces(nodes), *_clock(nodes)]


def _reach(nodes: Nodes) -> Iterator[Check]:
    if not nodes.paths:
        return
    closed = [f"{_name(p)}: {p.problem}" for p in nodes.paths if p.problem]
    if closed:
        yield Check("reach", "red", "; ".join(closed), "every node from every other", _PORTS)
    else:
        yield Check("reach", "green", f"{len(nodes.paths)} paths, all open")


def _quality(paths: list[Path]) -> Iterator[Check]:
    if not paths:
        return
    worst, slowest = max(paths, key=lambda p: p.seconds), min(paths, key=lambda p: p.rate)
    found = f"at most {worst.seconds * 1e3:.2f} ms, {_name(worst)}"
    far = worst.seconds > _LATENCY
    fix = "Put the nodes on one switch; every layer waits for a round trip of all." if far else ""
    yield Check("latency", "yellow" if far else "green", found, "under 1 ms", fix)
    found = f"at least {format_bytes(slowest.rate)}/s, {_name(slowest)}"
    least = max(_RATE, median(path.rate for path in paths) / 2)
    slow = slowest.rate < least
    fix = "ethtool INTERFACE there: its speed, errors and duplex" if slow else ""
    wanted = "1 Gbit/s, and half of the median"
    yield Check("rate", "yellow" if slow else "green", found, wanted, fix)
    sizes = sorted({path.mtu for path in paths})
    same = len(sizes) == 1
    fix = "" if same else f"sudo ip link set INTERFACE mtu {sizes[0]} on all of them"
    yield Check("MTU", "green" if same else "yellow", _joined(sizes), "one everywhere", fix)


def _interfaces(nodes: Nodes) -> Iterator[Check]:
    """One value has to do for all nodes; NCCL takes a list of them."""
    names = sorted({path.interface for path in nodes.paths if path.interface})
    if names:
        value = ",".join(names)
        fix = f"export NCCL_SOCKET_IFNAME={value}"
        if len(names) == 1:
            fix += f" GLOO_SOCKET_IFNAME={value}"
        state: State = "green" if len(names) == 1 else "yellow"
        wanted = "one name on all nodes"
        yield Check("interface", state, value, wanted, fix)


def _clock(nodes: Nodes) -> Iterator[Check]:
    if len(nodes.clocks) < 2:
        return
    first, last = (choose(nodes.clocks, key=nodes.clocks.__getitem__) for choose in (min, max))
    skew = nodes.clocks[last] - nodes.clocks[first]
    if skew > _SKEW:
        found = f"{last} is {skew:.1f} s ahead of {first}"
        fix = "sudo timedatectl set-ntp true on all"
        yield Check("clocks", "yellow", found, "under 1 s apart", fix)
    else:
        yield Check("clocks", "green", f"{skew * 1e3:.0f} ms apart at most")


def _name(path: Path) -> str:
    return f"{path.source} to {path.target}"


def _joined(sizes: list[int]) -> str:
    return ", ".join(map(str, sizes))
