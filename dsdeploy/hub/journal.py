"""Which chunks of which files have come: a line of JSON each.

A line is a hint: a file gets its name only when the hash over all of it is right. So lines need no
sync, and one that speaks of bytes a power cut has lost does no harm.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from dsdeploy.json_lines import JsonLines, read_json_lines


@dataclass
class Come:
    chunks: dict[str, set[int]] = field(default_factory=dict)
    whole: dict[str, str] = field(default_factory=dict)
    """File -> sha256 of what has been verified and has its name."""


class ChunkJournal:
    def __init__(self, path: Path) -> None:
        self._lines = JsonLines(path)

    def chunk(self, file: str, chunk: int) -> None:
        self._lines.append({"file": file, "chunk": chunk})

    def forget(self, file: str) -> None:
        self._lines.append({"file": file, "forgotten": True})

    def whole(self, file: str, sha256: str) -> None:
        self._lines.append({"file": file, "sha256": sha256})

    def close(self) -> None:
        self._lines.close()


def read_chunks(path: Path) -> Come:
    come = Come()
    if not path.exists():
        return come
    for record in read_json_lines(path):
        name = record["file"]
        if "chunk" in record:
            come.chunks.setdefault(name, set()).add(record["chunk"])
        elif "sha256" in record:
            come.whole[name] = record["sha256"]
            come.chunks.pop(name, None)  # a part of this file would be a new one
        else:
            come.chunks.pop(name, None)
            come.whole.pop(name, None)
    return come
