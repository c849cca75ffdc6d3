"""A file that gets a line of JSON for each thing that is done, and outlives a kill."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any


class JsonLines:
    """Safe to call from several threads."""

    def __init__(self, path: Path) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        self._descriptor = os.open(path, flags, 0o666)
        self._mutex = threading.Lock()
        os.write(self._descriptor, b"\n")  # a line cut by a kill must not swallow the next one

    def append(self, record: Mapping[str, Any]) -> None:
        line = memoryview(json.dumps(record, separators=(",", ":")).encode() + b"\n")
        with self._mutex:
            while line:
                line = line[os.write(self._descriptor, line) :]

    def sync(self) -> None:
        os.fsync(self._descriptor)

    def close(self) -> None:
        os.close(self._descriptor)


def read_json_lines(path: Path) -> Iterator[dict[str, Any]]:
    """Without lines that a kill has cut."""
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            yield json.loads(line)
        except ValueError:
            continue
