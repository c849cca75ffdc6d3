"""A commit of a repository as a checkpoint: headers and small files by range requests."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from dsdeploy.checkpoint.direct import Bytes
from dsdeploy.checkpoint.findings import Finding, error
from dsdeploy.checkpoint.index import decode
from dsdeploy.checkpoint.manifest import MANIFEST_NAME, FileRecord, Manifest
from dsdeploy.checkpoint.safetensors import header_length, parse_header
from dsdeploy.checkpoint.shard import Shard
from dsdeploy.checkpoint.store import STAGING
from dsdeploy.errors import IntegrityError, UsageError
from dsdeploy.hub.listing import Listing, RemoteFile, check_path, git_hash
from dsdeploy.hub.origin import Origin
from dsdeploy.hub.retries import Retries
from dsdeploy.hub.stretch import read_stretch

_HEAD = 256 << 10
"""Bytes asked for at first; the headers of DeepSeek-V3's shards have about 100,000."""
_AT_ONCE = 16


class Supply(Protocol):
    """Who has a file's bytes at hand."""

    def read(self, file: RemoteFile, ranges: Iterable[tuple[Bytes, int]]) -> None: ...


@dataclass(frozen=True)
class RemoteData:
    """A shard's bytes, from whoever supplies the store at the time."""

    store: HubStore
    file: RemoteFile

    def read(self, ranges: Iterable[tuple[Bytes, int]]) -> None:
        self.store.supply.read(self.file, ranges)

    def windows(self, nbytes: int) -> Iterator[tuple[int, Bytes]]:
        buffer = np.empty(nbytes, np.uint8)
        for start in range(0, self.file.size, nbytes):
            window = buffer[: min(nbytes, self.file.size - start)]
            self.read([(window, start)])
            yield start, window


@dataclass(frozen=True)
class Ranges:
    """Each stretch by a request of its own; nothing is kept, and only its length is checked."""

    origin: Origin
    retries: Retries

    def read(self, file: RemoteFile, ranges: Iterable[tuple[Bytes, int]]) -> None:
        for target, position in ranges:
            read_stretch(self.origin, file, position, target.data, self.retries)


class HubStore:
    def __init__(self, listing: Listing, origin: Origin, retries: Retries) -> None:
        self._listing, self._origin, self._retries = listing, origin, retries
        own = (STAGING, MANIFEST_NAME)
        files = (file for file in listing.files if "/" not in file.path and file.path not in own)
        self._files = {file.path: file for file in files}
        for path in self._files:
            check_path(path)
        self.supply: Supply = Ranges(origin, retries)

    @property
    def where(self) -> str:
        source = self._listing.source
        return f"hf://{source['repository']}@{source['commit'][:12]}"

    def config(self) -> str:
        if "config.json" not in self._files:
            raise UsageError(
                f"{self.where} has no config.json.", "Name the repository of a checkpoint."
            )
        return decode(self.read("config.json"), f"{self.where}/config.json")

    def files(self) -> Mapping[str, int]:
        return {path: self._files[path].size for path in sorted(self._files)}

    def read(self, name: str) -> bytes:
        file = self._files[name]
        content = self._stretch(file, 0, file.size)
        git = git_hash(file.size)
        git.update(content)
        sha256 = hashlib.sha256(content).hexdigest()
        if file.sha256 not in (None, sha256) or file.git_oid not in (None, git.hexdigest()):
            raise IntegrityError(
                f"{name} of {self.where} does not have the hash that the repository states.",
                "Try again, or another --endpoint.",
            )
        return content

    def shards(self, names: Iterable[str]) -> list[Shard | Finding]:
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            return list(pool.map(self._shard_or_fault, [self._files[name] for name in names]))

    def stated(self) -> Manifest:
        """The hashes that the repository states."""
        files = self._files.values()
        records = {f.path: FileRecord(f.size, f.sha256) for f in files if f.sha256 is not None}
        return Manifest("", {}, self._listing.source, records, {})

    def identity(self, shards: Iterable[Shard]) -> Mapping[str, Any]:
        return self._listing.source

    def _shard_or_fault(self, file: RemoteFile) -> Shard | Finding:
        try:
            return self._shard(file)
        except IntegrityError as fault:
            return error(fault.message.rstrip("."), file=file.path, fix=fault.hint)

    def _shard(self, file: RemoteFile) -> Shard:
        where = f"{self.where}/{file.path}"
        head = self._stretch(file, 0, min(_HEAD, file.size))
        stop = 8 + header_length(head[:8], file.size, where)
        if stop > len(head):
            head += self._stretch(file, len(head), stop)
        header = parse_header(head[8:stop], file.size, where)
        digest = hashlib.sha256(head[:stop]).hexdigest()
        return Shard(file.path, file.size, 0, 0, header, digest, RemoteData(self, file))

    def _stretch(self, file: RemoteFile, start: int, stop: int) -> bytes:
        target = bytearray(stop - start)
        read_stretch(self._origin, file, start, memoryview(target), self._retries)
        return bytes(target)
