"""LMDeploy's PyTorch engine on NVIDIA GPUs."""

from __future__ import annotations

from dsdeploy.deploy.backend import packaged_rules
from dsdeploy.planning.rules import Rules


class LMDeploy:
    name = "lmdeploy"

    def rules(self) -> Rules:
        return packaged_rules(__package__)
