"""vLLM on Ascend NPUs, by the plugin vllm-ascend."""

from __future__ import annotations

from dsdeploy.deploy.backend import PackagedBackend

from . import command


class VllmAscend(PackagedBackend):
    name = "vllm-ascend"
    distribution = "vllm-ascend"
    launch = staticmethod(command.launch)
