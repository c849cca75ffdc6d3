"""TensorRT-LLM, by trtllm-serve."""

from __future__ import annotations

from dsdeploy.deploy.backend import CommandLine, PackagedBackend
from dsdeploy.deploy.launch import Launch
from dsdeploy.deploy.wanted import Wanted
from dsdeploy.planning.plan import Plan

from . import command, legacy


class TensorRTLLM(PackagedBackend):
    name = "tensorrt-llm"
    distribution = "tensorrt-llm"
    command_lines = (
        CommandLine(("trtllm-serve", "serve"), __package__),
        CommandLine(("trtllm-serve",), __package__),
    )

    def launch(self, plan: Plan, wanted: Wanted, release: str | None) -> Launch:
        made = legacy.launch if plan.precision in legacy.PRECISIONS else command.launch
        return made(plan, wanted, release)
