"""SGLang on AMD GPUs."""

from __future__ import annotations

from dsdeploy.deploy.backend import PackagedBackend

from . import command


class Rocm(PackagedBackend):
    name = "rocm"
    distribution = "sglang"
    launch = staticmethod(command.launch)
