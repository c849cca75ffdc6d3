"""Which interface nodes should know each other by, and whether libraries are told it."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator

from dsdeploy.doctor.check import Check, State
from dsdeploy.doctor.facts import Accelerators, Interface, Network
from dsdeploy.doctor.judging.need import Need

_BY_BEGINNING = ("NCCL", "HCCL")
_VIRTUAL = re.compile(r"lo|docker|br-|veth|virbr|cni|flannel|cali|tunl|cilium|kube|podman|ifb")


def proposal(network: Network) -> Interface | None:
    """Up, with an address that others reach; of several the fastest, then the default route's. TCP
    carries only the first handshake where RDMA carries the data."""
    usable = [each for each in network.interfaces if each.up and _reachable(each)]
    order = sorted(usable, key=lambda each: (-each.speed, not each.default_route, each.name))
    return order[0] if order else None


def environment(interface: Interface, vendor: str) -> dict[str, str]:
    libraries = ("HCCL", "GLOO") if vendor == "huawei" else ("NCCL", "GLOO")
    return {f"{library}_SOCKET_IFNAME": interface.name for library in libraries}


def judge_network(network: Network, accelerators: Accelerators, need: Need) -> Iterator[Check]:
    chosen = proposal(network)
    several = need.machine is not None and need.machine.nodes > 1
    if chosen is None:
        yield Check("interface", "red" if several else "green", "this machine has none")
        return
    vendor = accelerators.machine.accelerator.vendor if accelerators.machine else ""
    variables = environment(chosen, vendor)
    export = "export " + " ".join(f"{key}={value}" for key, value in variables.items())
    yield _interface(network, chosen, need, export)
    if several and (
        network.host_address is None or ipaddress.ip_address(network.host_address).is_loopback
    ):
        found = f"{network.host_name} is {network.host_address or 'unknown'}"
        address = chosen.addresses[0]
        fix = f"{export}; or in /etc/hosts: {address} {network.host_name}"
        yield Check("own name", "yellow", found, address, fix)
    yield from _rdma(network, several)


def _interface(network: Network, chosen: Interface, need: Need, export: str) -> Check:
    names = {each.name for each in network.interfaces}
    found = f"{chosen.name}, {chosen.addresses[0]}, MTU {chosen.mtu}"
    for variable, value in network.settings.items():
        if not _names_one(variable, value, names):
            return Check(
                "interface", "red", f"{variable}={value}, which is not there", found, export
            )
    wanted = need.machine.network_interface if need.machine and need.machine.nodes > 1 else None
    if wanted and wanted not in names:
        fix = f"Set network_interface: {chosen.name} in a profile of your own."
        return Check("interface", "red", found, f"{wanted} by the profile", fix)
    return Check("interface", "green", found, fix=export)


def _names_one(variable: str, value: str, names: set[str]) -> bool:
    """NCCL and HCCL take a list of beginnings; `=` before it makes them whole names, `^` excludes.
    Others take whole names and nothing else."""
    if not variable.startswith(_BY_BEGINNING):
        return names.issuperset(value.split(","))
    if value.startswith("^"):
        return True
    exact, parts = value.startswith("="), value.lstrip("=").split(",")
    return any(
        name == part or (not exact and name.startswith(part)) for name in names for part in parts
    )


def _rdma(network: Network, several: bool) -> Iterator[Check]:
    if not network.rdma:
        if several:
            fix = "ibv_devices lists what the driver has; without any, set NCCL_IB_DISABLE=1"
            yield Check("RDMA", "yellow", "none", "InfiniBand or RoCE between nodes", fix)
        return
    down = [port.name for port in network.rdma if not port.active]
    found = ", ".join(f"{port.name} {port.rate}" for port in network.rdma if port.active)
    if down:
        text = f"{found or 'none active'}; down: {', '.join(down)}"
        state: State = "red" if several and not found else "yellow"
        fix = "ibstat; ports that are not cabled: NCCL_IB_HCA names the others"
        yield Check("RDMA", state, text, "active", fix)
    else:
        yield Check("RDMA", "green", found)


def _reachable(interface: Interface) -> bool:
    if _VIRTUAL.match(interface.name):
        return False
    addresses = [ipaddress.ip_address(text.partition("%")[0]) for text in interface.addresses]
    return any(not address.is_loopback and not address.is_link_local for address in addresses)
