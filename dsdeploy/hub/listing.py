"""What one commit of a repository holds, and which of it is wanted."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from fnmatch import fnmatchcase
from typing import Any

from dsdeploy.checkpoint.manifest import MANIFEST_NAME
from dsdeploy.checkpoint.store import STAGING
from dsdeploy.errors import IntegrityError

UNWANTED = (
    *("*.py", "*.ipynb"),
    *("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl", "*.pickle", "*.h5", "*.msgpack", "*.onnx"),
    *("*.png", "*.jpg", "*.jpeg", "*.gif", "*.svg", "*.webp", "*.pdf", "*.mp4"),
    *(".gitattributes", MANIFEST_NAME.lower()),
)
"""Code, pickles (which can run code when loaded), and what is for people's eyes; and the manifest
of a checkpoint that dsdeploy made and somebody put on the Hub: the folder gets its own."""


@dataclass(frozen=True)
class RemoteFile:
    path: str
    size: int
    sha256: str | None
    """Of large files; the Hub knows those that it keeps in Git itself by `git_oid` alone."""
    git_oid: str | None


@dataclass(frozen=True)
class Listing:
    source: Mapping[str, Any]
    """`repository` and `commit`; of a folder that was made here, what its manifest says."""
    files: tuple[RemoteFile, ...]

    @property
    def nbytes(self) -> int:
        return sum(file.size for file in self.files)


def git_hash(size: int) -> hashlib._Hash:
    """Git's object id of a file is the sha1 of this beginning and the content."""
    return hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False)


def choose(
    files: Iterable[RemoteFile], include: Sequence[str], exclude: Sequence[str]
) -> tuple[RemoteFile, ...]:
    """Without `include`, all but UNWANTED. Small files come first: they show what is wrong before
    the large ones are fetched. Raises IntegrityError when a wanted path is not safe."""

    def wanted(path: str) -> bool:
        asked = _matches(path, include) if include else not _matches(path.lower(), UNWANTED)
        return asked and not _matches(path, exclude)

    chosen = [file for file in files if wanted(file.path)]
    for file in chosen:
        check_path(file.path)
    _check_distinct([file.path for file in chosen])
    return tuple(sorted(chosen, key=lambda file: (file.path.endswith(".safetensors"), file.path)))


def _matches(path: str, patterns: Iterable[str]) -> bool:
    """A pattern without a slash is for the file's name in any folder; a folder's is for all in it."""
    name = path.rpartition("/")[2]
    return any(
        fnmatchcase(path, pattern + "*" if pattern.endswith("/") else pattern)
        or ("/" not in pattern and fnmatchcase(name, pattern))
        for pattern in patterns
    )


def check_path(path: str) -> None:
    """A plain path below the folder and outside our own bookkeeping, or IntegrityError."""
    parts = path.split("/")
    if not path.isprintable() or "\\" in path or any(part in ("", ".", "..") for part in parts):
        raise IntegrityError(
            f"The repository has a file named {path!r}, which leads out of the folder.",
            "Leave it out with --exclude, and do not trust this repository.",
        )
    if parts[0] in (STAGING, MANIFEST_NAME):
        raise IntegrityError(
            f"The repository has a file named {path!r}, where dsdeploy keeps its own books.",
            f"Leave it out with --exclude '{path}'.",
        )


def _check_distinct(paths: Sequence[str]) -> None:
    folders = {
        "/".join(path.split("/")[:end]) for path in paths for end in range(1, path.count("/") + 1)
    }
    for path in paths:
        if path in folders or paths.count(path) > 1:
            raise IntegrityError(
                f"The repository's listing has {path!r} twice, or as a file and as a folder.",
                f"Leave it out with --exclude '{path}', or ask another --endpoint.",
            )


def render_listing(listing: Listing, include: Sequence[str], exclude: Sequence[str]) -> bytes:
    """With the patterns that chose its files."""
    patterns = {"include": list(include), "exclude": list(exclude)}
    return json.dumps(asdict(listing) | patterns, indent=1).encode() + b"\n"


def parse_listing(text: str) -> tuple[Listing, list[str], list[str]]:
    value: dict[str, Any] = json.loads(text)
    files = tuple(RemoteFile(**file) for file in value["files"])
    return Listing(value["source"], files), value["include"], value["exclude"]
