"""vLLM on Ascend NPUs, by the plugin vllm-ascend."""

from __future__ import annotations

from dsdeploy.deploy.backend import CommandLine, packaged_rules
from dsdeploy.deploy.launch import Launch
from dsdeploy.deploy.wanted import Wanted
from dsdeploy.planning.plan import Plan
from dsdeploy.planning.rules import Rules

from .command import launch


class VllmAscend:
    name = "vllm-ascend"
    distribution: str | None = "vllm-ascend"
    command_lines: tuple[CommandLine, ...] = ()

    def rules(self) -> Rules:
        return packaged_rules(__package__)

    def launch(self, plan: Plan, wanted: Wanted, release: str | None) -> Launch:
        return launch(plan, wanted, release)
