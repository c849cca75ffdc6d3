"""Our own runner; under torchrun when a node has several devices of it."""

from __future__ import annotations

from dsdeploy import __version__
from dsdeploy.deploy.launch import Container, Launch, Phase, Port, Process, Secret, Symbol, Word
from dsdeploy.deploy.wanted import (
    API_KEY,
    Wanted,
    network_environment,
    nodes_of,
    probes,
    require_folder,
)
from dsdeploy.errors import UsageError
from dsdeploy.planning.plan import Plan

_PEERS_PORT = 29511
_PHASES = (
    Phase("load", r"^load (?P<done>[\d.]+ \w+) (?:of (?P<total>[\d.]+ \w+)|in )"),
    Phase("server", r"is served at"),
)


def launch(plan: Plan, wanted: Wanted, release: str | None) -> Launch:
    require_folder(wanted, "The native runner")
    if release not in (None, __version__):
        raise UsageError(f"The native runner is dsdeploy itself, {__version__}.")
    return Launch(
        name=wanted.name,
        backend="native",
        release=__version__,
        nodes=nodes_of(plan, wanted, lambda first: (_process(plan, wanted, first),)),
        container=Container(wanted.image or f"dsdeploy:{__version__}"),
        phases=_PHASES,
    )


def _process(plan: Plan, wanted: Wanted, first: bool) -> Process:
    """Only the first node's first rank answers."""
    environment: dict[str, Word | Secret] = {"DSDEPLOY_API_KEY": API_KEY} if wanted.key else {}
    environment |= network_environment(plan, "GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME")
    return Process(
        name="dsdeploy",
        argv=(
            *_python(plan), "native", wanted.weights,
            "--name", wanted.name,
            "--host", wanted.host,
            "--port", str(wanted.port),
            "--context", str(plan.context),
            "--max-sequences", str(plan.concurrency),
            plan.memory_flag, plan.memory_value,
            *(("--mtp", "1") if plan.mtp else ()),
            *wanted.extra_arguments,
        ),
        environment=environment | dict(wanted.extra_environment),
        ports=((Port("http", wanted.port),) if first else ())
        + ((Port("peers", _PEERS_PORT, internal=True),) if plan.nodes > 1 else ()),
        probes=probes(plan, wanted.port, "/health", "/health") if first else None,
    )  # fmt: skip


def _python(plan: Plan) -> tuple[Word, ...]:
    if plan.layout.devices == 1:
        return ("dsdeploy",)
    return (
        "torchrun",
        *(_meeting(plan) if plan.nodes > 1 else ()),
        "--nproc-per-node", str(plan.devices_per_node),
        "-m", "dsdeploy",
    )  # fmt: skip


def _meeting(plan: Plan) -> tuple[Word, ...]:
    return (
        "--nnodes", str(plan.nodes),
        "--node-rank", Symbol.RANK,
        "--master-addr", Symbol.HEAD,
        "--master-port", str(_PEERS_PORT),
    )  # fmt: skip
