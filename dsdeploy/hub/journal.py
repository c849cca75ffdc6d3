"""Which chunks of which files have come: a line of JSON each.

A line is a hint: a file gets its name only when the hash over all of it is right. So lines need no
sync, and one that speaks of bytes a power cut has lost does no harm.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass
class Come:
    chunks: dict[str, set[int]] = field(default_factory=dict)
    whole: dict[str, str] = field(default_factory=dict)
    """File -> sha256 of what has been verified and has its name."""


class ChunkJournal:
    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC)
        self._mutex = threading.Lock()
        os.write(self._descriptor, b"\n")  # a line cut by a kill must not swallow the next one

    def chunk(self, file: str, chunk: int) -> None:
        self._append({"file": file, "chunk": chunk})

    def forget(self, file: str) -> None:
        self._append({"file": file, "forgotten": True})

    def whole(self, file: str, sha256: str) -> None:
        self._append({"file": file, "sha256": sha256})

    def _append(self, record: Mapping[str, Any]) -> None:
        line = memoryview(json.dumps(record, separators=(",", ":")).encode() + b"\n")
        with self._mutex:
            while line:
                line = line[os.write(self._descriptor, line) :]

    def close(self) -> None:
        os.close(self._descriptor)


def read_chunks(path: Path) -> Come:
    come = Come()
    if not path.exists():
        return come
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            record = json.loads(line)
        except ValueError:
            continue
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
