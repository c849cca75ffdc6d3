"""MindIE on Ascend NPUs."""

from __future__ import annotations

from dsdeploy.deploy.backend import PackagedBackend

from . import command


class MindIE(PackagedBackend):
    name = "mindie"
    launch = staticmethod(command.launch)
