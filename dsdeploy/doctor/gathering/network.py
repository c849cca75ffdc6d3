"""The interfaces of this machine, what its own name means, and RDMA ports."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import psutil

from dsdeploy.doctor.facts import Interface, Network, RdmaPort
from dsdeploy.doctor.gathering.texts import text_of

_VARIABLES = (
    "NCCL_SOCKET_IFNAME",
    "GLOO_SOCKET_IFNAME",
    "HCCL_SOCKET_IFNAME",
    "TP_SOCKET_IFNAME",
)
_FAMILIES = (socket.AF_INET, socket.AF_INET6)


def network() -> Network:
    name = socket.gethostname()
    return Network(
        interfaces=_interfaces(),
        host_name=name,
        host_address=_address(name),
        settings={key: os.environ[key] for key in _VARIABLES if os.environ.get(key)},
        rdma=_rdma(Path("/sys/class/infiniband")),
    )


def _interfaces() -> tuple[Interface, ...]:
    states, addresses = psutil.net_if_stats(), psutil.net_if_addrs()
    route = default_route(*(text_of(Path("/proc/net", name)) for name in ("route", "ipv6_route")))
    return tuple(
        Interface(
            name=name,
            up=state.isup,
            speed=state.speed,
            mtu=state.mtu,
            addresses=tuple(
                each.address for each in addresses.get(name, ()) if each.family in _FAMILIES
            ),
            default_route=name == route,
        )
        for name, state in states.items()
    )


def default_route(ipv4: str, ipv6: str) -> str:
    """The interface of the default route with the least metric, by /proc/net/route, else by
    /proc/net/ipv6_route; empty without one."""
    routes = [line.split() for line in ipv4.splitlines()[1:]]
    # Interface, destination, gateway, flags, two counters, metric, mask.
    found = [(int(r[6]), r[0]) for r in routes if r[1] == r[7] == "00000000"]
    if not found:
        # Destination, its prefix length, source, its length, next hop, metric, ..., interface.
        routes = [line.split() for line in ipv6.splitlines()]
        found = [(int(r[5], 16), r[9]) for r in routes if r[1] == "00" and r[9] != "lo"]
    return min(found)[1] if found else ""


def _address(name: str) -> str | None:
    try:
        return str(socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)[0][4][0])
    except OSError:
        return None


def _rdma(folder: Path) -> tuple[RdmaPort, ...]:
    """InfiniBand and RoCE; `state` holds `4: ACTIVE`, `rate` holds `400 Gb/sec (4X NDR)`."""
    return tuple(
        RdmaPort(
            name=f"{place.parent.parent.name}:{place.name}",
            active="ACTIVE" in text_of(place / "state"),
            rate=text_of(place / "rate"),
        )
        for place in sorted(folder.glob("*/ports/*"))
    )
