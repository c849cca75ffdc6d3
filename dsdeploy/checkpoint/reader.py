"""A folder of safetensors files as one mapping from tensor name to where its bytes lie.

Only headers are read here. What is wrong with a file is kept as a finding, so that an inspection
names every damaged file at once. Data are read with pread, never mapped: a file that shrinks while
it is read gives an error then, where a mapping would kill the process.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dsdeploy.checkpoint.direct import Bytes
from dsdeploy.checkpoint.findings import DOWNLOAD_AGAIN, Finding, error
from dsdeploy.checkpoint.index import INDEX_NAME, parse_index, read_text
from dsdeploy.checkpoint.safetensors import Entry, Header, header_length, parse_header
from dsdeploy.errors import DiskError, IntegrityError, UsageError
from dsdeploy.model.config import ModelConfig, parse_config, parse_json_object

STAGING = ".dsdeploy"
"""Where an output is made before it is renamed into its folder."""


@dataclass(frozen=True)
class Shard:
    """One safetensors file as it was when its header was read."""

    path: Path
    size: int
    mtime_ns: int
    ctime_ns: int
    header: Header
    header_sha256: str

    @property
    def name(self) -> str:
        return self.path.name


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """One tensor and the file it lies in."""

    shard: Shard
    entry: Entry

    @property
    def name(self) -> str:
        return self.entry.name

    @property
    def dtype(self) -> str:
        return self.entry.dtype

    @property
    def shape(self) -> tuple[int, ...]:
        return self.entry.shape

    @property
    def nbytes(self) -> int:
        return self.entry.nbytes

    def read_into(self, target: Bytes, offset: int) -> None:
        """Fill `target` with the tensor's bytes from `offset` on. Raises IntegrityError when the
        file is not the one whose header was read."""
        read_range(self.shard, target, self.entry.start + offset)


@dataclass(frozen=True)
class Checkpoint:
    folder: Path
    config: ModelConfig
    raw_config: Mapping[str, Any]
    ranks: int | None
    """Number of the per-rank files of DeepSeek's demo, or None for a Hugging Face checkpoint."""
    shards: tuple[Shard, ...]
    tensors: Mapping[str, StoredTensor]
    """Empty for per-rank files, each of which has its own part of a tensor."""
    weight_map: Mapping[str, str] | None
    """The index's, or None when there is no (readable) index."""
    total_size: int | None
    extra_files: tuple[str, ...]
    """Files beside the weights: tokenizer, generation config, license, ..."""
    faults: tuple[Finding, ...]
    """Files that could not be read, and tensors that are in two of them."""


def open_checkpoint(folder: Path) -> Checkpoint:
    """Read config, index and all headers. Raises when there is no readable config.json of a known
    architecture or no safetensors file; whether the checkpoint is whole is for `audit` to say."""
    raw = read_config(folder)
    config = parse_config(raw, str(folder / "config.json"))
    names = sorted(path.name for path in folder.iterdir() if path.is_file() or path.is_symlink())
    weights = [name for name in names if name.endswith(".safetensors") and name[0] != "."]
    _require_safetensors(folder, names, weights)
    faults: list[Finding] = []
    weight_map, total_size = _read_index(folder, faults)
    with ThreadPoolExecutor(8) as pool:
        outcomes = list(pool.map(_shard_or_fault, [folder / name for name in weights]))
    faults += [outcome for outcome in outcomes if isinstance(outcome, Finding)]
    shards = tuple(outcome for outcome in outcomes if isinstance(outcome, Shard))
    ranks = _demo_ranks(weights)
    return Checkpoint(
        folder=folder,
        config=config,
        raw_config=raw,
        ranks=ranks,
        shards=shards,
        tensors=_merge(shards, faults) if ranks is None else {},
        weight_map=weight_map,
        total_size=total_size,
        extra_files=tuple(n for n in names if n not in {*weights, INDEX_NAME, "config.json"}),
        faults=tuple(faults),
    )


def read_config(folder: Path) -> dict[str, Any]:
    if not folder.is_dir():
        raise UsageError(f"{folder} is not a folder.", "Give the folder that holds config.json.")
    path = folder / "config.json"
    if path.exists():
        return parse_json_object(read_text(path), str(path))
    if (folder / STAGING).exists():
        raise IntegrityError(
            f"{folder} holds an unfinished output.",
            "Run the command that began it again: it goes on where it stopped.",
        )
    raise UsageError(
        f"{folder} has no config.json.",
        "Give the folder of a Hugging Face checkpoint, or download its config.json as well.",
    )


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


def _demo_ranks(weights: list[str]) -> int | None:
    counts = [re.fullmatch(r"model\d+-mp(\d+)\.safetensors", name) for name in weights]
    found = [int(match[1]) for match in counts if match]
    return max(found) if len(found) == len(weights) else None


def _read_index(folder: Path, faults: list[Finding]) -> tuple[Mapping[str, str] | None, int | None]:
    path = folder / INDEX_NAME
    if not path.exists():
        if path.is_symlink():
            what = f"{path} is a link to a file that is not there"
            faults.append(error(what, file=INDEX_NAME, fix=DOWNLOAD_AGAIN))
        return None, None
    try:
        return parse_index(read_text(path), str(path))
    except IntegrityError as fault:
        faults.append(error(fault.message.rstrip("."), file=INDEX_NAME, fix=fault.hint))
        return None, None


def _shard_or_fault(path: Path) -> Shard | Finding:
    try:
        return read_shard(path)
    except IntegrityError as fault:
        return error(fault.message.rstrip("."), file=path.name, fix=fault.hint)
    except OSError as fault:
        fix = "See to the disk or the permissions."
        return error(f"{path} cannot be read: {fault.strerror}", file=path.name, fix=fix)


def read_shard(path: Path) -> Shard:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        raise IntegrityError(
            f"{path} is a link to a file that is not there.", DOWNLOAD_AGAIN
        ) from None
    try:
        status = os.fstat(descriptor)
        first = os.pread(descriptor, 8, 0)
        length = header_length(first, status.st_size, str(path))
        text = os.pread(descriptor, length, 8)
    finally:
        os.close(descriptor)
    if len(text) < length:
        raise IntegrityError(f"{path} shrank while it was read.", DOWNLOAD_AGAIN)
    header = parse_header(text, status.st_size, str(path))
    digest = hashlib.sha256(first + text).hexdigest()
    return Shard(path, status.st_size, status.st_mtime_ns, status.st_ctime_ns, header, digest)


def _merge(shards: tuple[Shard, ...], faults: list[Finding]) -> dict[str, StoredTensor]:
    tensors: dict[str, StoredTensor] = {}
    for shard in shards:
        for entry in shard.header.entries:
            if entry.name in tensors:
                first = tensors[entry.name].shard.name
                faults.append(
                    error(
                        f"{entry.name} is in two files, {first} and {shard.name}",
                        entry.name,
                        shard.name,
                        "Remove the file that does not belong to this checkpoint (often a "
                        "leftover of another download).",
                    )
                )
                continue
            tensors[entry.name] = StoredTensor(shard, entry)
    return tensors


def read_range(shard: Shard, target: Bytes, position: int) -> None:
    """Fill `target` from `position` of the shard on."""
    read_ranges(shard, [(target, position)])


def read_ranges(shard: Shard, ranges: Iterable[tuple[Bytes, int]]) -> None:
    """Fill each target from its position of the shard on, with the file opened once."""
    try:
        descriptor = os.open(shard.path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as fault:
        raise DiskError(f"{shard.path} cannot be read: {fault.strerror}.") from None
    try:
        status = os.fstat(descriptor)
        if (status.st_size, status.st_mtime_ns) != (shard.size, shard.mtime_ns):
            raise IntegrityError(
                f"{shard.path} changed while it was read.",
                "Leave the source alone during a conversion, then start again with --overwrite.",
            )
        for target, position in ranges:
            _read_exactly(descriptor, target.data, position, shard.path)
    except OSError as fault:
        raise DiskError(f"{shard.path} cannot be read: {fault.strerror}.") from None
    finally:
        os.close(descriptor)


def _read_exactly(descriptor: int, target: memoryview, position: int, path: Path) -> None:
    while target:
        count = os.preadv(descriptor, [target], position)
        if count == 0:
            raise IntegrityError(
                f"{path} ended while it was read: it has been cut.", DOWNLOAD_AGAIN
            )
        target = target[count:]
        position += count
