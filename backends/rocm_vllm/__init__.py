"""vLLM on AMD GPUs."""

from __future__ import annotations

from dsdeploy.deploy.backend import PackagedBackend

from . import command


class RocmVllm(PackagedBackend):
    name = "rocm-vllm"
    distribution = "vllm"
    launch = staticmethod(command.launch)
