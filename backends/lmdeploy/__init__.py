"""LMDeploy's PyTorch engine on NVIDIA GPUs."""

from __future__ import annotations

from dsdeploy.deploy.backend import CommandLine, packaged_rules
from dsdeploy.deploy.launch import Launch
from dsdeploy.deploy.wanted import Wanted
from dsdeploy.planning.plan import Plan
from dsdeploy.planning.rules import Rules

from . import command, offline


class LMDeploy:
    name = "lmdeploy"
    distribution: str | None = "lmdeploy"
    command_lines: tuple[CommandLine, ...] = (
        CommandLine(("lmdeploy", "serve", "api_server"), __package__),
        CommandLine(("lmdeploy", "serve", "proxy"), __package__, "proxy"),
    )

    def rules(self) -> Rules:
        return packaged_rules(__package__)

    def launch(self, plan: Plan, wanted: Wanted, release: str | None) -> Launch:
        made = offline.launch if wanted.offline else command.launch
        return made(plan, wanted, release)
