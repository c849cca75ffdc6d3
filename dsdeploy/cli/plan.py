"""dsdeploy plan: what fits on a machine, before a byte is loaded."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dsdeploy.cli.common import output_options
from dsdeploy.cli.plan_options import wish_options
from dsdeploy.errors import ExitCode, UsageError
from dsdeploy.output import Output
from dsdeploy.whole_files import replace_file

if TYPE_CHECKING:
    from dsdeploy.hardware.profile import Machine
    from dsdeploy.planning.planner import Candidate, Outcome, Wish
    from dsdeploy.planning.rules import Rules


@click.command("plan")
@click.argument("model")
@click.option("--profile", help="A machine's profile, or a file; default: this machine.")
@click.option("--compare", help="Several profiles, with commas, side by side.")
@click.option("--backend", "backends", multiple=True, help="Only these; default: all.")
@click.option("--output", type=click.Path(path_type=Path), help="Save the chosen plan as YAML.")
@click.option("--report", type=click.Path(path_type=Path), help="Draw it: FILE.html or FILE.svg.")
@output_options
@wish_options
def command(
    out: Output, model: str, profile: str | None, compare: str | None, backends: tuple[str, ...],
    output: Path | None, report: Path | None, wish: Wish,
) -> None:  # fmt: skip
    """Say how MODEL fits on a machine, on which engine, and how fast it may be.

    MODEL is a checkpoint's folder, a known name (DeepSeek-V3, deepseek-ai/DeepSeek-R1-0528,
    Kimi-K2-Instruct, ...) or hf://OWNER/NAME. Nothing is loaded. Exit code 3 when nothing fits.
    """
    from dsdeploy.cli.plan_view import show_comparison, show_outcome
    from dsdeploy.planning.models import find_model
    from dsdeploy.planning.plan import dump_plan, make_plan
    from dsdeploy.planning.planner import plan

    _check(compare, profile, output, report)
    installed = installed_rules()
    asked = installed_rules(backends)
    found = find_model(model)
    wish = _within(wish, found.config.max_position_embeddings)
    if compare is not None:
        outcomes = [plan(found, m, asked, wish) for m in _machines(compare)]
        show_comparison(out, outcomes)
        out.result({"machines": [_document(outcome) for outcome in outcomes]})
        return
    outcome = plan(found, machine_of(profile), asked, wish)
    chosen = outcome.chosen
    saved = None if chosen is None else make_plan(outcome, chosen, asked[chosen.backend])
    show_outcome(out, outcome, saved)
    rest = {} if chosen else _show_ways_out(out, outcome, asked, installed)
    if report is not None:
        from dsdeploy.planning.report import render_report

        replace_file(report, render_report(outcome, report.suffix).encode())
        out.line(f"Drawn in {report}.")
    if output is not None and saved is not None:
        replace_file(output, dump_plan(saved).encode())
        out.line(f"Saved as {output}.")
    out.result(_document(outcome) | rest)
    if chosen is None:
        sys.exit(ExitCode.DOES_NOT_FIT)


def _show_ways_out(
    out: Output, outcome: Outcome, asked: dict[str, Rules], installed: dict[str, Rules]
) -> dict[str, Any]:
    """The same for --json."""
    from dsdeploy.cli.plan_view import show_ways_out
    from dsdeploy.planning.ways_out import shortage, ways_out

    lacking, ways = shortage(outcome), list(ways_out(outcome, asked, installed))
    show_ways_out(out, outcome, lacking, ways)
    return {"shortage_bytes": lacking, "ways_out": [asdict(way) for way in ways]}


def _check(
    compare: str | None, profile: str | None, output: Path | None, report: Path | None
) -> None:
    if compare is not None and (profile or output or report):
        raise UsageError(
            "--compare goes without --profile, --output and --report.",
            "Plan for one machine with --profile NAME.",
        )
    if report is not None and report.suffix not in (".html", ".svg"):
        raise UsageError(f"{report} is neither .html nor .svg.", "--report plan.html")
    for file in (output, report):
        if file is not None and not file.parent.is_dir():
            raise UsageError(f"There is no folder {file.parent}.", f"mkdir -p {file.parent}")


def installed_rules(names: tuple[str, ...] = ()) -> dict[str, Rules]:
    """Of these backends, or of all that are installed."""
    from dsdeploy.deploy.backend import backend_names, load_backend

    return {name: load_backend(name).rules() for name in names or backend_names()}


def _within(wish: Wish, longest: int) -> Wish:
    if wish.context > longest:
        raise UsageError(
            f"--context {wish.context} is more than the {longest} tokens this model has positions for.",
            f"--context {longest}",
        )
    return wish


def machine_of(profile: str | None) -> Machine:
    if profile is None:
        from dsdeploy.hardware.detect import detect

        return detect(Path.cwd())
    from dsdeploy.hardware.profiles import load_machine

    return load_machine(profile)


def _machines(names: str) -> list[Machine]:
    from dsdeploy.hardware.profiles import load_machine

    found = [load_machine(name.strip()) for name in names.split(",") if name.strip()]
    if not found:
        raise UsageError("--compare names no machine.", "--compare 8xh200,2x8xh100")
    return found


def _document(outcome: Outcome) -> dict[str, Any]:
    chosen = outcome.chosen
    return {
        "model": outcome.model.name,
        "stored": outcome.model.stored,
        "machine": outcome.machine.model_dump(mode="json", exclude_defaults=True),
        "wish": asdict(outcome.wish),
        "chosen": None if chosen is None else outcome.candidates.index(chosen),
        "candidates": [_candidate(candidate, outcome) for candidate in outcome.candidates],
    }


def _candidate(candidate: Candidate, outcome: Outcome) -> dict[str, Any]:
    fields = asdict(candidate)
    memory, wish = candidate.memory, outcome.wish
    if memory is not None:
        fields["memory"] |= {
            "weight_bytes": memory.weight_bytes,
            "cache_bytes": memory.cache_bytes(wish.context, wish.concurrency),
            "free": asdict(memory.free),
            "tokens": asdict(memory.tokens),
            "largest_context": memory.largest_context(wish.concurrency),
            "largest_concurrency": memory.largest_concurrency(wish.context),
        }
    return fields
