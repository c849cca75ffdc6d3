"""What `download` copies from: a repository of a Hub, or a folder that was downloaded before."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import unquote, urlsplit

from dsdeploy.checkpoint.manifest import MANIFEST_NAME, Manifest, read_manifest
from dsdeploy.errors import UsageError
from dsdeploy.hub.connections import Connections
from dsdeploy.hub.listing import Listing, RemoteFile
from dsdeploy.hub.metadata import Hub, identity
from dsdeploy.hub.origin import FolderOrigin, Origin
from dsdeploy.hub.repository import Repository, is_commit, parse_repository
from dsdeploy.hub.resolving import HubOrigin
from dsdeploy.hub.retries import Retries


class Source(Protocol):
    @property
    def name(self) -> str:
        """Of the folder that a copy goes to by default."""

    @property
    def default(self) -> tuple[str, ...]:
        """Patterns of what is wanted of it when nothing is said; none: what `choose` holds to be."""

    @property
    def pinned(self) -> bool:
        """Whether its content was named, and not a branch, which moves."""

    def identify(self) -> Mapping[str, Any]:
        """What it is now, as a manifest's `source` says it."""

    def listing(self, identity: Mapping[str, Any]) -> Listing:
        """All of its files."""

    def manifest(self) -> Manifest | None:
        """The one that it has itself."""

    def origin(self, identity: Mapping[str, Any], workers: int) -> Origin: ...


@dataclass(frozen=True)
class HubSource:
    hub: Hub
    repository: Repository
    retries: Retries
    default: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return self.repository.name

    @property
    def pinned(self) -> bool:
        return is_commit(self.repository.revision)

    def identify(self) -> Mapping[str, Any]:
        return identity(self.repository, self.hub.commit_of(self.repository))

    def listing(self, identity: Mapping[str, Any]) -> Listing:
        return self.hub.list_files(self.repository, identity["commit"])

    def manifest(self) -> Manifest | None:
        return None

    def origin(self, identity: Mapping[str, Any], workers: int) -> HubOrigin:
        connections = Connections(self.retries.stall, workers)
        endpoint, token = self.hub.endpoint, self.hub.token
        return HubOrigin(endpoint, self.repository.id, identity["commit"], token, connections)


@dataclass(frozen=True)
class FolderSource:
    folder: Path
    default: tuple[str, ...] = ("*",)

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def pinned(self) -> bool:
        return True

    def identify(self) -> Mapping[str, Any]:
        return self.manifest().source

    def listing(self, identity: Mapping[str, Any]) -> Listing:
        records = self.manifest().files
        files = (RemoteFile(name, each.size, each.sha256, None) for name, each in records.items())
        return Listing(identity, tuple(files))

    def manifest(self) -> Manifest:
        found = read_manifest(self.folder) if self.folder.is_dir() else None
        if found is None:
            raise UsageError(
                f"{self.folder} has no {MANIFEST_NAME} to verify a copy by.",
                "Give a folder that dsdeploy has downloaded or converted, whole.",
            )
        return found

    def origin(self, identity: Mapping[str, Any], workers: int) -> FolderOrigin:
        return FolderOrigin(self.folder)


def stays_at(before: Mapping[str, Any], now: Mapping[str, Any], pinned: bool) -> bool:
    """Whether a branch has moved since `before`, whose commit shall be kept to until it is whole."""
    same = now.get("repository") is not None and before.get("repository") == now["repository"]
    return same and not pinned and before.get("commit") != now["commit"]


def find_source(text: str, revision: str | None, endpoint: str, retries: Retries) -> Source:
    """A folder is written as a path (`./DIR`, `/DIR`, `~/DIR`) or `file:///DIR`."""
    if not text.startswith(("file://", "/", "./", "../", "~")) and text not in (".", ".."):
        return HubSource(Hub(endpoint, retries), parse_repository(text, revision), retries)
    if revision is not None:
        raise UsageError("A folder has no revisions.", "Leave --revision out.")
    path = unquote(urlsplit(text).path) if text.startswith("file://") else text
    return FolderSource(Path(path).expanduser().resolve())
