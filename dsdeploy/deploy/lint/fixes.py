"""Edits of a file: only the characters concerned, and the file whole or as it was."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from dsdeploy.deploy.lint.finding import Edit


def apply(text: str, edits: Iterable[Edit]) -> str:
    """An edit that overlaps the one before is left out."""
    pieces, done = [], 0
    for edit in sorted(set(edits), key=lambda edit: (edit.start, edit.end)):
        if edit.start >= done:
            pieces += [text[done : edit.start], edit.new]
            done = edit.end
    return "".join([*pieces, text[done:]])


def difference(name: str, old: str, new: str) -> str:
    lines = difflib.unified_diff(
        old.splitlines(keepends=True), new.splitlines(keepends=True), name, f"{name} (fixed)"
    )
    return "".join(line if line.endswith("\n") else f"{line}\n" for line in lines)
