"""MANIFEST.json: what a finished checkpoint holds, where it came from and how it was made."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from dsdeploy.checkpoint.index import read_text
from dsdeploy.errors import IntegrityError

MANIFEST_NAME = "MANIFEST.json"


@dataclass(frozen=True)
class FileRecord:
    size: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    version: str
    """Of dsdeploy."""
    options: Mapping[str, Any]
    source: Mapping[str, Any]
    files: Mapping[str, FileRecord]
    tensors: Mapping[str, Mapping[str, str]]
    """File name -> tensor name -> sha256."""


def render_manifest(manifest: Manifest) -> str:
    return json.dumps(asdict(manifest), indent=1, sort_keys=True) + "\n"


def parse_manifest(text: str, where: str) -> Manifest:
    try:
        value = json.loads(text)
        files = {_plain(name): FileRecord(**record) for name, record in value["files"].items()}
        tensors = {file: dict(names) for file, names in value["tensors"].items()}
        options, source = dict(value["options"]), dict(value["source"])
        return Manifest(str(value["version"]), options, source, files, tensors)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise IntegrityError(
            f"{where} is damaged: {error!r}.", "Convert again with --overwrite."
        ) from None


def _plain(name: str) -> str:
    """A manifest that came with a download must not make us read other files of this machine."""
    if any(part in ("", ".", "..") for part in name.split("/")):
        raise ValueError(f"{name!r} leads out of the folder")
    return name


def read_manifest(folder: Path) -> Manifest | None:
    path = folder / MANIFEST_NAME
    return parse_manifest(read_text(path), str(path)) if path.exists() else None
