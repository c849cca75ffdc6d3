"""dsdeploy restart: a deployment ended and started again as it was."""

from __future__ import annotations

import os

import click

from dsdeploy.cli.common import output_options
from dsdeploy.output import Output


@click.command("restart")
@click.argument("name")
@output_options
def command(out: Output, name: str) -> None:
    """End deployment NAME and start it again, in the background, exactly as it was."""
    from dsdeploy.cli.following import follow_start
    from dsdeploy.serving.control import launch, stop
    from dsdeploy.serving.deployment import read_deployment
    from dsdeploy.serving.environment import key_of
    from dsdeploy.serving.registry import find

    found = find(name)
    key_of(read_deployment(found.folder), os.environ)  # before anything is ended
    if found.watched or found.processes:
        stop(found)
        out.line(f"{name} is stopped.")
    follow_start(out, launch(found.folder, dict(os.environ), detached=True))
    out.line(f"It runs on: dsdeploy ps, dsdeploy logs {name} -f, dsdeploy stop {name}.")
