"""The runner that comes with dsdeploy."""

from __future__ import annotations

from dsdeploy.deploy.backend import packaged_rules
from dsdeploy.planning.rules import Rules


class Native:
    name = "native"

    def rules(self) -> Rules:
        return packaged_rules(__package__)
