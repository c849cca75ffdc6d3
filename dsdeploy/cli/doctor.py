"""dsdeploy doctor: what this machine is and lacks, or what lies between several."""

from __future__ import annotations

import sys
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from dsdeploy.cli.common import output_options
from dsdeploy.errors import ExitCode, UsageError
from dsdeploy.output import Output
from dsdeploy.ssh import CONFIG_VARIABLE
from dsdeploy.units import format_bytes

if TYPE_CHECKING:
    from dsdeploy.doctor.check import Check
    from dsdeploy.doctor.judging.need import Need
    from dsdeploy.doctor.nodes.facts import Nodes


@click.command("doctor")
@click.option("--backend", help="Judge for this engine.")
@click.option("--profile", help="Judge by a machine's profile, or a file.")
@click.option(
    "--folder",
    type=click.Path(path_type=Path),
    default=Path(),
    help="Of the checkpoint, whose disk is measured; default: this one.",
)
@click.option(
    "--engine-python",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="Of the environment that the engine is installed in.",
)
@click.option("--nodes", help="HOST,HOST: judge what lies between these instead, over ssh.")
@click.option(
    "--ssh-config",
    envvar=CONFIG_VARIABLE,
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="For the hosts of --nodes, in place of ssh's own.",
)
@output_options
def command(
    out: Output, backend: str | None, profile: str | None, folder: Path,
    engine_python: Path | None, nodes: str | None, ssh_config: Path | None,
) -> None:  # fmt: skip
    """Say what this machine lacks, and the command that mends it; exit code 1 if it is grave.

    With --nodes: reach, latency, MTU and rate between all pairs, by TCP. Each needs python3.
    """
    if nodes is not None:
        if backend or profile or engine_python:
            raise UsageError(
                "--nodes looks at the network alone.",
                "Run dsdeploy doctor on each node for --backend, --profile and --engine-python.",
            )
        _of_nodes(out, nodes, ssh_config)
    else:
        _of_this_machine(out, _need(backend, profile), folder, engine_python)


def _of_this_machine(out: Output, need: Need, folder: Path, python: Path | None) -> None:
    from dsdeploy.doctor.gathering.machine import gather
    from dsdeploy.doctor.judging.machine import judge

    with out.status_line() as status:
        status.show("looking at this machine, and measuring its disk for two seconds")
        facts = gather(folder, need.engine.backend if need.engine else None, python)
    checks = judge(facts, need)
    detected = facts.accelerators.machine
    machine = detected.model_dump(mode="json", exclude_defaults=True) if detected else None
    _show(out, "this machine", checks, {"machine": machine})


def _of_nodes(out: Output, names: str, config: Path | None) -> None:
    from dsdeploy.doctor.nodes.gathering import gather_nodes
    from dsdeploy.doctor.nodes.judging import judge_nodes

    hosts = [name.strip() for name in names.split(",") if name.strip()]
    if len(hosts) < 2 or len(set(hosts)) < len(hosts):
        raise UsageError(f"--nodes {names} does not name two hosts or more.", "--nodes one,two")
    with out.status_line() as status:
        status.show(f"measuring between {len(hosts)} nodes, about {2 * len(hosts)} seconds")
        found = gather_nodes(hosts, config)
    rows = [(one, *(_cell(found, one, other) for other in hosts)) for one in hosts]
    out.table("round trip, rate and MTU from each node (left) to each (top)", ("", *hosts), rows)
    paths = [asdict(path) for path in found.paths]
    _show(out, "nodes", judge_nodes(found), {"paths": paths, "clocks": found.clocks})


def _cell(nodes: Nodes, source: str, target: str) -> str:
    if source == target:
        return "-"
    path = nodes.path(source, target)
    if path is None:
        return "not known"
    rate = f"{format_bytes(path.rate)}/s"
    return path.problem or f"{path.seconds * 1e3:.2f} ms  {rate}  {path.mtu}"


def _need(backend: str | None, profile: str | None) -> Need:
    from dsdeploy.deploy.backend import load_backend
    from dsdeploy.doctor.judging.need import Engine, Need
    from dsdeploy.hardware.profiles import load_machine

    loaded = load_backend(backend) if backend else None
    engine = Engine(loaded.name, loaded.distribution, loaded.rules()) if loaded else None
    return Need(engine, load_machine(profile) if profile else None)


def _show(out: Output, title: str, checks: list[Check], more: dict[str, object]) -> None:
    from dsdeploy.doctor.check import gravest

    rows = [(check.state, check.name, check.found, check.wanted) for check in checks]
    out.table(title, ("", "what", "found", "wanted"), rows)
    if any(check.fix for check in checks):
        out.line("what to do:")
    for check in checks:
        if check.fix:
            out.line(f"  {check.name}: {check.fix}")
    state = gravest(checks)
    out.line(_summary(checks))
    out.result({"state": state, "checks": [asdict(check) for check in checks], **more})
    if state == "red":
        sys.exit(ExitCode.FAILED)


def _summary(checks: list[Check]) -> str:
    counts = Counter(check.state for check in checks)
    return ", ".join(f"{counts[state]} {state}" for state in ("red", "yellow", "green"))
