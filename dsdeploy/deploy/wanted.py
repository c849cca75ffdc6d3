"""How a plan is to be served: one name for each feature, whatever an engine calls it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from dsdeploy.deploy.launch import Devices, Mount, Node, Probe, Probes, Process, Secret, Word
from dsdeploy.errors import UsageError
from dsdeploy.planning.plan import Plan

API_KEY = Secret("api-key")
Role = Literal["prefill", "decode"]
_LEAST_PATIENCE = 600
_SHARED_MEMORY = 32 * 2**30
_CACHE = "/root/.cache/huggingface"


@dataclass(frozen=True)
class Wanted:
    name: str
    """What clients call the model."""
    weights: str
    """The folder or repository of the checkpoint in the plan's precision."""
    host: str = "127.0.0.1"
    port: int = 8000
    key: bool = False
    """Whether clients must send the secret `api-key`."""
    tools: bool = False
    """Whether calls of tools are parsed out of answers."""
    reasoning: bool = False
    """Whether thoughts are parsed out of answers."""
    metrics: bool = True
    prefix_cache: bool = True
    offline: bool = False
    """Whether a file of requests is answered, without a server."""
    image: str | None = None
    """In place of the engine's own."""
    role: Role | None = None
    """Of a server that computes prompts alone, or goes on from what another one has computed."""
    extra_arguments: tuple[str, ...] = ()
    extra_environment: Mapping[str, str] = field(default_factory=dict)


def variant(model: str) -> str:
    """The kind of the family that parsers are named after: v3, r1, v3.1, v3.2 or kimi-k2."""
    name = model.rstrip("/").rpartition("/")[2].lower()
    for part in ("kimi-k2", "v3.2", "v3.1", "r1"):
        if part in name:
            return part
    return "v3"


def require_folder(wanted: Wanted, engine: str) -> None:
    if not wanted.weights.startswith("/"):
        raise UsageError(
            f"{engine} reads a folder on the machine, and {wanted.weights} is a repository's name.",
            "Name the folder with --weights /path/to/it.",
        )


def nodes_of(
    plan: Plan, wanted: Wanted, make: Callable[[bool], tuple[Process, ...]]
) -> tuple[Node, ...]:
    """`make(True)` gives the processes of the first node, `make(False)` those of every other."""
    kind = plan.machine.accelerator.vendor
    devices = Devices("none" if kind == "cpu" else kind, plan.devices_per_node)
    firsts = [True, *[False] * (plan.nodes - 1)]
    mounts = _model_mounts(wanted.weights)
    return tuple(Node(make(first), devices, _SHARED_MEMORY, mounts) for first in firsts)


def _model_mounts(weights: str) -> tuple[Mount, ...]:
    """The weights at their own path, or the cache that the engine downloads into."""
    if weights.startswith("/"):
        return (Mount(weights, weights),)
    return (Mount("huggingface", _CACHE, read_only=False),)


def network_environment(plan: Plan, *names: str) -> dict[str, Word | Secret]:
    """The variables by which libraries are told the interface that joins nodes."""
    interface = plan.machine.network_interface
    return dict.fromkeys(names, interface) if interface and plan.nodes > 1 else {}


def probes(plan: Plan, port: int, health: str, ready: str) -> Probes:
    """A start may take twice the slowest load that is expected. An engine that is alive may be
    busy for minutes with one long step, so it is given up late."""
    patience = max(_LEAST_PATIENCE, 2 * plan.load_seconds)
    return Probes(
        startup=Probe(ready, port, period=10, timeout=5, failures=-(-patience // 10)),
        readiness=Probe(ready, port, period=10, timeout=5, failures=3),
        liveness=Probe(health, port, period=15, timeout=10, failures=20),
    )
