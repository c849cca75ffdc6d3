"""From what `render` and `serve` are asked to a Launch: the same plan, the same words, the same key."""

from __future__ import annotations

import ipaddress
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from dsdeploy import __version__
from dsdeploy.errors import DeployError, ExitCode, UsageError

if TYPE_CHECKING:
    from dsdeploy.deploy.launch import Launch
    from dsdeploy.deploy.wanted import Wanted
    from dsdeploy.planning.plan import Plan
    from dsdeploy.planning.planner import Wish


def plan_of(
    model: str | None, file: Path | None, profile: str | None, backends: tuple[str, ...], wish: Wish
) -> Plan:
    """For one of these backends, or of all. Raises DeployError, with exit code 3, where nothing
    fits."""
    if (model is None) == (file is None):
        raise UsageError("Give a MODEL or a saved plan, one of them.", "--plan plan.yaml")
    if file is not None:
        from dsdeploy.planning.plan import load_plan

        return load_plan(file)
    from dsdeploy.cli.plan import installed_rules, machine_of
    from dsdeploy.planning.models import find_model
    from dsdeploy.planning.plan import make_plan
    from dsdeploy.planning.planner import plan

    rules = installed_rules(backends)
    outcome = plan(find_model(model or ""), machine_of(profile), rules, wish)
    if outcome.chosen is None:
        again = f"dsdeploy plan {shlex.quote(model or '')}"
        again += f" --profile {shlex.quote(profile)}" if profile else ""
        raise DeployError(
            f"{model} does not fit on {outcome.machine.name} as asked.",
            f"{again} says by how much, and what helps.",
            ExitCode.DOES_NOT_FIT,
        )
    return make_plan(outcome, outcome.chosen, rules[outcome.chosen.backend])


def weights_of(plan: Plan, weights: str | None) -> str:
    """The folder, absolute, or the repository that the engine reads."""
    if plan.precision != plan.stored and weights is None:
        raise UsageError(
            f"The plan is for {plan.precision} weights, and {plan.model} holds {plan.stored}.",
            "Make them (dsdeploy plan says how) and name them with --weights.",
        )
    named = weights or plan.model
    local = Path(named).expanduser()
    return str(local.resolve()) if local.exists() else named


def last_part(name: str) -> str:
    return name.rstrip("/").rpartition("/")[2]


def demand_key(launch: Launch, wanted: Wanted, host: str | None) -> None:
    """An engine that cannot be given a key is opened to a network only when that is asked for."""
    if host is not None and wanted.key and not launch.secrets:
        raise UsageError(
            f"--host {host} opens the model to the network, and {launch.backend} is given no key.",
            "Leave --host out and put a proxy that asks for a key in front; --insecure does without.",
        )


def is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def assignment(text: str) -> tuple[str, str]:
    name, separator, value = text.partition("=")
    if not separator or not name.isidentifier():
        raise UsageError(f"--extra-env {text} is not NAME=VALUE.", "--extra-env NCCL_DEBUG=INFO")
    return name, value


def doubts_of(launch: Launch) -> list[str]:
    """What this release does not know; passed through as it is."""
    from dsdeploy.deploy.doubts import doubts

    return [f"{launch.backend} {launch.release}: {problem.message}" for problem in doubts(launch)]


def header_of(plan: Plan, launch: Launch) -> tuple[str, ...]:
    chip = plan.machine.accelerator.name
    words = " ".join(map(shlex.quote, ["dsdeploy", *sys.argv[1:]]))
    return (
        f"Made by dsdeploy {__version__} for {launch.backend} {launch.release}.",
        f"{plan.model}, {plan.precision} weights, {plan.layout} on {plan.machine.name} ({chip}): "
        f"{plan.concurrency} requests of {plan.context} tokens.",
        f"Made again by: {words}",
    )
