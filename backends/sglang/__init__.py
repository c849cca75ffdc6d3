"""SGLang on NVIDIA GPUs and Ascend NPUs."""

from __future__ import annotations

from dsdeploy.deploy.backend import packaged_rules
from dsdeploy.planning.rules import Rules


class SGLang:
    name = "sglang"

    def rules(self) -> Rules:
        return packaged_rules(__package__)
