"""How `vllm serve` is told of a layout, and of the other nodes.

Several nodes are one replica, joined by vLLM's own executor or by Ray, or have whole replicas each.
Source: vLLM's documents on parallelism and scaling, and on data parallel deployment.
"""

from __future__ import annotations

from dsdeploy.deploy.flags import Catalogue, spelling
from dsdeploy.deploy.launch import RankTimes, Symbol, Word
from dsdeploy.deploy.ray import RAY_PORT
from dsdeploy.errors import UsageError
from dsdeploy.planning.plan import Plan

_MASTER_PORT, _DATA_PORT = 29501, 29550


def over_ray(plan: Plan, catalogue: Catalogue) -> bool:
    """Whether the release has no executor of its own for nodes that share a replica."""
    return plan.nodes > 1 and plan.layout.data == 1 and "--nnodes" not in catalogue.flags


def peers_port(plan: Plan, catalogue: Catalogue) -> int:
    if over_ray(plan, catalogue):
        return RAY_PORT
    return _DATA_PORT if plan.layout.data > 1 else _MASTER_PORT


def parallel(plan: Plan, catalogue: Catalogue, first: bool) -> list[Word]:
    layout = plan.layout
    words: list[Word] = ["--tensor-parallel-size", str(layout.tensor)]
    if layout.pipeline > 1:
        words += ["--pipeline-parallel-size", str(layout.pipeline)]
    if layout.expert > 1:
        words.append(spelling(catalogue, "--enable-expert-parallel"))
    if layout.data > 1:
        words += ["--data-parallel-size", str(layout.data)]
    if plan.nodes == 1:
        return words
    if layout.data > 1:
        return words + _replicas(plan, catalogue, first)
    if over_ray(plan, catalogue):
        return [*words, "--distributed-executor-backend", "ray"]
    return words + _one_replica(plan, catalogue, first)


def _one_replica(plan: Plan, catalogue: Catalogue, first: bool) -> list[Word]:
    words: list[Word] = [
        spelling(catalogue, "--nnodes"), str(plan.nodes),
        "--node-rank", Symbol.RANK,
        "--master-addr", Symbol.HEAD,
        "--master-port", str(_MASTER_PORT),
    ]  # fmt: skip
    return words if first else [*words, "--headless"]


def _replicas(plan: Plan, catalogue: Catalogue, first: bool) -> list[Word]:
    """As many on each node; a node's first one has the number after the last one before."""
    if plan.layout.pipeline > 1 or plan.layout.data % plan.nodes:
        raise UsageError(
            f"vLLM keeps a replica without stages on one node, and {plan.layout} on {plan.nodes} "
            "nodes is not so.",
            "Plan with --pp 1 and a --dp that the nodes divide, or with --dp 1.",
        )
    each = plan.layout.data // plan.nodes
    words: list[Word] = [
        spelling(catalogue, "--data-parallel-size-local"), str(each),
        "--data-parallel-address", Symbol.HEAD,
        "--data-parallel-rpc-port", str(_DATA_PORT),
    ]  # fmt: skip
    if first:
        return words
    start = RankTimes(each) if each > 1 else Symbol.RANK
    return [*words, "--headless", "--data-parallel-start-rank", start]
