"""dsdeploy stop: the end of deployments, and of all that belongs to them."""

from __future__ import annotations

import shutil

import click

from dsdeploy.cli.common import output_options
from dsdeploy.errors import UsageError
from dsdeploy.output import Output


@click.command("stop")
@click.argument("names", nargs=-1, metavar="[NAME]...")
@click.option("--all", "everything", is_flag=True, help="All deployments.")
@click.option("--forget", is_flag=True, help="Remove their logs and records, too.")
@output_options
def command(out: Output, names: tuple[str, ...], everything: bool, forget: bool) -> None:
    """End deployments: their requests may finish, then nothing of them is left."""
    from dsdeploy.serving.control import stop
    from dsdeploy.serving.registry import entries, find

    if bool(names) == everything:
        raise UsageError("Give names, or --all.", "dsdeploy ps lists them.")
    found = [find(name) for name in names] or entries()
    ended = []
    for entry in found:
        if entry.watched or entry.processes:
            left_over = stop(entry)
            told = f" ({left_over} processes that nobody watched)" if left_over else ""
            out.line(f"{entry.name} is stopped{told}.")
            ended.append(entry.name)
        elif not everything:
            out.line(f"{entry.name} does not run.")
        if forget:
            shutil.rmtree(entry.folder)
    if everything and not ended:
        out.line("Nothing runs.")
    out.result({"stopped": ended})
