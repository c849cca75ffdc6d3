"""dsdeploy render: a plan as files that somebody runs."""

from __future__ import annotations

import ipaddress
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dsdeploy import __version__
from dsdeploy.cli.common import output_options
from dsdeploy.cli.plan_options import wish_options
from dsdeploy.errors import DeployError, ExitCode, UsageError
from dsdeploy.output import Output

if TYPE_CHECKING:
    from dsdeploy.deploy.launch import Launch
    from dsdeploy.deploy.wanted import Wanted
    from dsdeploy.planning.plan import Plan
    from dsdeploy.planning.planner import Wish

_TARGETS = ("shell", "docker", "compose", "kubernetes", "slurm", "systemd")
_IN_CONTAINERS = ("docker", "compose")


@click.command("render")
@click.argument("model", required=False)
@click.option(
    "--plan", "plan_file", type=click.Path(path_type=Path), help="A saved plan, in place of MODEL."
)
@click.option("--profile", help="A machine's profile, or a file; default: this machine.")
@click.option("--backend", help="The engine; default: the one that plan chooses.")
@click.option("--target", type=click.Choice(_TARGETS), required=True, help="Who runs it.")
@click.option("--out", "folder", type=click.Path(path_type=Path), help="Default: NAME-TARGET.")
@click.option(
    "--stdout", "to_stdout", is_flag=True, help="Print the files in place of writing them."
)
@click.option("--dry-run", is_flag=True, help="Say what would be written.")
@click.option("--diff", "show_diff", is_flag=True, help="Show what would change in the folder.")
@click.option("--overwrite", is_flag=True, help="Replace files that dsdeploy did not make.")
@click.option("--weights", help="The checkpoint in the plan's precision, where it is not MODEL.")
@click.option(
    "--engine-version",
    help="The engine's release; default: the one installed here, else the newest known.",
)
@click.option("--name", help="What clients call the model; default: the last part of its name.")
@click.option(
    "--host", help="Default: 127.0.0.1; 0.0.0.0 in a container with a network of its own."
)
@click.option("--port", type=click.IntRange(1, 65535), default=8000, show_default=True)
@click.option("--insecure", is_flag=True, help="Ask clients for no key.")
@click.option("--tools", is_flag=True, help="Parse calls of tools out of answers.")
@click.option("--reasoning", is_flag=True, help="Parse thoughts out of answers.")
@click.option("--no-metrics", is_flag=True, help="Without the engine's metrics.")
@click.option("--no-prefix-cache", is_flag=True, help="Compute shared beginnings anew.")
@click.option("--image", help="A container's image in place of the engine's own.")
@click.option("--address", "addresses", multiple=True, help="Of each node, the first one's first.")
@click.option(
    "--extra-arg", "extra_arguments", multiple=True, help="Passed to the engine as it is."
)
@click.option("--extra-env", "extra_environment", multiple=True, metavar="NAME=VALUE")
@output_options
@wish_options
def command(out: Output, wish: Wish, **given: Any) -> None:
    """Write what starts MODEL on a machine: scripts, a compose file, manifests, a job or units.

    A plan comes first, as `dsdeploy plan` makes it; exit code 3 when nothing fits. Every flag is
    one that the engine's release knows. Keys and tokens are never written, only asked for.
    """
    from dsdeploy.deploy.backend import installed_release, load_backend
    from dsdeploy.deploy.render import Place, difference, render, write

    plan = _plan(given["model"], given["plan_file"], given["profile"], given["backend"], wish)
    wanted = _wanted(plan, given)
    backend = load_backend(plan.backend)
    release = given["engine_version"] or installed_release(backend)
    launch = backend.launch(plan, wanted, release)
    _demand_key(launch, wanted, given["host"])
    place = Place(addresses=given["addresses"])
    files = render(launch, given["target"], place, _header(plan, launch))
    folder = given["folder"] or Path(f"{wanted.name}-{given['target']}")
    for note in (*launch.notes, *_doubts(launch)):
        out.remark(f"note: {note}")
    if given["to_stdout"]:
        for file in files:
            out.text(f"# ==> {file.path}\n{file.content}" if len(files) > 1 else file.content)
    elif given["show_diff"]:
        out.text(difference(files, folder))
    elif given["dry_run"]:
        rows = [(file.path, f"{len(file.content):,}", f"{file.mode:o}") for file in files]
        out.table(f"would write into {folder}", ("file", "bytes", "mode"), rows, (1,))
    else:
        write(files, folder, given["overwrite"])
        out.line(f"{folder}: {', '.join(file.path for file in files)}")
    out.result(
        {
            "backend": launch.backend,
            "release": launch.release,
            "target": given["target"],
            "folder": str(folder),
            "notes": list(launch.notes),
            "files": {file.path: file.content for file in files},
        }
    )


def _plan(
    model: str | None, file: Path | None, profile: str | None, backend: str | None, wish: Wish
) -> Plan:
    if (model is None) == (file is None):
        raise UsageError("Give a MODEL or a saved plan, one of them.", "--plan plan.yaml")
    if file is not None:
        from dsdeploy.planning.plan import load_plan

        return load_plan(file)
    from dsdeploy.cli.plan import installed_rules, machine_of
    from dsdeploy.planning.models import find_model
    from dsdeploy.planning.plan import make_plan
    from dsdeploy.planning.planner import plan

    rules = installed_rules((backend,) if backend else ())
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


def _wanted(plan: Plan, given: dict[str, Any]) -> Wanted:
    from dsdeploy.deploy.wanted import Wanted

    weights = given["weights"] or plan.model
    if plan.precision != plan.stored and given["weights"] is None:
        raise UsageError(
            f"The plan is for {plan.precision} weights, and {plan.model} holds {plan.stored}.",
            "Make them (dsdeploy plan says how) and name them with --weights.",
        )
    local = Path(weights).expanduser()
    host = given["host"] or _host(plan, given["target"])
    return Wanted(
        name=given["name"] or weights.rstrip("/").rpartition("/")[2],
        weights=str(local.resolve()) if local.exists() else weights,
        host=host,
        port=given["port"],
        key=not given["insecure"] and not _is_loopback(host),
        tools=given["tools"],
        reasoning=given["reasoning"],
        metrics=not given["no_metrics"],
        prefix_cache=not given["no_prefix_cache"],
        image=given["image"],
        extra_arguments=given["extra_arguments"],
        extra_environment=dict(map(_assignment, given["extra_environment"])),
    )


def _demand_key(launch: Launch, wanted: Wanted, host: str | None) -> None:
    """An engine that cannot be given a key is opened to a network only when that is asked for."""
    if host is not None and wanted.key and not launch.secrets:
        raise UsageError(
            f"--host {host} opens the model to the network, and {launch.backend} is given no key.",
            "Leave --host out and put a proxy that asks for a key in front; --insecure does without.",
        )


def _host(plan: Plan, target: str) -> str:
    """Open inside a container's own network, from which ports are published one by one; containers
    of several nodes share the host's, unless Kubernetes runs them."""
    own_network = target == "kubernetes" or (target in _IN_CONTAINERS and plan.nodes == 1)
    return "0.0.0.0" if own_network else "127.0.0.1"


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _assignment(text: str) -> tuple[str, str]:
    name, separator, value = text.partition("=")
    if not separator or not name.isidentifier():
        raise UsageError(f"--extra-env {text} is not NAME=VALUE.", "--extra-env NCCL_DEBUG=INFO")
    return name, value


def _doubts(launch: Launch) -> list[str]:
    """What this release does not know; passed through as it is."""
    from dsdeploy.deploy.doubts import doubts

    return [f"{launch.backend} {launch.release}: {problem.message}" for problem in doubts(launch)]


def _header(plan: Plan, launch: Launch) -> tuple[str, ...]:
    chip = plan.machine.accelerator.name
    words = " ".join(map(shlex.quote, ["dsdeploy", *sys.argv[1:]]))
    return (
        f"Made by dsdeploy {__version__} for {launch.backend} {launch.release}.",
        f"{plan.model}, {plan.precision} weights, {plan.layout} on {plan.machine.name} ({chip}): "
        f"{plan.concurrency} requests of {plan.context} tokens.",
        f"Made again by: {words}",
    )
