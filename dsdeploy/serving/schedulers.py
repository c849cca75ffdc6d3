"""The script that hands a deployment over, to a scheduler or to containers, and stays as long as it
runs there.

To its supervisor it is a node's script like any other: it prints the log, ends when the job ends,
and ends the job when it is told to.
"""

from __future__ import annotations

import ipaddress
import shlex
from typing import Literal

from dsdeploy.deploy.launch import Launch
from dsdeploy.deploy.targets.container import container_name
from dsdeploy.deploy.targets.words import launch_name
from dsdeploy.deploy.wanted import Wanted
from dsdeploy.resources import read_template

Scheduler = Literal["slurm", "kubernetes"]
START = "scheduler.sh"


def scheduler_script(scheduler: Scheduler, launch: Launch, wanted: Wanted, startup: float) -> str:
    """Beside the target's own file."""
    settings = {
        "dsdeploy_name": launch_name(launch),
        "dsdeploy_host": wanted.host,
        "dsdeploy_port": str(wanted.port),
        "dsdeploy_loopback": str(int(_is_loopback(wanted.host))),
        "dsdeploy_startup": str(int(startup)),
    }
    lines = [f"{name}={shlex.quote(value)}" for name, value in settings.items()]
    return _script(lines, scheduler)


def container_script(program: str, launch: Launch, grace: float) -> str:
    """Beside `docker.sh`. The program kills before the supervisor would, for it alone can."""
    names = [container_name(launch, process) for process in launch.head.processes]
    lines = [
        f"dsdeploy_program={program}",
        f"dsdeploy_containers=({shlex.join(names)})",
        f"dsdeploy_grace={int(0.8 * grace)}",
    ]
    return _script(lines, "container")


def _script(lines: list[str], template: str) -> str:
    return "\n".join(["#!/usr/bin/env bash", *lines]) + read_template(f"serving/{template}.sh")


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
