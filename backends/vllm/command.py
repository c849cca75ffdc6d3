"""`vllm serve` for a plan.

Sources: vLLM's own flags by release, and the layouts that vllm-project/recipes makes for DeepSeek-V3.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from math import ceil

from dsdeploy.deploy.flags import Catalogue, load_catalogue, spelling
from dsdeploy.deploy.launch import Container, Launch, Port, Process, Secret, Symbol, Word
from dsdeploy.deploy.ray import follower, on_head
from dsdeploy.deploy.wanted import (
    API_KEY,
    Wanted,
    network_environment,
    nodes_of,
    probes,
    variant,
)
from dsdeploy.planning.plan import Plan

from . import disaggregated
from .nodes import over_ray, parallel, peers_port
from .phases import PHASES

_HERE = "VLLM_HOST_IP"
_PATIENCE = "VLLM_ENGINE_READY_TIMEOUT_S"
_DRAFTING = json.dumps({"method": "mtp", "num_speculative_tokens": 1}, separators=(",", ":"))
_CPU_CACHE_BYTES = 2
"""Of those planned, for a cache in float32."""
_TOOL_PARSERS = {"v3.1": "deepseek_v31", "v3.2": "deepseek_v32", "kimi-k2": "kimi_k2"}
_REASONING_PARSERS = {"r1": "deepseek_r1", "v3.1": "deepseek_v3", "v3.2": "deepseek_v3"}


def launch(plan: Plan, wanted: Wanted, release: str | None) -> Launch:
    chosen = load_catalogue(__package__, release)
    catalogue, note = chosen.catalogue, chosen.note
    return Launch(
        name=wanted.name,
        backend="vllm",
        release=catalogue.release,
        nodes=nodes_of(plan, wanted, lambda first: (process(plan, wanted, catalogue, first),)),
        container=Container(wanted.image or f"vllm/vllm-openai:v{catalogue.release}"),
        notes=tuple(filter(None, (note, *(disaggregated.NOTES if wanted.role else ())))),
        phases=PHASES,
    )


def process(
    plan: Plan, wanted: Wanted, catalogue: Catalogue, first: bool,
    environment: Mapping[str, Word | Secret] | None = None, more: tuple[Word, ...] = (),
) -> Process:  # fmt: skip
    """Of one node. `environment` and `more` arguments are what vLLM takes on other chips."""
    ray = over_ray(plan, catalogue)
    command = (
        "vllm", "serve", wanted.weights,
        *serving(plan, wanted, catalogue),
        *parallel(plan, catalogue, first),
        *(disaggregated.serving(plan, catalogue) if wanted.role else ()),
        *more,
        *wanted.extra_arguments,
    )  # fmt: skip
    internal = Port("peers", peers_port(plan, catalogue), internal=True)
    return Process(
        name="vllm" if first or not ray else "ray",
        argv=(on_head(_HERE, command) if first else follower(_HERE)) if ray else command,
        environment={
            **_environment(plan, wanted, catalogue),
            **(disaggregated.environment() if wanted.role else {}),
            **(environment or {}),
            **wanted.extra_environment,
        },
        ports=((Port("http", wanted.port),) if first else ())
        + ((Port("latents", disaggregated.SIDE_PORT, internal=True),) if wanted.role else ())
        + ((internal,) if plan.nodes > 1 else ()),
        probes=probes(plan, wanted.port, "/health", "/health") if first else None,
    )


def serving(plan: Plan, wanted: Wanted, catalogue: Catalogue) -> list[Word]:
    words: list[Word] = [
        "--served-model-name", wanted.name,
        "--host", wanted.host,
        "--port", str(wanted.port),
        "--max-model-len", str(plan.context),
        "--max-num-seqs", str(max(plan.concurrency, 1)),
    ]  # fmt: skip
    if not _on_cpu(plan):
        words += [plan.memory_flag, plan.memory_value]
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


def _on_cpu(plan: Plan) -> bool:
    """There the cache is told in GiB, and the memory's share would be of all that others use."""
    return plan.machine.accelerator.vendor == "cpu"


def _environment(plan: Plan, wanted: Wanted, catalogue: Catalogue) -> Mapping[str, Word | Secret]:
    found: dict[str, Word | Secret] = {}
    if _PATIENCE in catalogue.environment:
        found[_PATIENCE] = str(max(600, 2 * plan.load_seconds))
    if _on_cpu(plan):
        found["VLLM_CPU_KVCACHE_SPACE"] = str(ceil(_CPU_CACHE_BYTES * plan.cache_bytes / 2**30))
    if wanted.key:
        found["VLLM_API_KEY"] = API_KEY
    if plan.nodes > 1:
        found[_HERE] = Symbol.HERE
    return found | network_environment(plan, "GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME")
