"""dsdeploy serve: a model on an engine, started, checked and kept running."""

from __future__ import annotations

import os
import shlex
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dsdeploy.cli.common import output_options
from dsdeploy.cli.plan_options import wish_options
from dsdeploy.cli.serve_options import serve_options
from dsdeploy.errors import DeployError, ExitCode, UsageError
from dsdeploy.output import Output

if TYPE_CHECKING:
    from dsdeploy.deploy.launch import Launch
    from dsdeploy.deploy.targets.place import Place
    from dsdeploy.deploy.wanted import Wanted
    from dsdeploy.planning.plan import Plan
    from dsdeploy.planning.planner import Wish
    from dsdeploy.serving.deployment import Deployment, NodeScript
    from dsdeploy.serving.engines import Engine

_MISSED = 24
"""Looks in vain, five seconds from one to the next, until an engine counts as dead: a long step may
keep it from answering."""


@click.command("serve")
@click.argument("model", required=False)
@serve_options
@output_options
@wish_options
def command(out: Output, wish: Wish, **given: Any) -> None:
    """Start MODEL on an engine of this machine, watch it, and say when it is ready and right.

    It is planned, checked, started as `render --target shell` writes it, and asked a question. An
    engine that dies or hangs later is started again. Ctrl-C ends it, with all its processes.
    """
    from dsdeploy.cli.launching import header_of
    from dsdeploy.deploy.render import render
    from dsdeploy.deploy.targets.words import part_name
    from dsdeploy.serving.deployment import folder_of
    from dsdeploy.serving.schedulers import START, container_script, scheduler_script

    _demand_one_place(given)
    hosts = _hosts(given)
    given["host"] = given["host"] or (hosts[0].address if hosts else "127.0.0.1")
    plan, wanted, engine, launch = _launched(out, wish, given, hosts)
    folder = folder_of(given["name"] or part_name(wanted.name) or "model")
    if not given["dry_run"]:
        _make_room(out, folder)
    _check(out, launch, wanted, folder, here=not (hosts or given["on"]))
    target = given["on"] or ("docker" if given["runtime"] else "shell")
    rendered = render(launch, target, _place(given, hosts), header_of(plan, launch))
    files = {file.path: file.content for file in rendered}
    if given["dry_run"]:
        for content in files.values():
            out.text(content)
        out.result({"files": files})
        return
    deployment = _deployment(launch, wanted, engine, given, folder.name)
    patience = deployment.patience
    if given["on"]:
        files[START] = scheduler_script(given["on"], launch, wanted, patience.startup)
    elif given["runtime"]:
        files[START] = container_script(given["runtime"], launch, patience.grace)
    _write(folder, replace(deployment, nodes=_scripts(files, hosts)), files)
    _start(out, folder, given["detach"])


@dataclass(frozen=True)
class _Host:
    name: str
    """As ssh takes it."""
    address: str
    """For the other nodes and for clients."""


def _hosts(given: dict[str, Any]) -> list[_Host]:
    from dsdeploy.ssh import address_of

    names = [name.strip() for name in (given["nodes"] or "").split(",") if name.strip()]
    return [_Host(name, address_of(name, given["ssh_config"])) for name in names]


def _demand_one_place(given: dict[str, Any]) -> None:
    places = [name for name in ("nodes", "on", "runtime") if given[name]]
    if len(places) > 1:
        raise UsageError(
            f"--{places[0]} and --{places[1]} do not go together.",
            "dsdeploy render --target docker writes a script for each node.",
        )
    if given["image"] and not (given["runtime"] or given["on"]):
        raise UsageError("--image is of a container.", "--runtime docker or podman runs one.")


def _place(given: dict[str, Any], hosts: list[_Host]) -> Place:
    from dsdeploy.deploy.render import Place

    return Place(
        addresses=tuple(host.address for host in hosts),
        stop_seconds=int(given["grace_seconds"]),
        container_program=given["runtime"] or "docker",
    )


def _scripts(files: dict[str, str], hosts: list[_Host]) -> tuple[NodeScript, ...]:
    """One a node, or the one that hands over to a scheduler."""
    from dsdeploy.serving.deployment import NodeScript
    from dsdeploy.serving.schedulers import START

    if START in files:
        return (NodeScript(START),)
    return tuple(map(NodeScript, files, [host.name for host in hosts] or [""]))


def _launched(
    out: Output, wish: Wish, given: dict[str, Any], hosts: list[_Host]
) -> tuple[Plan, Wanted, Engine, Launch]:
    """What is planned, and the engine that is found for it."""
    from dsdeploy.cli.launching import demand_key, doubts_of, is_loopback, plan_of
    from dsdeploy.deploy.backend import load_backend
    from dsdeploy.serving.engines import engine_in, engine_on, find_engine, found_engines

    elsewhere = bool(hosts or given["runtime"])
    if elsewhere:
        asked: tuple[str, ...] = (given["backend"],) if given["backend"] else ()
    else:
        asked = (given["backend"],) if given["backend"] else found_engines(given["engine_python"])
    plan = plan_of(given["model"], given["plan_file"], given["profile"], asked, wish)
    backend = load_backend(plan.backend)
    wanted = _wanted(plan, given)
    out.line(f"plan        {plan.model}, {plan.precision}, {plan.layout} on {plan.machine.name}")
    if not given["on"]:
        _demand_hosts(plan, hosts)
    if hosts:
        engine = engine_on(backend, hosts[0].name, given["ssh_config"], given["engine_python"])
    elif given["runtime"]:
        engine = engine_in(given["runtime"], backend, given["image"], not given["dry_run"])
    else:
        engine = find_engine(backend, given["engine_python"])
    launch = backend.launch(plan, wanted, engine.release)
    demand_key(launch, wanted, None if is_loopback(given["host"]) else given["host"])
    out.line(f"engine      {plan.backend} {engine.release or launch.release} in {engine.where}")
    for note in (*launch.notes, *doubts_of(launch)):
        out.remark(f"note: {note}")
    return plan, wanted, engine, launch


def _demand_hosts(plan: Plan, hosts: list[_Host]) -> None:
    if hosts and plan.nodes != len(hosts):
        raise UsageError(
            f"The plan is for {plan.nodes} nodes of {plan.machine.name}, and --nodes names "
            f"{len(hosts)}.",
            "Name as many, or plan for as many: --profile, --tp, --pp.",
        )
    if not hosts and plan.nodes > 1:
        raise UsageError(
            f"The plan is for {plan.nodes} nodes, and only this machine was given.",
            "Name them with --nodes host1,host2; or dsdeploy render writes what starts them.",
        )


def _wanted(plan: Plan, given: dict[str, Any]) -> Wanted:
    from dsdeploy.cli.launching import assignment, is_loopback, last_part, weights_of
    from dsdeploy.deploy.wanted import Wanted
    from dsdeploy.serving.environment import KEY_VARIABLE, read_key

    file = str(given["api_key_file"] or "")
    has_key = bool(file or os.environ.get(KEY_VARIABLE)) and not given["insecure"]
    if not has_key and not given["insecure"] and not is_loopback(given["host"]):
        raise UsageError(
            f"--host {given['host']} opens the model to the network, and there is no API key.",
            f"Set {KEY_VARIABLE} or give --api-key-file; --insecure does without.",
        )
    if has_key:
        read_key(file, os.environ)
    weights = weights_of(plan, given["weights"])
    # In a container's own network, from which the port is published on this machine's loopback.
    host = "0.0.0.0" if given["runtime"] else given["host"]
    return Wanted(
        name=given["served_name"] or last_part(weights),
        weights=weights,
        host=host,
        port=given["port"] or _free_port(given["host"]),
        key=has_key,
        tools=given["tools"],
        reasoning=given["reasoning"],
        image=given["image"],
        extra_arguments=given["extra_arguments"],
        extra_environment=dict(map(assignment, given["extra_environment"])),
    )


def _free_port(host: str) -> int:
    import socket

    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as one:
        one.bind((host, 0))
        number: int = one.getsockname()[1]
        return number


def _check(out: Output, launch: Launch, wanted: Wanted, folder: Path, here: bool) -> None:
    """Raises DeployError for the first thing that would let the start fail."""
    from dsdeploy.serving.preflight import preflight

    for finding in preflight(launch, wanted, folder, here):
        if finding.bad:
            raise DeployError(f"{finding.text}.", finding.fix, ExitCode.ENGINE)
        out.line(f"{finding.what:<11} {finding.text}")
        if finding.fix:
            out.remark(f"note: {finding.fix}")


def _deployment(
    launch: Launch, wanted: Wanted, engine: Engine, given: dict[str, Any], name: str,
) -> Deployment:  # fmt: skip
    from dsdeploy.serving.deployment import Deployment, HealthCheck, Patience

    probes = next(each.probes for each in launch.head.processes if each.probes is not None)
    patience = Patience(
        startup=given["startup_seconds"] or probes.startup.seconds,
        grace=given["grace_seconds"],
        restarts=given["restarts"],
    )
    return Deployment(
        name=name,
        backend=launch.backend,
        release=launch.release,
        model=wanted.name,
        weights=wanted.weights,
        address="" if given["on"] == "slurm" else _address(wanted),
        nodes=(),
        ready=HealthCheck(probes.readiness.path, probes.readiness.port),
        alive=HealthCheck(probes.liveness.path, probes.liveness.port, failures=_MISSED),
        patience=patience,
        phases=launch.phases,
        needs_key=wanted.key and bool(launch.secrets),
        key_file=_absolute(given["api_key_file"]),
        environment_file=_absolute(given["env_file"]),
        search_path=engine.search_path,
        ssh_config=_absolute(given["ssh_config"]),
        command=("dsdeploy", *sys.argv[1:]),
    )


def _absolute(path: Path | None) -> str:
    return "" if path is None else str(path.resolve())


def _address(wanted: Wanted) -> str:
    """At which this machine reaches it."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(wanted.host, wanted.host)
    return f"http://[{host}]:{wanted.port}" if ":" in host else f"http://{host}:{wanted.port}"


def _make_room(out: Output, folder: Path) -> None:
    """For a deployment of this name: none may run, and what one has left behind is ended."""
    from dsdeploy.serving.control import end_left_overs
    from dsdeploy.serving.registry import refuse_if_running

    refuse_if_running(folder)
    if count := end_left_overs(folder):
        out.line(f"left over   {count} processes of an earlier {folder.name} are ended")


def _write(folder: Path, deployment: Deployment, files: dict[str, str]) -> None:
    from dsdeploy.serving.deployment import write_deployment
    from dsdeploy.whole_files import replace_file

    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    for name, content in files.items():
        replace_file(folder / name, content.encode(), 0o700)
    write_deployment(folder, deployment)


def _start(out: Output, folder: Path, detach: bool) -> None:
    from dsdeploy.cli.following import end, end_on_terminate, follow, follow_start
    from dsdeploy.serving.control import launch

    end_on_terminate()
    supervised = launch(folder, dict(os.environ), detach)
    out.line(f"log         {folder / 'log'}")
    try:
        follow_start(out, supervised)
        if not detach:
            follow(out, supervised)
    except KeyboardInterrupt:
        if not end(out, supervised):
            raise
    if detach:
        name = shlex.quote(folder.name)
        out.line(f"It runs on: dsdeploy ps, dsdeploy logs {name} -f, dsdeploy stop {name}.")
