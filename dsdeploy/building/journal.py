"""What is done: a line of JSON for each finished window and each finished file.

A window's line carries the sha256 of the file up to the window's end. Going on, a window with a
line is read back instead of made; if the running hash disagrees (power was lost before the disk
had it), it is made again. So a line is a hint that is always verified, and needs no sync.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from dsdeploy.json_lines import JsonLines, read_json_lines


@dataclass(frozen=True)
class FinishedFile:
    sha256: str
    tensors: Mapping[str, str]
    """sha256 of each tensor."""


Windows = dict[str, dict[int, str]]
"""File name -> number of a window -> sha256 of the file up to the window's end."""


@dataclass
class Done:
    windows: Windows = field(default_factory=dict)
    files: dict[str, FinishedFile] = field(default_factory=dict)
    checked: set[str] = field(default_factory=set)


class Journal:
    """The journal of the process that holds the part's lock."""

    def __init__(self, path: Path) -> None:
        self._lines = JsonLines(path)

    def window(self, file: str, window: int, sha256: str) -> None:
        self._lines.append({"file": file, "window": window, "sha256": sha256})

    def finished(self, file: str, record: FinishedFile) -> None:
        self._lines.append({"file": file, "sha256": record.sha256, "tensors": dict(record.tensors)})
        self._lines.sync()

    def checked(self, file: str) -> None:
        """The file may be committed: it read back as written, or no check was asked for."""
        self._lines.append({"file": file, "checked": True})

    def forget(self, file: str) -> None:
        """What was noted of this file no longer holds."""
        self._lines.append({"file": file, "forgotten": True})
        self._lines.sync()

    def close(self) -> None:
        self._lines.close()


def load_journals(paths: Iterable[Path]) -> Done:
    """What all parts have done so far; lines cut by a kill are left out."""
    done = Done()
    for path in paths:
        for record in read_json_lines(path):
            if "forgotten" in record:
                done.windows.pop(record["file"], None)
                done.files.pop(record["file"], None)
                done.checked.discard(record["file"])
            elif "checked" in record:
                done.checked.add(record["file"])
            elif "tensors" in record:
                finished = FinishedFile(record["sha256"], record["tensors"])
                done.files[record["file"]] = finished
            else:
                done.windows.setdefault(record["file"], {})[record["window"]] = record["sha256"]
    return done
