"""A script that answers a file of requests by LMDeploy's pipeline, and ends.

What a plan says is in a file of settings beside it, so that the script is the same for all.
Source: LMDeploy's pipeline.py and messages.py, 0.7.0 to 0.18.0.
"""

from __future__ import annotations

import json
from typing import Any

from dsdeploy.deploy.flags import Catalogue, load_catalogue, spelling
from dsdeploy.deploy.launch import File, Launch, Port, Process
from dsdeploy.deploy.ray import RAY_PORT, follower, on_head
from dsdeploy.deploy.wanted import Wanted, nodes_of
from dsdeploy.errors import UsageError
from dsdeploy.planning.plan import Plan
from dsdeploy.resources import read_template

from .command import HERE, container_of, environment_of, over_ray

_SCRIPT, _SETTINGS = "pipeline.py", "pipeline.json"
_NOTE = (
    "Requests are read from prompts.jsonl in the working folder of the process, and answers written "
    "into answers.jsonl there; --extra-env PROMPTS=/a/path and ANSWERS=/a/path name others, as a job "
    "of Slurm needs, whose folder is new each time."
)


def launch(plan: Plan, wanted: Wanted, release: str | None) -> Launch:
    _refuse(plan, wanted)
    chosen = load_catalogue(__package__, release)
    catalogue = chosen.catalogue
    return Launch(
        name=wanted.name,
        backend="lmdeploy",
        release=catalogue.release,
        nodes=nodes_of(plan, wanted, lambda first: (_process(plan, wanted, catalogue, first),)),
        container=container_of(wanted, catalogue),
        ends=True,
        notes=tuple(filter(None, (chosen.note, _NOTE))),
    )


def _refuse(plan: Plan, wanted: Wanted) -> None:
    if plan.layout.data > 1:
        raise UsageError(
            "A pipeline of LMDeploy has no DP attention, which a server a replica is for.",
            "Plan with --dp 1.",
        )
    if wanted.tools or wanted.reasoning:
        raise UsageError("A pipeline of LMDeploy parses neither calls of tools nor thoughts.")
    if wanted.extra_arguments:
        raise UsageError(
            "A pipeline of LMDeploy takes no arguments.", f"Change the rendered {_SETTINGS}."
        )


def _process(plan: Plan, wanted: Wanted, catalogue: Catalogue, first: bool) -> Process:
    ports = (Port("ray", RAY_PORT, internal=True),) if plan.nodes > 1 else ()
    environment = environment_of(plan, wanted, catalogue)
    if not first:
        return Process("ray", follower(HERE), environment, ports=ports)
    settings = json.dumps(_settings(plan, wanted, catalogue), indent=2) + "\n"
    command = ("python3", _SCRIPT)
    return Process(
        name="pipeline",
        argv=on_head(HERE, command) if plan.nodes > 1 else command,
        environment=environment,
        files=(
            File(_SCRIPT, read_template(f"lmdeploy/{_SCRIPT}")),
            File(_SETTINGS, settings),
        ),
        ports=ports,
    )


def _settings(plan: Plan, wanted: Wanted, catalogue: Catalogue) -> dict[str, Any]:
    """`engine` is LMDeploy's PytorchEngineConfig, `drafts` its SpeculativeConfig."""
    engine: dict[str, Any] = {
        "tp": plan.layout.stage,
        "session_len": plan.context,
        "max_batch_size": plan.concurrency,
        "cache_max_entry_count": float(plan.memory_value),
        "enable_prefix_caching": wanted.prefix_cache,
    }
    if over_ray(plan, catalogue):
        engine["distributed_executor_backend"] = "ray"
    drafts = None
    if plan.mtp:
        spelling(catalogue, "--speculative-algorithm")
        drafts = {"method": "deepseek_mtp", "num_speculative_tokens": 1}
    return {
        "model": wanted.weights,
        "engine": engine,
        "drafts": drafts,
    }
