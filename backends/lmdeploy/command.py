"""`lmdeploy serve api_server` for a plan.

Source: LMDeploy's documents on DeepSeek-V3, api_server and DP + EP.
"""

from __future__ import annotations

from collections.abc import Mapping

from dsdeploy.deploy.flags import Catalogue, load_catalogue, spelling
from dsdeploy.deploy.launch import (
    Container,
    Joined,
    Launch,
    Port,
    Process,
    Secret,
    Symbol,
    Word,
)
from dsdeploy.deploy.ray import RAY_PORT, follower, on_head
from dsdeploy.deploy.wanted import Wanted, network_environment, nodes_of, probes
from dsdeploy.planning.plan import Plan

from .phases import PHASES

_MASTER_PORT, _SERVER_PORT = 29500, 23334
HERE = "NODE_ADDRESS"
"""The variable in which the script that starts Ray finds this node's address."""
_KEY_NOTE = (
    "LMDeploy takes API keys on its command line only, where every user of the machine can read "
    "them: none is passed. Keep it on a private address, with a proxy that asks for the key."
)


def launch(plan: Plan, wanted: Wanted, release: str | None) -> Launch:
    """One server, over Ray on several nodes; with DP attention a server a node behind a proxy."""
    chosen = load_catalogue(__package__, release)
    catalogue, note = chosen.catalogue, chosen.note
    replicas = plan.layout.data > 1
    return Launch(
        name=wanted.name,
        backend="lmdeploy",
        release=catalogue.release,
        nodes=nodes_of(
            plan,
            wanted,
            lambda first: (_behind_proxy if replicas else _alone)(plan, wanted, catalogue, first),
        ),
        container=container_of(wanted, catalogue),
        notes=tuple(filter(None, (note, _KEY_NOTE if wanted.key else ""))),
        phases=PHASES,
    )


def container_of(wanted: Wanted, catalogue: Catalogue) -> Container:
    return Container(wanted.image or f"openmmlab/lmdeploy:v{catalogue.release}")


def _alone(plan: Plan, wanted: Wanted, catalogue: Catalogue, first: bool) -> tuple[Process, ...]:
    ray = (Port("ray", RAY_PORT, internal=True),) if plan.nodes > 1 else ()
    environment = environment_of(plan, wanted, catalogue)
    if not first:
        return (Process("ray", follower(HERE), environment, ports=ray),)
    command = (
        *_server(plan, wanted, catalogue, wanted.host, wanted.port),
        *(("--distributed-executor-backend", "ray") if over_ray(plan, catalogue) else ()),
        *wanted.extra_arguments,
    )
    server = Process(
        name="lmdeploy",
        argv=on_head(HERE, command) if plan.nodes > 1 else command,
        environment=environment,
        ports=(Port("http", wanted.port), *ray),
        probes=probes(plan, wanted.port, "/health", "/health"),
    )
    return (server,)


def over_ray(plan: Plan, catalogue: Catalogue) -> bool:
    """Whether the engine is told so; older releases by LMDEPLOY_EXECUTOR_BACKEND alone."""
    return plan.nodes > 1 and "--distributed-executor-backend" in catalogue.flags


def _behind_proxy(
    plan: Plan, wanted: Wanted, catalogue: Catalogue, first: bool
) -> tuple[Process, ...]:
    """The proxy answers clients and has no /health: /nodes/status says that it is there."""
    server = Process(
        name="lmdeploy",
        argv=(
            *_server(plan, wanted, catalogue, "0.0.0.0", _SERVER_PORT),
            spelling(catalogue, "--dp"), str(plan.layout.data),
            spelling(catalogue, "--proxy-url"), Joined(("http://", Symbol.HEAD, f":{wanted.port}")),
            spelling(catalogue, "--nnodes"), str(plan.nodes),
            "--node-rank", Symbol.RANK,
            *wanted.extra_arguments,
        ),
        environment=environment_of(plan, wanted, catalogue),
        ports=(
            Port("server", _SERVER_PORT, internal=True),
            Port("peers", _MASTER_PORT, internal=True),
        ),
    )  # fmt: skip
    if not first:
        return (server,)
    proxy = Process(
        name="proxy",
        argv=("lmdeploy", "serve", "proxy",
              "--server-name", wanted.host, "--server-port", str(wanted.port)),
        ports=(Port("http", wanted.port),),
        probes=probes(plan, wanted.port, "/nodes/status", "/v1/models"),
    )  # fmt: skip
    return (proxy, server)


def _server(
    plan: Plan, wanted: Wanted, catalogue: Catalogue, host: str, port: int
) -> tuple[Word, ...]:
    layout = plan.layout
    words: list[Word] = [
        "lmdeploy", "serve", "api_server", wanted.weights,
        "--backend", "pytorch",
        "--model-name", wanted.name,
        "--server-name", host,
        "--server-port", str(port),
        "--session-len", str(plan.context),
        "--max-batch-size", str(plan.concurrency),
        plan.memory_flag, plan.memory_value,
        "--tp", str(layout.stage),
    ]  # fmt: skip
    if layout.expert > 1:
        words += [spelling(catalogue, "--ep"), str(layout.expert)]
    if plan.mtp:
        words += [spelling(catalogue, "--speculative-algorithm"), "deepseek_mtp"]
        words += ["--speculative-num-draft-tokens", "1"]
    if wanted.prefix_cache:
        words.append("--enable-prefix-caching")
    if wanted.metrics and "--enable-metrics" in catalogue.flags:
        words.append("--enable-metrics")
    return tuple(words)


def environment_of(plan: Plan, wanted: Wanted, catalogue: Catalogue) -> Mapping[str, Word | Secret]:
    found: dict[str, Word | Secret] = {}
    if plan.nodes > 1 and plan.layout.data == 1:
        found[HERE] = Symbol.HERE
        if "LMDEPLOY_EXECUTOR_BACKEND" in catalogue.environment:  # older releases need not be told
            found["LMDEPLOY_EXECUTOR_BACKEND"] = "ray"
    if plan.layout.data > 1:
        found |= {"LMDEPLOY_DP_MASTER_ADDR": Symbol.HEAD}
        found |= {"LMDEPLOY_DP_MASTER_PORT": str(_MASTER_PORT)}
    found |= network_environment(plan, "GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME")
    return found | dict(wanted.extra_environment)
