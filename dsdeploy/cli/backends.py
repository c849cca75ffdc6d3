"""dsdeploy backends: the engines that are installed as plugins, and what each can do."""

from __future__ import annotations

import click

from dsdeploy.cli.common import output_options
from dsdeploy.output import Output


@click.group("backends")
def command() -> None:
    """Engines as plugins: list, show."""


@command.command("list")
@output_options
def list_backends(out: Output) -> None:
    """All that are installed, ours and others'."""
    from dsdeploy.deploy.backend import backend_names, load_backend

    found = {name: load_backend(name).rules() for name in backend_names()}
    rows = [
        (name, rules.title, rules.release, " ".join(rules.precisions))
        for name, rules in found.items()
    ]
    out.table("backends", ("name", "engine", "rules for", "weights"), rows)
    out.result({"backends": {name: rules.model_dump(mode="json") for name, rules in found.items()}})


@command.command("show")
@click.argument("name")
@output_options
def show(out: Output, name: str) -> None:
    """On which chips NAME runs which weights, how it spreads a model, and why not otherwise."""
    from dsdeploy.deploy.backend import load_backend
    from dsdeploy.model.formats import FORMATS

    rules = load_backend(name).rules()
    rows = []
    for kept in FORMATS.values():
        support = rules.precisions.get(kept.name)
        if support is None:
            rows.append((kept.name, kept.title, "", "not for this model"))
        else:
            weight_only = [f"{chip} (weights only)" for chip in support.weight_only]
            chips = " ".join([*support.architectures, *weight_only])
            legacy = f"legacy: {support.legacy}" if support.legacy else ""
            rows.append((kept.name, kept.title, chips, legacy or support.because))
    out.table(f"{rules.title} {rules.release}", ("weights", "", "runs on", "else"), rows)
    fraction = rules.memory.fraction
    facts = [
        ("layouts", ", ".join(_layouts(rules.layouts.model_dump()))),
        ("memory", f"{fraction.flag}, of {fraction.of}"),
        ("sources", "; ".join(rules.sources)),
    ]
    out.table("what it does", ("", ""), facts)
    out.result(rules.model_dump(mode="json"))


def _layouts(rules: dict[str, bool]) -> list[str]:
    return [name.replace("_", " ") for name, value in rules.items() if value]
