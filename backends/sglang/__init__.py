"""SGLang on NVIDIA GPUs and Ascend NPUs."""

from __future__ import annotations

from dsdeploy.deploy.backend import CommandLine, PackagedBackend
from dsdeploy.deploy.disaggregation import Servers
from dsdeploy.deploy.launch import Launch
from dsdeploy.deploy.wanted import Wanted
from dsdeploy.planning.plan import Plan

from . import command, disaggregated


class SGLang(PackagedBackend):
    name = "sglang"
    distribution = "sglang"
    command_lines = (
        CommandLine(("sglang", "serve"), __package__),
        CommandLine(("-m", "sglang.launch_server"), __package__),
    )
    launch = staticmethod(command.launch)

    def router(self, plan: Plan, wanted: Wanted, release: str, servers: Servers) -> Launch:
        image = command.image(plan, wanted, release)
        return disaggregated.router(plan, wanted, release, servers, image)
