"""Prompts on machines of their own, and decoding on others, behind a router.

A prompt's latents travel from the server that has computed them (prefill) to one that goes on from there
(decode). Each is a Launch of the same plan, as is the router; they find each other as peers. So every
target that can name another launch's address renders a group as it renders a launch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

from dsdeploy.deploy.backend import Backend, backend_names, load_backend
from dsdeploy.deploy.launch import (
    Container,
    Devices,
    Launch,
    Node,
    Port,
    Probes,
    Process,
    Word,
)
from dsdeploy.deploy.targets.words import service_name
from dsdeploy.deploy.wanted import Role, Wanted
from dsdeploy.errors import UsageError
from dsdeploy.planning.plan import Plan

_ROUTER_NOTE = (
    "The router is the Python package {}. It asks clients for no key: keep it on a private address, with "
    "a proxy that does."
)
_LONGEST_GROUP = 28
_ROUTER_MEMORY = 2**26


@dataclass(frozen=True)
class Counts:
    """How many servers there are of each kind."""

    prefill: int
    decode: int


@dataclass(frozen=True)
class Part:
    name: str
    """Within its group: prefill-0, decode-0, ..., router."""
    launch: Launch


@dataclass(frozen=True)
class Servers:
    """Names of launches, of each role."""

    prefill: tuple[str, ...]
    decode: tuple[str, ...]


@runtime_checkable
class Disaggregating(Protocol):
    """A backend whose `launch` heeds `Wanted.role`, and that knows a router."""

    def router(self, plan: Plan, wanted: Wanted, release: str, servers: Servers) -> Launch:
        """Before servers of this plan, which answer on `wanted.port`."""


def router_launch(
    backend: str, package: str, release: str, image: str, wanted: Wanted, start: Probes,
    words: Sequence[Word],
) -> Launch:  # fmt: skip
    """A router of this Python package. It waits for its servers as long as they may load."""
    address = ("--host", wanted.host, "--port", str(wanted.port))
    patience = ("--worker-startup-timeout-secs", str(start.startup.seconds))
    process = Process(
        name="router",
        argv=(*words, *address, *patience),
        ports=(Port("http", wanted.port),),
        probes=start,
    )
    return Launch(
        name=wanted.name,
        backend=backend,
        release=release,
        nodes=(Node((process,), Devices("none", 0), _ROUTER_MEMORY),),
        container=Container(image),
        notes=(_ROUTER_NOTE.format(package),),
    )


def disaggregated(
    backend: Backend, plan: Plan, wanted: Wanted, release: str | None, counts: Counts
) -> tuple[Part, ...]:
    """Servers first, the router last. Raises UsageError where the backend or its release cannot."""
    if not isinstance(backend, Disaggregating):
        raise UsageError(
            f"{backend.name} does not part prompts from decoding.",
            f"These do: {', '.join(filter(_parts_prompts, backend_names()))}.",
        )
    if wanted.offline:
        raise UsageError("Offline work has no router; leave --offline or --disaggregated out.")
    group = _group(wanted)
    prefill = _servers(backend, plan, wanted, release, "prefill", counts.prefill)
    decode = _servers(backend, plan, wanted, release, "decode", counts.decode)
    named = Servers(*(tuple(part.launch.name for part in parts) for parts in (prefill, decode)))
    router = backend.router(plan, wanted, prefill[0].launch.release, named)
    router = replace(router, name=f"{group}-router", group=group)
    return *prefill, *decode, Part("router", router)


def _parts_prompts(name: str) -> bool:
    return isinstance(load_backend(name), Disaggregating)


def _servers(
    backend: Backend, plan: Plan, wanted: Wanted, release: str | None, role: Role, count: int
) -> tuple[Part, ...]:
    """They answer the router, on whatever machine that is. It has no key to give them."""
    own = replace(wanted, role=role, host="0.0.0.0", key=False)
    group = _group(wanted)
    launch = replace(backend.launch(plan, own, release), group=group, public=False)
    return tuple(
        Part(f"{role}-{number}", replace(launch, name=f"{group}-{role}-{number}"))
        for number in range(count)
    )


def _group(wanted: Wanted) -> str:
    """So short that the names of parts stay apart when targets cut them."""
    return service_name(wanted.name)[:_LONGEST_GROUP].rstrip("-")
