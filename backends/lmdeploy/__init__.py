"""LMDeploy's PyTorch engine on NVIDIA GPUs."""

from __future__ import annotations

from dsdeploy.deploy.backend import CommandLine, PackagedBackend
from dsdeploy.deploy.launch import Launch
from dsdeploy.deploy.wanted import Wanted
from dsdeploy.planning.plan import Plan

from . import command, offline


class LMDeploy(PackagedBackend):
    name = "lmdeploy"
    distribution = "lmdeploy"
    command_lines = (
        CommandLine(("lmdeploy", "serve", "api_server"), __package__),
        CommandLine(("lmdeploy", "serve", "proxy"), __package__, "proxy"),
    )

    def launch(self, plan: Plan, wanted: Wanted, release: str | None) -> Launch:
        made = offline.launch if wanted.offline else command.launch
        return made(plan, wanted, release)
