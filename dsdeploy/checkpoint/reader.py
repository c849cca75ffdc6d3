"""A folder of safetensors files as one mapping from tensor name to where its bytes lie.

Only headers are read here. Data are read with pread, never mapped: a file that shrinks while
it is read gives an error then, where a mapping would kill the process.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dsdeploy.checkpoint.index import INDEX_NAME, parse_index, read_text
from dsdeploy.checkpoint.safetensors import Header, header_length, parse_header
from dsdeploy.errors import DiskError, IntegrityError, UsageError
from dsdeploy.model.config import ModelConfig, parse_config, parse_json_object

Bytes = NDArray[np.uint8]


@dataclass(frozen=True)
class Shard:
    """One safetensors file as it was when its header was read."""

    path: Path
    size: int
    mtime_ns: int
    header: Header
    header_sha256: str

    @property
    def name(self) -> str:
        return self.path.name


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """Where one tensor lies."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    shard: Shard
    start: int
    nbytes: int

    def read_into(self, target: Bytes, offset: int) -> None:
        """Fill `target` with the tensor's bytes from `offset` on. Raises IntegrityError when the
        file is not the one whose header was read."""
        read_range(self.shard, target, self.start + offset)


@dataclass(frozen=True)
class Checkpoint:
    folder: Path
    config: ModelConfig
    raw_config: Mapping[str, Any]
    shards: tuple[Shard, ...]
    tensors: Mapping[str, StoredTensor]
    weight_map: Mapping[str, str] | None
    """The index's, or None when there is no index."""
    total_size: int | None
    extra_files: tuple[str, ...]
    """Files beside the weights: tokenizer, generation config, license, ..."""


def open_checkpoint(folder: Path) -> Checkpoint:
    """Read config, index and all headers. Raises on anything that is not well-formed; whether the
    checkpoint is complete is for `audit` to say."""
    raw = read_config(folder)
    config = parse_config(raw, str(folder / "config.json"))
    names = sorted(path.name for path in folder.iterdir() if path.is_file() or path.is_symlink())
    weights = [name for name in names if name.endswith(".safetensors") and name[0] != "."]
    index = folder / INDEX_NAME
    weight_map, total_size = None, None
    if index.exists():
        weight_map, total_size = parse_index(read_text(index), str(index))
    _require_safetensors(folder, names, weights)
    with ThreadPoolExecutor(8) as pool:
        shards = tuple(pool.map(read_shard, [folder / name for name in weights]))
    extras = tuple(n for n in names if n not in {*weights, INDEX_NAME, "config.json"})
    tensors = _merge(shards)
    return Checkpoint(folder, config, raw, shards, tensors, weight_map, total_size, extras)


def read_config(folder: Path) -> dict[str, Any]:
    if not folder.is_dir():
        raise UsageError(f"{folder} is not a folder.", "Give the folder that holds config.json.")
    path = folder / "config.json"
    if not path.exists():
        raise UsageError(
            f"{folder} has no config.json.",
            "Give the folder of a Hugging Face checkpoint, or download its config.json as well.",
        )
    return parse_json_object(read_text(path), str(path))


def _require_safetensors(folder: Path, names: list[str], weights: list[str]) -> None:
    if weights:
        return
    pickles = [name for name in names if name.endswith((".bin", ".pt", ".pth"))]
    if pickles:
        raise IntegrityError(
            f"{folder} holds its weights as pickles ({pickles[0]}), which can run code when loaded.",
            "Use a repository that holds safetensors files.",
        )
    raise IntegrityError(
        f"{folder} holds no safetensors file.", "Download the weights, not only the metadata."
    )


def read_shard(path: Path) -> Shard:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        raise IntegrityError(
            f"{path} is a link to a file that is not there.", "Download this file again."
        ) from None
    try:
        status = os.fstat(descriptor)
        first = os.pread(descriptor, 8, 0)
        length = header_length(first, status.st_size, str(path))
        text = os.pread(descriptor, length, 8)
    finally:
        os.close(descriptor)
    if len(text) < length:
        raise IntegrityError(f"{path} shrank while it was read.", "Download this file again.")
    header = parse_header(text, status.st_size, str(path))
    digest = hashlib.sha256(first + text).hexdigest()
    return Shard(path, status.st_size, status.st_mtime_ns, header, digest)


def _merge(shards: tuple[Shard, ...]) -> dict[str, StoredTensor]:
    tensors: dict[str, StoredTensor] = {}
    for shard in shards:
        for entry in shard.header.entries:
            if entry.name in tensors:
                raise IntegrityError(
                    f"{entry.name} is in two files, {tensors[entry.name].shard.name} and {shard.name}.",
                    "Remove the file that does not belong to this checkpoint (often a leftover of "
                    "another download).",
                )
            tensors[entry.name] = StoredTensor(
                entry.name, entry.dtype, entry.shape, shard, entry.start, entry.nbytes
            )
    return tensors


def read_range(shard: Shard, target: Bytes, position: int) -> None:
    """Fill `target` from `position` of the shard on."""
    try:
        descriptor = os.open(shard.path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise DiskError(f"{shard.path} cannot be read: {error.strerror}.") from None
    try:
        status = os.fstat(descriptor)
        if (status.st_size, status.st_mtime_ns) != (shard.size, shard.mtime_ns):
            raise IntegrityError(
                f"{shard.path} changed while it was read.",
                "Leave the source alone during a conversion, then start again with --overwrite.",
            )
        _read_exactly(descriptor, memoryview(target), position, shard.path)
    except OSError as error:
        raise DiskError(f"{shard.path} cannot be read: {error.strerror}.") from None
    finally:
        os.close(descriptor)


def _read_exactly(descriptor: int, target: memoryview, position: int, path: Path) -> None:
    while target:
        count = os.preadv(descriptor, [target], position)
        if count == 0:
            raise IntegrityError(
                f"{path} ended while it was read: it has been cut.", "Download this file again."
            )
        target = target[count:]
        position += count
