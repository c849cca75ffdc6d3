"""A checkpoint as one mapping from tensor name to where its bytes lie.

Only headers are read here. What is wrong with a file is kept as a finding, so that an inspection
names every damaged file at once.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dsdeploy.checkpoint.direct import Bytes
from dsdeploy.checkpoint.findings import Finding, error
from dsdeploy.checkpoint.index import INDEX_NAME, decode, parse_index
from dsdeploy.checkpoint.safetensors import Entry
from dsdeploy.checkpoint.shard import Shard
from dsdeploy.checkpoint.store import Folder, Store
from dsdeploy.errors import IntegrityError
from dsdeploy.model.config import ModelConfig, parse_config, parse_json_object


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
        self.shard.read(target, self.entry.start + offset)


@dataclass(frozen=True)
class Checkpoint:
    store: Store
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
    extra_files: Mapping[str, int]
    """Files beside the weights, with their bytes: tokenizer, generation config, license, ..."""
    faults: tuple[Finding, ...]
    """Files that could not be read, and tensors that are in two of them."""

    @property
    def where(self) -> str:
        return self.store.where


def open_checkpoint(place: Path | Store) -> Checkpoint:
    """Read config, index and all headers. Raises when there is no readable config.json of a known
    architecture or no safetensors file; whether the checkpoint is whole is for `audit` to say."""
    store = Folder(place) if isinstance(place, Path) else place
    where = f"{store.where}/config.json"
    raw = parse_json_object(store.config(), where)
    config = parse_config(raw, where)
    files = store.files()
    weights = [name for name in files if name.endswith(".safetensors") and name[0] != "."]
    _require_safetensors(store, files, weights)
    faults: list[Finding] = []
    weight_map, total_size = _read_index(store, files, faults)
    outcomes = store.shards(weights)
    faults += [outcome for outcome in outcomes if isinstance(outcome, Finding)]
    shards = tuple(outcome for outcome in outcomes if isinstance(outcome, Shard))
    ranks = _demo_ranks(weights)
    known = {*weights, INDEX_NAME, "config.json"}
    return Checkpoint(
        store=store,
        config=config,
        raw_config=raw,
        ranks=ranks,
        shards=shards,
        tensors=_merge(shards, faults) if ranks is None else {},
        weight_map=weight_map,
        total_size=total_size,
        extra_files={name: size for name, size in files.items() if name not in known},
        faults=tuple(faults),
    )


def _require_safetensors(store: Store, files: Mapping[str, int], weights: list[str]) -> None:
    if weights:
        return
    pickles = [name for name in files if name.endswith((".bin", ".pt", ".pth"))]
    if pickles:
        raise IntegrityError(
            f"{store.where} holds its weights as pickles ({pickles[0]}), which can run code when "
            "loaded.",
            "Use a repository that holds safetensors files.",
        )
    raise IntegrityError(
        f"{store.where} holds no safetensors file.", "Download the weights, not only the metadata."
    )


def _demo_ranks(weights: list[str]) -> int | None:
    counts = [re.fullmatch(r"model\d+-mp(\d+)\.safetensors", name) for name in weights]
    found = [int(match[1]) for match in counts if match]
    return max(found) if len(found) == len(weights) else None


def _read_index(
    store: Store, files: Mapping[str, int], faults: list[Finding]
) -> tuple[Mapping[str, str] | None, int | None]:
    if INDEX_NAME not in files:
        return None, None
    where = f"{store.where}/{INDEX_NAME}"
    try:
        return parse_index(decode(store.read(INDEX_NAME), where), where)
    except IntegrityError as fault:
        faults.append(error(fault.message.rstrip("."), file=INDEX_NAME, fix=fault.hint))
        return None, None


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
