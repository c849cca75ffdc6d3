"""The one place that prints: rich on a terminal, plain text in a pipe, JSON when asked.

Data go to stdout, progress and remarks to stderr.
"""

from __future__ import annotations

import json
import shutil
import sys
import threading
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from dsdeploy.errors import DeployError
from dsdeploy.units import format_bytes, format_seconds


class Output:
    def __init__(self, json_mode: bool = False, quiet: bool = False) -> None:
        self._json, self._quiet = json_mode, quiet

    @property
    def _human(self) -> bool:
        return not (self._json or self._quiet)

    def line(self, text: str) -> None:
        if self._human:
            print(text, flush=True)

    def text(self, text: str) -> None:
        """A piece of running text, without an end of line."""
        if not self._json:
            print(text, end="", flush=True)

    def remark(self, text: str) -> None:
        """Beside the data, on stderr."""
        if self._human:
            print(text, file=sys.stderr)

    def problem(self, text: str) -> None:
        """A line that --quiet does not swallow."""
        if not self._json:
            print(text, file=sys.stderr if self._quiet else sys.stdout)

    def result(self, document: Mapping[str, Any]) -> None:
        """The whole answer, for `--json` only."""
        if self._json:
            print(json.dumps(document, indent=2))

    def event(self, document: Mapping[str, Any]) -> None:
        """Something that has happened while the command goes on, one line of JSON for `--json`."""
        if self._json:
            print(json.dumps(document), flush=True)

    def error(self, error: DeployError) -> None:
        if self._json:
            fields = {"message": error.message, "hint": error.hint, "exit_code": error.exit_code}
            print(json.dumps({"error": fields}, indent=2))
            return
        print(f"error: {error.message}", file=sys.stderr)
        if error.hint:
            print(f"  fix: {error.hint}", file=sys.stderr)

    def table(
        self,
        title: str,
        columns: Sequence[str],
        rows: Iterable[Sequence[str]],
        right: Collection[int] = (),
    ) -> None:
        if not self._human:
            return
        if sys.stdout.isatty():
            _rich_table(title, columns, rows, right)
        else:
            _plain_table(title, columns, [list(row) for row in rows], right)

    def bar(self, parts: Sequence[tuple[str, int]]) -> None:
        """Shares of a whole on one line, with a legend."""
        total = sum(size for _, size in parts)
        if not self._human or not total:
            return
        from rich.console import Console
        from rich.text import Text

        text = Text()
        colours = ("cyan", "magenta", "yellow", "green", "blue")
        letters = "█▓▒░▚▞▦▥▤▨◫▧"
        styles = [(letters[i % 12], colours[i % 5]) for i in range(len(parts))]
        for (letter, colour), (_, size) in zip(styles, parts, strict=True):
            text.append(letter * max(1, round(60 * size / total)), colour)
        for (letter, colour), (label, size) in zip(styles, parts, strict=True):
            text.append(f"\n{letter} ", colour)
            text.append(f"{label} {format_bytes(size)} ({100 * size / total:.1f} %)")
        Console(highlight=False).print(text)

    def progress(self, verb: str, total: int) -> Progress:
        return Progress(verb, total, visible=self._human)

    def status_line(self) -> StatusLine:
        return StatusLine(visible=self._human and sys.stderr.isatty())


def _rich_table(
    title: str, columns: Sequence[str], rows: Iterable[Sequence[str]], right: Collection[int]
) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, show_header=any(columns))
    for index, column in enumerate(columns):
        table.add_column(column, justify="right" if index in right else "left", overflow="fold")
    for row in rows:
        table.add_row(*row)
    Console(highlight=False, markup=False).print(table)


def _plain_table(
    title: str, columns: Sequence[str], rows: list[list[str]], right: Collection[int]
) -> None:
    lines = [list(columns), *rows] if any(columns) else rows
    widths = [max(map(len, cells)) for cells in zip(*lines, strict=True)]
    print(f"{title}:")
    for cells in lines:
        padded = [
            cell.rjust(width) if index in right else cell.ljust(width)
            for index, (cell, width) in enumerate(zip(cells, widths, strict=True))
        ]
        print("  " + "  ".join(padded).rstrip())


class StatusLine:
    """What goes on now, rewritten in place; on a terminal only."""

    def __init__(self, visible: bool) -> None:
        self._visible = visible

    def __enter__(self) -> StatusLine:
        return self

    def __exit__(self, *_: object) -> None:
        self.clear()

    def show(self, text: str) -> None:
        self._print(text[: shutil.get_terminal_size().columns - 1])

    def clear(self) -> None:
        self._print("")

    def _print(self, text: str) -> None:
        if self._visible:
            print(f"\r\x1b[K{text}", end="", file=sys.stderr, flush=True)


class Progress:
    """One line: done, share, rate, time left, where. Rewritten in place on a terminal, repeated
    every ten seconds in a log. Safe to call from several threads."""

    def __init__(self, verb: str, total: int, visible: bool) -> None:
        self._verb, self._total, self._visible = verb, total, visible
        self._terminal = sys.stderr.isatty()
        self._every = 0.1 if self._terminal else 10.0
        self._mutex = threading.Lock()
        self._done = 0
        self._detail = ""

    def __enter__(self) -> Progress:
        self._begun = self._shown = time.monotonic()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self._print(self._summary(), end="\n")
        else:
            self._print(self._state(), end="\n")

    def advance(self, nbytes: int, detail: str) -> None:
        with self._mutex:
            self._done += nbytes
            self._detail = detail
            now = time.monotonic()
            if now - self._shown >= self._every:
                self._shown = now
                self._print(self._state(), end="" if self._terminal else "\n")

    def _state(self) -> str:
        seconds = self._seconds()
        rate = self._done / seconds
        left = (self._total - self._done) / rate if rate else 0.0
        share = 100 * self._done / self._total if self._total else 100
        return (
            f"{self._verb} {format_bytes(self._done)} of {format_bytes(self._total)} "
            f"({share:.0f} %) {format_bytes(rate)}/s ETA {format_seconds(left)} {self._detail}"
        )

    def _summary(self) -> str:
        seconds = self._seconds()
        rate = format_bytes(self._done / seconds)
        return f"{self._verb} {format_bytes(self._done)} in {seconds:.1f} s ({rate}/s)"

    def _seconds(self) -> float:
        return max(time.monotonic() - self._begun, 1e-9)

    def _print(self, text: str, end: str) -> None:
        if self._visible:
            start = "\r\x1b[K" if self._terminal else ""
            print(start + text[: self._width()], end=end, file=sys.stderr, flush=True)

    def _width(self) -> int:
        return shutil.get_terminal_size().columns - 1 if self._terminal else 1000
