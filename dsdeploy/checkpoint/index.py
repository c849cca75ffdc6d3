"""model.safetensors.index.json: which shard holds which tensor."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dsdeploy.checkpoint.safetensors import check_tensor_name
from dsdeploy.errors import IntegrityError

INDEX_NAME = "model.safetensors.index.json"
_AGAIN = "Download the index again, or remove it: the shards' own headers are enough."


def parse_index(text: str, where: str) -> tuple[dict[str, str], int | None]:
    """(tensor name -> file name, total_size if given). File names cannot leave the folder."""
    value = _load(text, where)
    weight_map = value.get("weight_map")
    if not isinstance(weight_map, dict):
        raise IntegrityError(f"{where} has no weight_map.", _AGAIN)
    checked: set[str] = set()
    for tensor, file in weight_map.items():
        check_tensor_name(tensor, where)
        if not isinstance(file, str) or file not in checked:
            check_file_name(file, f"{where}, {tensor}")
            checked.add(file)
    metadata = value.get("metadata", {})
    total = metadata.get("total_size") if isinstance(metadata, dict) else None
    return weight_map, total if isinstance(total, int) and not isinstance(total, bool) else None


def _load(text: str, where: str) -> dict[str, Any]:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        result = dict(pairs)
        if len(result) != len(pairs):
            raise IntegrityError(f"{where} names a tensor twice.", _AGAIN)
        return result

    try:
        value = json.loads(text, object_pairs_hook=unique)
    except (ValueError, RecursionError) as error:
        raise IntegrityError(f"{where} is not JSON: {error}.", _AGAIN) from None
    if not isinstance(value, dict):
        raise IntegrityError(f"{where} is not a JSON object.", _AGAIN)
    return value


def check_file_name(name: Any, where: str) -> None:
    """A plain `*.safetensors` file of the same folder, or IntegrityError."""
    if not isinstance(name, str):
        raise IntegrityError(f"{where}: the file's name is {name!r}, not text.", _AGAIN)
    if not name.isprintable():
        raise IntegrityError(f"{where}: {name!r} is not a file's name.", _AGAIN)
    if "/" in name or "\\" in name or name.startswith("."):
        raise IntegrityError(f"{where}: {name!r} leads out of the checkpoint's folder.", _AGAIN)
    if name.endswith((".bin", ".pt", ".pth", ".ckpt")):
        raise IntegrityError(
            f"{where}: {name!r} is a pickle, which can run code when it is loaded.",
            "Use the repository's safetensors files.",
        )
    if not name.endswith(".safetensors"):
        raise IntegrityError(f"{where}: {name!r} is not a safetensors file.", _AGAIN)


def render_index(weight_map: Mapping[str, str], total_size: int) -> str:
    document = {"metadata": {"total_size": total_size}, "weight_map": dict(weight_map)}
    return json.dumps(document, indent=2) + "\n"


def read_text(path: Path) -> str:
    return decode(path.read_bytes(), str(path))


def decode(content: bytes, where: str) -> str:
    """The text of a checkpoint's file; one that is not UTF-8 is damaged."""
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError:
        raise IntegrityError(f"{where} is not UTF-8 text.", "Download it again.") from None
