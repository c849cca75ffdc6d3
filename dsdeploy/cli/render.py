"""dsdeploy render: a plan as files that somebody runs."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dsdeploy.cli.common import output_options
from dsdeploy.cli.launching import (
    assignment,
    demand_key,
    doubts_of,
    header_of,
    is_loopback,
    last_part,
    plan_of,
    weights_of,
)
from dsdeploy.cli.plan_options import wish_options
from dsdeploy.errors import UsageError
from dsdeploy.output import Output

if TYPE_CHECKING:
    from dsdeploy.deploy.backend import Backend
    from dsdeploy.deploy.disaggregation import Part
    from dsdeploy.deploy.launch import Launch
    from dsdeploy.deploy.render import Place
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
@click.option("--offline", is_flag=True, help="Answer a file of requests, and end: no server.")
@click.option("--no-metrics", is_flag=True, help="Without the engine's metrics.")
@click.option("--no-prefix-cache", is_flag=True, help="Compute shared beginnings anew.")
@click.option("--image", help="A container's image in place of the engine's own.")
@click.option(
    "--address",
    "addresses",
    multiple=True,
    help="Of each node, the first one's first; with --disaggregated: PART=ADDRESS[,ADDRESS...].",
)
@click.option(
    "--disaggregated",
    metavar="P:D",
    help="P servers for prompts, D for decoding, each on such a machine, and a router.",
)
@click.option(
    "--extra-arg", "extra_arguments", multiple=True, help="Passed to the engine as it is."
)
@click.option(
    "--extra-env",
    "extra_environment",
    multiple=True,
    metavar="NAME=VALUE",
    help="Set for the engine.",
)
@output_options
@wish_options
def command(out: Output, wish: Wish, **given: Any) -> None:
    """Write what starts MODEL on a machine: scripts, a compose file, manifests, a job or units.

    A plan comes first, as `dsdeploy plan` makes it; exit code 3 when nothing fits. Every flag is
    one that the engine's release knows. Keys and tokens are never written, only asked for.
    """
    from dsdeploy.deploy.backend import installed_release, load_backend
    from dsdeploy.deploy.render import difference, render, write

    asked = (given["backend"],) if given["backend"] else ()
    plan = plan_of(given["model"], given["plan_file"], given["profile"], asked, wish)
    wanted = _wanted(plan, given)
    backend = load_backend(plan.backend)
    release = given["engine_version"] or installed_release(backend)
    parts = _parts(backend, plan, wanted, release, given["disaggregated"])
    # Clients ask the last one: the router, where there is one.
    launch = parts[-1].launch
    _demand_end(launch, wanted)
    demand_key(launch, wanted, given["host"])
    places = _places(parts, given["addresses"])
    files = [
        replace(file, path=f"{part.name}/{file.path}" if part.name else file.path)
        for part, place in zip(parts, places, strict=True)
        for file in render(part.launch, given["target"], place, header_of(plan, part.launch))
    ]
    folder = given["folder"] or Path(f"{wanted.name}-{given['target']}")
    notes = dict.fromkeys(note for part in parts for note in part.launch.notes)
    doubts = dict.fromkeys(doubt for part in parts for doubt in doubts_of(part.launch))
    for note in (*notes, *doubts):
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
            "notes": list(notes),
            "files": {file.path: file.content for file in files},
        }
    )


def _wanted(plan: Plan, given: dict[str, Any]) -> Wanted:
    from dsdeploy.deploy.wanted import Wanted

    weights = weights_of(plan, given["weights"])
    several = plan.nodes > 1 or given["disaggregated"] is not None
    host = given["host"] or _host(given["target"], several)
    return Wanted(
        name=given["name"] or last_part(weights),
        weights=weights,
        host=host,
        port=given["port"],
        key=not (given["insecure"] or given["offline"]) and not is_loopback(host),
        tools=given["tools"],
        reasoning=given["reasoning"],
        offline=given["offline"],
        metrics=not given["no_metrics"],
        prefix_cache=not given["no_prefix_cache"],
        image=given["image"],
        extra_arguments=given["extra_arguments"],
        extra_environment=dict(map(assignment, given["extra_environment"])),
    )


def _parts(
    backend: Backend, plan: Plan, wanted: Wanted, release: str | None, counts: str | None
) -> tuple[Part, ...]:
    """One without a name, or those of a group."""
    from dsdeploy.deploy.disaggregation import Counts, Part, disaggregated

    if counts is None:
        return (Part("", backend.launch(plan, wanted, release)),)
    found = re.fullmatch("([1-9][0-9]?):([1-9][0-9]?)", counts)
    if found is None:
        raise UsageError(f"--disaggregated {counts} is not P:D, both from 1 to 99.", "1:2")
    return disaggregated(backend, plan, wanted, release, Counts(int(found[1]), int(found[2])))


def _places(parts: tuple[Part, ...], addresses: tuple[str, ...]) -> list[Place]:
    """Each part's own addresses, and those of the first nodes of all."""
    from dsdeploy.deploy.render import Place

    if not parts[0].name:
        return [Place(addresses=addresses)]
    known = dict(_assigned(text, parts) for text in addresses)
    peers = {part.launch.name: known[part.name][0] for part in parts if part.name in known}
    return [Place(addresses=known.get(part.name, ()), peers=peers) for part in parts]


def _assigned(text: str, parts: tuple[Part, ...]) -> tuple[str, tuple[str, ...]]:
    name, _, addresses = text.partition("=")
    names = [part.name for part in parts]
    if name not in names or not addresses:
        raise UsageError(
            f"--address {text} names no part and its addresses.",
            f"--address {names[0]}=10.0.0.1; parts: {', '.join(names)}.",
        )
    return name, tuple(addresses.split(","))


def _demand_end(launch: Launch, wanted: Wanted) -> None:
    """A backend that only serves has paid no heed to the wish."""
    if wanted.offline and not launch.ends:
        raise UsageError(
            f"{launch.backend} only serves, and answers no file of requests.",
            "--backend lmdeploy does.",
        )


def _host(target: str, several: bool) -> str:
    """Open inside a container's own network, from which ports are published one by one; containers
    of several machines share the host's, unless Kubernetes runs them."""
    own_network = target == "kubernetes" or (target in _IN_CONTAINERS and not several)
    return "0.0.0.0" if own_network else "127.0.0.1"
