"""dsdeploy ps: what is kept running."""

from __future__ import annotations

import time
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from dsdeploy.cli.common import output_options
from dsdeploy.output import Output
from dsdeploy.units import format_seconds

if TYPE_CHECKING:
    from dsdeploy.serving.registry import Entry

_COLUMNS = ("name", "engine", "model", "where", "state", "up", "requests", "tokens/s", "restarts")


@click.command("ps")
@output_options
def command(out: Output) -> None:
    """Show the deployments of this user: what they serve, where, and how they fare."""
    from dsdeploy.serving.registry import entries

    found = entries()
    if found:
        out.table("deployments", _COLUMNS, [_row(each) for each in found], (5, 6, 7, 8))
    else:
        out.line("Nothing is kept running; dsdeploy serve MODEL starts something.")
    for each in found:
        if text := _remark(each):
            out.remark(text)
    out.result({"deployments": [_document(each) for each in found]})


def _row(entry: Entry) -> tuple[str, ...]:
    deployment, status = entry.deployment, entry.status
    since = status.ready_since if status and entry.state == "ready" else None
    return (
        entry.name,
        f"{deployment.backend} {deployment.release}" if deployment else "?",
        deployment.model if deployment else "?",
        entry.address,
        _state(entry),
        format_seconds(time.time() - since) if since else "",
        _number(status.requests if status and since else None),
        _number(status.tokens_per_second if status and since else None),
        str(status.restarts) if status else "",
    )


def _state(entry: Entry) -> str:
    status = entry.status
    if entry.state != "starting" or status is None:
        return entry.state
    return f"starting: {status.phase} {status.detail}".rstrip()


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.0f}"


def _remark(entry: Entry) -> str:
    """What its user should do about it."""
    name, status = entry.name, entry.status
    match entry.state:
        case "unwatched":
            return (
                f"{name}: its supervisor was killed, and {entry.processes} processes of the engine "
                f"live on. dsdeploy restart {name} watches it again; dsdeploy stop {name} ends it."
            )
        case "lost":
            return f"{name}: its supervisor was killed, and the engine is gone. dsdeploy restart {name}"
        case "failed" | "waiting" if status is not None:
            return f"{name}: {status.reason} {status.fix}".rstrip()
    if status is not None and status.lost_lines:
        return f"{name}: {status.lost_lines} lines of its log are lost for want of space."
    return ""


def _document(entry: Entry) -> dict[str, object]:
    return {
        "name": entry.name,
        "state": entry.state,
        "address": entry.address,
        "watched": entry.watched,
        "processes": entry.processes,
        "deployment": asdict(entry.deployment) if entry.deployment else None,
        "status": asdict(entry.status) if entry.status else None,
    }
