"""Edits of a file: only the characters concerned, and the file whole or as it was."""

from __future__ import annotations

import difflib
import os
import tempfile
from collections.abc import Iterable
from pathlib import Path

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


def replace_file(path: Path, text: str) -> None:
    """With its mode kept; of a link, the file that it points to."""
    path = path.resolve()
    descriptor, beside = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(text.encode())
            os.fchmod(stream.fileno(), path.stat().st_mode & 0o7777)
            stream.flush()
            os.fsync(stream.fileno())
        Path(beside).replace(path)
    except BaseException:
        Path(beside).unlink(missing_ok=True)
        raise
