"""The runner that comes with dsdeploy."""

from __future__ import annotations

from dsdeploy.deploy.backend import PackagedBackend

from . import command


class Native(PackagedBackend):
    name = "native"
    launch = staticmethod(command.launch)
