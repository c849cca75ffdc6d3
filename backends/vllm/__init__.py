"""vLLM on NVIDIA GPUs."""

from __future__ import annotations

from dsdeploy.deploy.backend import CommandLine, packaged_rules
from dsdeploy.deploy.disaggregation import Servers
from dsdeploy.deploy.launch import Launch
from dsdeploy.deploy.wanted import Wanted
from dsdeploy.planning.plan import Plan
from dsdeploy.planning.rules import Rules

from .command import launch
from .disaggregated import router


class Vllm:
    name = "vllm"
    distribution: str | None = "vllm"
    command_lines: tuple[CommandLine, ...] = (
        CommandLine(("vllm", "serve"), __package__),
        CommandLine(("-m", "vllm.entrypoints.openai.api_server"), __package__),
    )

    def rules(self) -> Rules:
        return packaged_rules(__package__)

    def launch(self, plan: Plan, wanted: Wanted, release: str | None) -> Launch:
        return launch(plan, wanted, release)

    def router(self, plan: Plan, wanted: Wanted, release: str, servers: Servers) -> Launch:
        return router(plan, wanted, release, servers)
