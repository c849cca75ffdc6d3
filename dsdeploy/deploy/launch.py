"""What is to run, whatever runs it: for each node its processes, files, ports, probes and devices.

A backend makes a Launch of a Plan; a target (shell, compose, Kubernetes, ...) makes files of any
Launch. Nothing here is quoted: an argument is a list of words, and quoting belongs to targets. What
only the target knows (addresses, a node's rank) is a Symbol; a secret is a reference, never a value.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Literal


class Symbol(Enum):
    """Known when a node starts."""

    HEAD = "the address of the first node"
    HERE = "the address of this node"
    RANK = "the number of this node, from 0"


@dataclass(frozen=True)
class Secret:
    """A value that is kept elsewhere, under this name: an API key, a token of the Hub."""

    name: str


@dataclass(frozen=True)
class RankTimes:
    """So many times the number of this node: the first of its ranks, where each node has as many."""

    factor: int


@dataclass(frozen=True)
class Peer:
    """The address of the first node of another launch of the same group, by that launch's name."""

    launch: str


Named = Symbol | RankTimes | Peer
"""What is known where a node starts."""
Part = str | Named


@dataclass(frozen=True)
class Joined:
    """A word of several parts: `Joined((Symbol.HEAD, ":5000"))`."""

    parts: tuple[Part, ...]


Word = Part | Joined


def parts_of(word: Word) -> tuple[Part, ...]:
    return word.parts if isinstance(word, Joined) else (word,)


@dataclass(frozen=True)
class File:
    """Written before the process starts, beside it; `path` is relative to its working folder."""

    path: str
    content: str
    mode: int = 0o644


@dataclass(frozen=True)
class Port:
    name: str
    number: int
    internal: bool = False
    """For the engine's other processes only: never to be reached by clients."""


@dataclass(frozen=True)
class Probe:
    """An HTTP GET that answers 200 when all is well."""

    path: str
    port: int
    period: int
    timeout: int
    failures: int
    """In a row, until it counts."""

    @property
    def seconds(self) -> int:
        return self.period * self.failures


@dataclass(frozen=True)
class Probes:
    startup: Probe
    """Its patience is twice the slowest load that the planner expects."""
    readiness: Probe
    liveness: Probe


@dataclass(frozen=True)
class Phase:
    """Of a start, told by a line of the engine's log."""

    name: str
    pattern: str
    """Of the line that begins it, or says how far it is in groups `done` and `total`."""


@dataclass(frozen=True)
class Mount:
    source: str
    """On the host, absolute; or the name of a volume."""
    target: str
    read_only: bool = True


@dataclass(frozen=True)
class Devices:
    kind: Literal["nvidia", "amd", "huawei", "none"]
    count: int


@dataclass(frozen=True)
class Process:
    name: str
    argv: tuple[Word, ...]
    environment: Mapping[str, Word | Secret] = field(default_factory=dict)
    files: tuple[File, ...] = ()
    ports: tuple[Port, ...] = ()
    probes: Probes | None = None
    """None for one that serves nobody, or whose answer says nothing."""
    copies: int = 1
    """Started on each node by the launcher: ranks of MPI."""


@dataclass(frozen=True)
class Node:
    """All nodes but the first are alike, except for their rank and Symbol.HERE."""

    processes: tuple[Process, ...]
    devices: Devices
    shared_memory: int
    """Bytes of /dev/shm."""
    mounts: tuple[Mount, ...] = ()


@dataclass(frozen=True)
class Container:
    image: str
    devices: tuple[str, ...] = ()
    """Of the host, as /dev/kfd."""
    groups: tuple[str, ...] = ()
    capabilities: tuple[str, ...] = ()
    seccomp_unconfined: bool = False
    host_network: bool = False
    privileged: bool = False


@dataclass(frozen=True)
class Launch:
    name: str
    """What its parts are named after."""
    backend: str
    release: str
    nodes: tuple[Node, ...]
    container: Container
    launcher: Literal["each", "mpi"] = "each"
    """`each`: every node starts its own processes. `mpi`: the first starts all ranks on all nodes."""
    ends: bool = False
    """Whether it is work that is done at some time, and no server."""
    prepare: tuple[tuple[Word, ...], ...] = ()
    """Commands that the first node runs to the end before anything is started."""
    notes: tuple[str, ...] = ()
    """What the user should know of this choice, a sentence each."""
    phases: tuple[Phase, ...] = ()
    """In the order in which they come; all of them may be missing from a log."""
    group: str = ""
    """Shared by launches that work together; empty for one that works alone."""
    public: bool = True
    """Whether clients ask it; else only launches of its group do."""

    @property
    def head(self) -> Node:
        return self.nodes[0]

    @property
    def secrets(self) -> tuple[Secret, ...]:
        """Each once, in the order of names."""
        found = {
            value
            for node in self.nodes
            for process in node.processes
            for value in process.environment.values()
            if isinstance(value, Secret)
        }
        return tuple(sorted(found, key=lambda secret: secret.name))
