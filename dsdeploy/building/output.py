"""A whole output as data: its files, what lies beside them, and the share of each machine."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from dsdeploy import __version__
from dsdeploy.building.layout import PlannedFile
from dsdeploy.building.writer import WINDOW
from dsdeploy.checkpoint.index import render_index


@dataclass(frozen=True)
class Part:
    """Part `index` (from 1) of `count`, each of which fills whole files."""

    index: int = 1
    count: int = 1


@dataclass(frozen=True)
class BuildPlan:
    files: tuple[PlannedFile, ...]
    companions: Mapping[str, bytes]
    """Small files beside the weights, by content."""
    options: Mapping[str, Any]
    source: Mapping[str, Any]
    with_index: bool = True
    stamps: Mapping[str, int] = field(default_factory=dict)
    """Modification times (ns) of the source's files: they tell that it changed between two runs,
    and stay out of the manifest, which is the same on every machine."""
    changed_ns: int = 0
    """When the source's files last changed by the file system's own clock (ctime), which, unlike a
    modification time, no tool sets back."""

    @property
    def nbytes(self) -> int:
        return sum(file.size for file in self.files)

    @property
    def index(self) -> str:
        """The text of the index: each tensor's file, and the exact size of all."""
        weight_map = {tensor.name: file.name for file in self.files for tensor in file.tensors}
        return render_index(weight_map, self.tensor_bytes)

    @property
    def tensor_bytes(self) -> int:
        return sum(tensor.nbytes for file in self.files for tensor in file.tensors)

    @property
    def companion_hashes(self) -> dict[str, str]:
        return {
            name: hashlib.sha256(content).hexdigest() for name, content in self.companions.items()
        }

    def fingerprint(self, parts: int) -> str:
        """What two calls must share to work on one output, in `parts` parts."""
        identity = [
            __version__,
            WINDOW,
            parts,
            dict(self.options),
            dict(self.source),
            dict(self.stamps),
            self.companion_hashes,
            [
                [file.name, file.size, hashlib.sha256(file.header).hexdigest()]
                for file in self.files
            ],
        ]
        return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()


def files_of_part(files: tuple[PlannedFile, ...], part: Part) -> list[PlannedFile]:
    """Whole files, the largest first to the part that has least: loads balanced by bytes."""
    loads = [0] * part.count
    mine: set[str] = set()
    for file in sorted(files, key=lambda file: (-file.size, file.name)):
        lightest = loads.index(min(loads))
        loads[lightest] += file.size
        if lightest == part.index - 1:
            mine.add(file.name)
    return [file for file in files if file.name in mine]
