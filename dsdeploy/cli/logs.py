"""dsdeploy logs: what an engine has said."""

from __future__ import annotations

import time
from pathlib import Path

import click

from dsdeploy.cli.common import output_options
from dsdeploy.output import Output

_PERIOD = 0.2


@click.command("logs")
@click.argument("name")
@click.option("-f", "--follow", is_flag=True, help="Go on with what comes, until it ends.")
@click.option("-n", "--lines", type=click.IntRange(0), default=200, show_default=True)
@output_options
def command(out: Output, name: str, follow: bool, lines: int) -> None:
    """Show the log of deployment NAME: of its engine, and of who watches it. Secrets are left out."""
    from dsdeploy.serving.log import LogReader, last_lines
    from dsdeploy.serving.registry import find

    folder: Path = find(name).folder
    reader = LogReader(folder / "log", from_end=True)
    shown = last_lines(folder / "log", lines) if lines else []
    for line in shown:
        out.line(line)
    out.result({"name": name, "lines": shown})
    while follow and _goes_on(folder):
        for line in reader.new_lines():
            out.line(line)
        time.sleep(_PERIOD)
    if follow:
        for line in reader.new_lines():
            out.line(line)


def _goes_on(folder: Path) -> bool:
    from dsdeploy.serving.registry import is_locked

    return is_locked(folder)
