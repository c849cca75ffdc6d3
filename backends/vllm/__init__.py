"""vLLM on NVIDIA GPUs."""

from __future__ import annotations

from dsdeploy.deploy.backend import CommandLine, PackagedBackend

from . import command, disaggregated


class Vllm(PackagedBackend):
    name = "vllm"
    distribution = "vllm"
    command_lines = (
        CommandLine(("vllm", "serve"), __package__),
        CommandLine(("-m", "vllm.entrypoints.openai.api_server"), __package__),
    )
    launch = staticmethod(command.launch)
    router = staticmethod(disaggregated.router)
