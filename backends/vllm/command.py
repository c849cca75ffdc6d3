"""`vllm serve` for a plan.

Sources: vLLM's own flags by release, and the layouts that vllm-project/recipes makes for DeepSeek-V3.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

from dsdeploy.deploy.flags import Catalogue, load_catalogue, spelling
from dsdeploy.deploy.launch import Container, Launch, Port, Process, Secret, Symbol, Word
from dsdeploy.deploy.wanted import (
    API_KEY,
    Wanted,
    network_environment,
    nodes_of,
    probes,
    variant,
)
from dsdeploy.errors import UsageError
from dsdeploy.planning.plan import Plan

_MASTER_PORT, _DATA_PORT = 29501, 29550
_PATIENCE = "VLLM_ENGINE_READY_TIMEOUT_S"
_DRAFTING = json.dumps({"method": "mtp", "num_speculative_tokens": 1}, separators=(",", ":"))
_TOOL_PARSERS = {"v3.1": "deepseek_v31", "v3.2": "deepseek_v32", "kimi-k2": "kimi_k2"}
_REASONING_PARSERS = {"r1": "deepseek_r1", "v3.1": "deepseek_v3", "v3.2": "deepseek_v3"}


def launch(plan: Plan, wanted: Wanted, release: str | None) -> Launch:
    chosen = load_catalogue(__package__, release)
    catalogue, note = chosen.catalogue, chosen.note
    return Launch(
        name=wanted.name,
        backend="vllm",
        release=catalogue.release,
        nodes=nodes_of(plan, wanted, lambda first: (_process(plan, wanted, catalogue, first),)),
        container=Container(wanted.image or f"vllm/vllm-openai:v{catalogue.release}"),
        notes=(note,) if note else (),
    )


def _process(plan: Plan, wanted: Wanted, catalogue: Catalogue, first: bool) -> Process:
    peers = Port("peers", _DATA_PORT if plan.layout.data > 1 else _MASTER_PORT, internal=True)
    return Process(
        name="vllm",
        argv=(
            "vllm", "serve", wanted.weights,
            *serving(plan, wanted, catalogue),
            *_parallel(plan, catalogue, first),
            *wanted.extra_arguments,
        ),
        environment=_environment(plan, wanted, catalogue),
        ports=((Port("http", wanted.port),) if first else ())
        + ((peers,) if plan.nodes > 1 else ()),
        probes=probes(plan, wanted.port, "/health", "/health") if first else None,
    )  # fmt: skip


def serving(plan: Plan, wanted: Wanted, catalogue: Catalogue) -> list[Word]:
    words: list[Word] = [
        "--served-model-name", wanted.name,
        "--host", wanted.host,
        "--port", str(wanted.port),
        "--max-model-len", str(plan.context),
        "--max-num-seqs", str(max(plan.concurrency, 1)),
        plan.memory_flag, plan.memory_value,
    ]  # fmt: skip
    if plan.cache_format == "fp8":
        words += ["--kv-cache-dtype", "fp8"]
    if plan.mtp:
        words += [spelling(catalogue, "--speculative-config"), _DRAFTING]
    if not wanted.prefix_cache:
        words.append(spelling(catalogue, "--no-enable-prefix-caching"))
    if wanted.tools:
        parser = _TOOL_PARSERS.get(variant(wanted.weights), "deepseek_v3")
        words += ["--enable-auto-tool-choice", "--tool-call-parser", parser]
    if wanted.reasoning:
        parser = _REASONING_PARSERS.get(variant(wanted.weights), "deepseek_r1")
        words += ["--reasoning-parser", parser]
    return words


def _parallel(plan: Plan, catalogue: Catalogue, first: bool) -> list[Word]:
    layout, nodes = plan.layout, plan.nodes
    words: list[Word] = ["--tensor-parallel-size", str(layout.tensor)]
    if layout.pipeline > 1:
        words += ["--pipeline-parallel-size", str(layout.pipeline)]
    if layout.expert > 1:
        words.append(spelling(catalogue, "--enable-expert-parallel"))
    if layout.data > 1:
        words += ["--data-parallel-size", str(layout.data)]
    if nodes == 1:
        return words
    return words + (
        _replicas(plan, catalogue, nodes, first)
        if layout.data > 1
        else _one_replica(catalogue, nodes, first)
    )


def _one_replica(catalogue: Catalogue, nodes: int, first: bool) -> list[Word]:
    """One engine over several nodes, by its own executor."""
    words: list[Word] = [
        spelling(catalogue, "--nnodes"), str(nodes),
        "--node-rank", Symbol.RANK,
        "--master-addr", Symbol.HEAD,
        "--master-port", str(_MASTER_PORT),
    ]  # fmt: skip
    return words if first else [*words, "--headless"]


def _replicas(plan: Plan, catalogue: Catalogue, nodes: int, first: bool) -> list[Word]:
    if nodes > 2 or plan.layout.pipeline > 1:
        raise UsageError(
            "DP attention of vLLM is rendered for one or two nodes without stages.",
            "Plan with --dp 1, or for SGLang, whose nodes differ by their rank alone.",
        )
    each = plan.layout.data // nodes
    words: list[Word] = [
        spelling(catalogue, "--data-parallel-size-local"), str(each),
        "--data-parallel-address", Symbol.HEAD,
        "--data-parallel-rpc-port", str(_DATA_PORT),
    ]  # fmt: skip
    return words if first else [*words, "--headless", "--data-parallel-start-rank", str(each)]


def _environment(plan: Plan, wanted: Wanted, catalogue: Catalogue) -> Mapping[str, Word | Secret]:
    found: dict[str, Word | Secret] = {}
    if _PATIENCE in catalogue.environment:
        found[_PATIENCE] = str(max(600, 2 * plan.load_seconds))
    if wanted.key:
        found["VLLM_API_KEY"] = API_KEY
    if plan.nodes > 1:
        found["VLLM_HOST_IP"] = Symbol.HERE
    found |= network_environment(plan, "GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME")
    return found | dict(wanted.extra_environment)
