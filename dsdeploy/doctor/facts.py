"""What is found on a machine, before anybody judges it. Sizes are in bytes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from dsdeploy.hardware.profile import Machine

LinkKind = Literal["direct", "PCIe", "host memory"]
"""By which two devices reach each other; direct: NVLink, XGMI, HCCS."""
Fabric = Literal["none", "not started", "in progress", "ready"]


@dataclass(frozen=True)
class Device:
    taken: int | None = None
    """Of its memory, at the moment."""
    trouble: str = ""
    """What its driver complains about."""


@dataclass(frozen=True)
class Accelerators:
    machine: Machine | None
    """What was detected; None where something is there that cannot be used."""
    problem: str = ""
    fix: str = ""
    driver: str = ""
    runtime: str = ""
    """The newest CUDA that the driver runs; the release of ROCm or CANN."""
    devices: tuple[Device, ...] = ()
    links: Mapping[LinkKind, int] = field(default_factory=dict)
    """Pairs of devices, by what joins them."""
    fabric: Fabric = "none"
    """Of the NVSwitches."""
    on_the_bus: Mapping[str, int] = field(default_factory=dict)
    """Devices that the PCI bus shows, by vendor."""
    visible: str = ""
    """CUDA_VISIBLE_DEVICES or its kin, where it is set: `NAME=value`."""
    kfd_open: bool = True
    """Whether this user may open /dev/kfd, where there is one."""


@dataclass(frozen=True)
class EngineFound:
    backend: str
    release: str | None
    """None where nobody can tell."""
    where: str


@dataclass(frozen=True)
class Torch:
    version: str
    cuda: str = ""
    """That it is built for."""
    hip: str = ""


@dataclass(frozen=True)
class ContainerRuntime:
    name: str
    version: str = ""
    problem: str = ""
    """Why it does not answer."""
    gpus: tuple[str, ...] = ()
    """Vendors whose devices it can hand to a container by name."""


@dataclass(frozen=True)
class Software:
    engines: tuple[EngineFound, ...] = ()
    torch: Torch | None = None
    """Beside the engine that is asked for; None where there is no such engine."""
    runtimes: tuple[ContainerRuntime, ...] = ()
    in_container: bool = False


@dataclass(frozen=True)
class Limits:
    """Soft and hard; None is without limit."""

    open_files: tuple[int | None, int | None]
    locked_memory: tuple[int | None, int | None]
    processes: tuple[int | None, int | None]


@dataclass(frozen=True)
class Host:
    kernel: str
    memory: int
    """The least of what is built in and what the control group allows."""
    available: int
    shared_memory: int | None
    """Free in /dev/shm; None where it cannot be written."""
    limits: Limits
    numa_balancing: bool = False
    clock_synchronised: bool | None = None
    """By the kernel's own word; None where it gives none."""


@dataclass(frozen=True)
class Storage:
    folder: str
    free: int
    file_system: str
    rate: int | None
    """Bytes a second, read past the page cache."""
    how: str
    """What was read, or why nothing could be."""


@dataclass(frozen=True)
class Interface:
    name: str
    up: bool
    speed: int
    """Megabits a second; 0 where it does not say."""
    mtu: int
    addresses: tuple[str, ...]
    default_route: bool = False


@dataclass(frozen=True)
class RdmaPort:
    name: str
    active: bool
    rate: str


@dataclass(frozen=True)
class Network:
    interfaces: tuple[Interface, ...]
    host_name: str
    host_address: str | None
    """That the host's own name resolves to."""
    settings: Mapping[str, str] = field(default_factory=dict)
    """NCCL_SOCKET_IFNAME and its kin, as this environment has them."""
    rdma: tuple[RdmaPort, ...] = ()


@dataclass(frozen=True)
class Facts:
    accelerators: Accelerators
    software: Software
    host: Host
    storage: Storage
    network: Network
