"""dsdeploy explain: what a log says of a failure, and what mends it."""

from __future__ import annotations

import re
import sys
from collections import deque
from collections.abc import Iterable, Iterator
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING

import click

from dsdeploy.cli.common import output_options
from dsdeploy.errors import ExitCode, UsageError
from dsdeploy.output import Output

if TYPE_CHECKING:
    from dsdeploy.deploy.diagnose import Found

_GUESSED_BY = 2000
"""Lines at the beginning, by which the engine is told."""
_LAST_ERRORS = 10
_ERROR = re.compile(r"error|exception|fatal|failed|killed|warn\b", re.IGNORECASE)


@click.command("explain")
@click.argument("log", type=click.Path(path_type=Path, allow_dash=True))
@click.option("--backend", help="Whose log it is; default: what it looks like.")
@click.option("--engine-version", help="The engine's release, for the flags in the answer.")
@output_options
def command(out: Output, log: Path, backend: str | None, engine_version: str | None) -> None:
    """Say what the LOG of an engine means, and what to change; - reads standard input.

    Exit code 1 when a known failure is in it, 0 when none is.
    """
    from dsdeploy.deploy.backend import backend_names
    from dsdeploy.deploy.diagnose import diagnose, guess_engine

    if backend is not None and backend not in backend_names():
        raise UsageError(f"There is no backend {backend!r}.", ", ".join(backend_names()))
    lines = _lines(log)
    first = list(islice(lines, _GUESSED_BY))
    engine = backend or guess_engine(first)
    errors: deque[str] = deque(maxlen=_LAST_ERRORS)
    found = diagnose(_noting(chain(first, lines), errors), engine, engine_version)
    _show(out, found, engine, errors)
    out.result({"engine": engine, "found": [_document(each) for each in found]})
    if found:
        sys.exit(ExitCode.FAILED)


def _lines(log: Path) -> Iterator[str]:
    if str(log) == "-":
        yield from sys.stdin
        return
    with log.open(encoding="utf-8", errors="replace") as stream:
        yield from stream


def _noting(lines: Iterable[str], errors: deque[str]) -> Iterator[str]:
    """The same lines; those that look like errors are kept."""
    for line in lines:
        if _ERROR.search(line):
            errors.append(line.rstrip()[:300])
        yield line


def _show(out: Output, found: tuple[Found, ...], engine: str | None, errors: deque[str]) -> None:
    for each in found:
        out.line(f"line {each.line_number}: {each.line[:300]}")
        out.line(f"  {each.diagnosis.meaning}")
        out.line(f"  fix: {each.fix}")
        out.line(f"  ({each.diagnosis.name}; {each.diagnosis.source})\n")
    if found:
        return
    out.line(f"No failure that is known{f' of {engine}' if engine else ''} is in this log.")
    if errors:
        out.line("Its last lines that look like errors:")
        for line in errors:
            out.line(f"  | {line}")


def _document(found: Found) -> dict[str, object]:
    return {
        "name": found.diagnosis.name,
        "kind": found.diagnosis.kind,
        "line": found.line,
        "line_number": found.line_number,
        "meaning": found.diagnosis.meaning,
        "fix": found.fix,
        "source": found.diagnosis.source,
    }
