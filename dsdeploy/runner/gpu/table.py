"""What has been measured on a card: who computes which shape fastest, and in which tiles.

A table is a file of JSON, one for a card, that `dsdeploy tune` writes and the runner reads. Shapes that
it does not know are cut as `tiles.py` says.
"""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from pydantic import TypeAdapter, ValidationError

from dsdeploy.errors import UsageError
from dsdeploy.runner.gpu.tiles import Card, DecodeTile, Tile
from dsdeploy.whole_files import replace_file

By = Literal["triton", "torch", "deep_gemm", "flash_mla"]
Kernel = Literal["linear", "experts", "decode"]


@dataclass(frozen=True)
class Entry:
    kernel: Kernel
    shape: tuple[int, ...]
    """linear: (outputs, inputs); experts: (slots, hidden, width); decode: (heads,)."""
    rows: int
    """Tokens, or queries: measured with so many, and used for fewer too."""
    by: By
    tiles: tuple[Tile, ...] = ()
    """Triton's: one of `linear`; of gate and up, and of down, for `experts`."""
    decode: DecodeTile | None = None
    microseconds: float = 0.0


@dataclass(frozen=True)
class Table:
    card: str
    versions: dict[str, str] = field(default_factory=dict)
    """Of the libraries that were measured."""
    entries: tuple[Entry, ...] = ()

    def find(self, kernel: Kernel, shape: tuple[int, ...], rows: int) -> Entry | None:
        """The one for the next larger number of rows that was measured, else for the largest."""
        known = sorted(
            (e for e in self.entries if (e.kernel, e.shape) == (kernel, shape)),
            key=lambda entry: entry.rows,
        )
        larger = (entry for entry in known if entry.rows >= rows)
        return next(larger, known[-1] if known else None)


_FILE = TypeAdapter(Table)


def table_path(card: Card) -> Path:
    """In the user's configuration."""
    home = os.environ.get("XDG_CONFIG_HOME") or str(Path.home() / ".config")
    name = re.sub("[^a-z0-9]+", "-", card.name.lower()).strip("-")
    return Path(home) / "dsdeploy" / "kernels" / f"{name}.json"


def load_table(card: Card) -> Table:
    """An empty one where nothing has been measured."""
    path = table_path(card)
    if not path.exists():
        return Table(card.name)
    try:
        return _FILE.validate_json(path.read_bytes())
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "the file"
        raise UsageError(
            f"{path}: {place}: {first['msg']}.", "Measure again: dsdeploy tune."
        ) from None


def save_table(table: Table, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    content = json.dumps(_FILE.dump_python(table, mode="json"), indent=1)
    replace_file(path, content.encode() + b"\n", 0o644)
