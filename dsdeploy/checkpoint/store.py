"""Where a checkpoint's files are."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from dsdeploy.checkpoint.direct import PAGE
from dsdeploy.checkpoint.findings import Finding, error
from dsdeploy.checkpoint.index import read_text
from dsdeploy.checkpoint.manifest import MANIFEST_NAME
from dsdeploy.checkpoint.shard import Shard, read_shard
from dsdeploy.errors import IntegrityError, UsageError

STAGING = ".dsdeploy"
"""Where an output is made before it is renamed into its folder."""


class Store(Protocol):
    """A folder, or a commit of a repository."""

    @property
    def where(self) -> str:
        """Its name in sentences."""

    def config(self) -> str:
        """The text of config.json. Raises DeployError when this is no checkpoint."""

    def files(self) -> Mapping[str, int]:
        """Name -> bytes of the files directly in it, sorted; 0 for a link to nothing."""

    def read(self, name: str) -> bytes:
        """Raises IntegrityError when it cannot be had."""

    def shards(self, names: Iterable[str]) -> list[Shard | Finding]:
        """With their headers; in place of a damaged file, what is wrong with it."""

    def identity(self, shards: Iterable[Shard]) -> Mapping[str, Any]:
        """What a manifest says of its source: other content has another identity."""


@dataclass(frozen=True)
class Folder:
    path: Path

    @property
    def where(self) -> str:
        return str(self.path)

    def config(self) -> str:
        if not self.path.is_dir():
            raise UsageError(
                f"{self.path} is not a folder.", "Give the folder that holds config.json."
            )
        path = self.path / "config.json"
        if path.exists():
            return read_text(path)
        if (self.path / STAGING).exists():
            raise IntegrityError(
                f"{self.path} holds an unfinished output.",
                "Run the command that began it again: it goes on where it stopped.",
            )
        raise UsageError(
            f"{self.path} has no config.json.",
            "Give the folder of a Hugging Face checkpoint, or download its config.json as well.",
        )

    def files(self) -> Mapping[str, int]:
        paths = sorted(path for path in self.path.iterdir() if path.is_file() or not path.exists())
        return {path.name: path.stat().st_size if path.exists() else 0 for path in paths}

    def read(self, name: str) -> bytes:
        path = self.path / name
        if path.is_symlink() and not path.exists():
            raise IntegrityError(
                f"{path} is a link to a file that is not there.",
                "Download this file again, or remove the link.",
            )
        return path.read_bytes()

    def shards(self, names: Iterable[str]) -> list[Shard | Finding]:
        with ThreadPoolExecutor(8) as pool:
            return list(pool.map(_shard_or_fault, [self.path / name for name in names]))

    def identity(self, shards: Iterable[Shard]) -> Mapping[str, Any]:
        """Headers and last pages always, contents where the source's own manifest tells them."""
        identity: dict[str, Any] = {
            "shards": {
                shard.name: {
                    "size": shard.size,
                    "header_sha256": shard.header_sha256,
                    "tail_sha256": _tail_hash(shard),
                }
                for shard in shards
            },
        }
        manifest = self.path / MANIFEST_NAME
        if manifest.exists():
            identity["manifest_sha256"] = hashlib.sha256(manifest.read_bytes()).hexdigest()
        return identity


def _shard_or_fault(path: Path) -> Shard | Finding:
    try:
        return read_shard(path)
    except IntegrityError as fault:
        return error(fault.message.rstrip("."), file=path.name, fix=fault.hint)
    except OSError as fault:
        fix = "See to the disk or the permissions."
        return error(f"{path} cannot be read: {fault.strerror}", file=path.name, fix=fix)


def _tail_hash(shard: Shard) -> str:
    """Of the last page: two trainings of one architecture have the same headers."""
    tail = np.empty(min(PAGE, shard.size), np.uint8)
    shard.read(tail, shard.size - len(tail))
    return hashlib.sha256(tail.data).hexdigest()
