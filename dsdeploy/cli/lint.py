"""dsdeploy lint: what is wrong with somebody's own scripts and manifests."""

from __future__ import annotations

import sys
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dsdeploy.cli.common import output_options
from dsdeploy.errors import ExitCode, UsageError
from dsdeploy.output import Output
from dsdeploy.whole_files import replace_file

if TYPE_CHECKING:
    from dsdeploy.deploy.lint.check import Report
    from dsdeploy.hardware.profile import Machine

_FORMATS = ("shell", "compose", "kubernetes", "systemd")
_LARGEST = 1 << 20


@click.command("lint")
@click.argument("files", nargs=-1, required=True, metavar="FILE...")
@click.option("--engine-version", help="Default: the image's tag, else the newest that is known.")
@click.option("--profile", help="A machine's profile, or a file: its memory is checked as well.")
@click.option("--format", "form", type=click.Choice(_FORMATS), help="Default: by the content.")
@click.option("--fix", is_flag=True, help="Put right in the files what is certain.")
@click.option(
    "--diff", "--dry-run", "show_diff", is_flag=True, help="Show what --fix would change."
)
@output_options
def command(
    out: Output, files: tuple[str, ...], engine_version: str | None, profile: str | None,
    form: Any, fix: bool, show_diff: bool,
) -> None:  # fmt: skip
    """Check the engines' command lines in each FILE, - for standard input.

    A shell or sbatch script, docker run lines, a compose file, Kubernetes manifests or a systemd
    unit. Exit code 0: nothing found; 1: something found; 2: a file cannot be read, or no engine is
    called in it.
    """
    from dsdeploy.deploy.lint.check import lint
    from dsdeploy.deploy.lint.fixes import apply, difference
    from dsdeploy.deploy.lint.formats import guess_format

    if fix and "-" in files and not show_diff:
        raise UsageError("--fix cannot write to standard input.", "Show the changes with --diff.")
    machine = _machine(profile)
    reports = []
    for name in files:
        text = _text(name)
        chosen = form or guess_format(text, name)
        report = lint(text, name, chosen, engine_version, machine)
        new = apply(text, report.edits)
        if show_diff:
            out.text(difference(name, text, new))
        elif fix and new != text:
            # Of a link, the file that it points to.
            target = Path(name).resolve()
            replace_file(target, new.encode(), target.stat().st_mode & 0o7777)
            report = lint(new, name, chosen, engine_version, machine)
            out.remark(f"note: {name} has been changed.")
        _show(out, report, not show_diff)
        reports.append(report)
    out.result({"files": [_document(report) for report in reports]})
    sys.exit(_exit_code(reports))


def _machine(profile: str | None) -> Machine | None:
    from dsdeploy.hardware.profiles import load_machine

    return None if profile is None else load_machine(profile)


def _text(name: str) -> str:
    """With its ends of lines as they are."""
    try:
        with Path(name).open("rb") if name != "-" else nullcontext(sys.stdin.buffer) as stream:
            raw = stream.read(_LARGEST + 1)
    except OSError as error:
        raise UsageError(f"{name} cannot be read: {error.strerror}.") from None
    if len(raw) > _LARGEST:
        raise UsageError(f"{name} is over {_LARGEST:,} bytes: no script that people write.")
    try:
        return raw.decode()
    except UnicodeDecodeError:
        raise UsageError(f"{name} is not UTF-8.", "Save the file as UTF-8.") from None


def _show(out: Output, report: Report, findings: bool) -> None:
    if not report.calls:
        out.problem(f"{report.name}: no engine's command line found, read as {report.form}")
    engines = {f"{c.catalogue.engine} {c.catalogue.release}, {c.chosen_by}" for c in report.calls}
    for engine in sorted(engines):
        out.remark(f"note: {report.name}: {engine}")
    for one in report.findings if findings else ():
        place = f"{report.name}:{report.line(one.at)}"
        out.problem(f"{place}: {one.severity}: {one.message} [{one.rule}]")
        if one.fix:
            out.problem(f"  fix: {one.fix}")


def _document(report: Report) -> dict[str, Any]:
    return {
        "file": report.name,
        "format": report.form,
        "commands": [
            {
                "line": report.line(call.at),
                "engine": call.catalogue.engine,
                "release": call.catalogue.release,
                "chosen": call.chosen_by,
            }
            for call in report.calls
        ],
        "findings": [
            {
                "line": report.line(one.at),
                "severity": one.severity,
                "rule": one.rule,
                "message": one.message,
                "fix": one.fix,
                "fixable": one.edit is not None,
            }
            for one in report.findings
        ],
    }


def _exit_code(reports: list[Report]) -> ExitCode:
    if not all(report.calls for report in reports):
        return ExitCode.USAGE
    return ExitCode.FAILED if any(report.findings for report in reports) else ExitCode.DONE
