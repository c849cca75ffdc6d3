"""The safetensors format: a header that says where each tensor lies, then the tensors.

    8 bytes   N, little-endian, at most 100,000,000
    N bytes   JSON: {"name": {"dtype", "shape", "data_offsets": [start, stop]}, "__metadata__": {}}
    the rest  the data; offsets count from here and cover it without holes or overlaps

Stricter than the reference reader where it is lenient and the leniency hides damage:
a name twice, a name that is no name.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

from dsdeploy.errors import IntegrityError

MAX_HEADER_BYTES = 100_000_000

BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8, "F4": 4,
    "I16": 16, "U16": 16, "F16": 16, "BF16": 16,
    "I32": 32, "U32": 32, "F32": 32, "I64": 64, "U64": 64, "F64": 64,
}  # fmt: skip
"""Bits of one element of each dtype of the format."""

_AGAIN = "Download this file again."
_MAX_SIZE = 2**63
_MAX_DIMENSIONS = 64


@dataclass(frozen=True, slots=True)
class Entry:
    """One tensor of a header; `start` and `stop` count from the first byte of the file."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    start: int
    stop: int

    @property
    def nbytes(self) -> int:
        return self.stop - self.start


@dataclass(frozen=True)
class Header:
    entries: tuple[Entry, ...]
    """In the order of their bytes."""
    metadata: Mapping[str, str]
    data_start: int


def tensor_nbytes(dtype: str, shape: Iterable[int]) -> int:
    return prod(shape) * BITS[dtype] // 8


def header_length(first_bytes: bytes, file_size: int, where: str) -> int:
    """Bytes of JSON, from the first 8 bytes of a file of `file_size` bytes."""
    if len(first_bytes) < 8 or file_size < 8:
        raise IntegrityError(
            f"{where} is {file_size} bytes long, too short to be a safetensors file.", _AGAIN
        )
    length = int.from_bytes(first_bytes[:8], "little")
    if length > MAX_HEADER_BYTES:
        # Only here: 640 as a length has the first bytes of a pickle, 15392 those of HTML.
        _refuse_other_formats(first_bytes, where)
        raise IntegrityError(
            f"{where} is not a safetensors file: its header would be {length} bytes long.", _AGAIN
        )
    if length == 0:
        raise IntegrityError(
            f"{where} begins with zeros: the mark of a download that was cut off.", _AGAIN
        )
    if length < 2:
        raise IntegrityError(f"{where} has an empty header of {length} bytes.", _AGAIN)
    if 8 + length > file_size:
        raise IntegrityError(
            f"{where} is truncated: its header needs {8 + length} bytes, the file has {file_size}.",
            _AGAIN,
        )
    return length


def _refuse_other_formats(first_bytes: bytes, where: str) -> None:
    if first_bytes.startswith(b"version "):
        raise IntegrityError(
            f"{where} is a Git LFS pointer, not the file itself.",
            "Run `git lfs pull` in the repository, or download it with the Hub's client.",
        )
    if first_bytes.lstrip()[:1] == b"<":
        raise IntegrityError(
            f"{where} is an HTML page: the download was answered with a login or error page.",
            "Check your access to the repository and download again.",
        )
    if first_bytes.startswith((b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04")):
        raise IntegrityError(
            f"{where} is a pickle, which can run code when it is loaded, not a safetensors file.",
            "Use the repository's safetensors files.",
        )


def parse_header(text: bytes, file_size: int, where: str) -> Header:
    """Parse the JSON `text` (after the 8 bytes) of a file of `file_size` bytes.

    Raises IntegrityError, naming the tensor, for anything that is not exactly the format.
    """
    fields = _load_json(text, where)
    metadata = _metadata(fields.pop("__metadata__", {}), where)
    data_start = 8 + len(text)
    entries = [_entry(name, value, data_start, where) for name, value in fields.items()]
    entries.sort(key=lambda entry: (entry.start, entry.stop))
    _check_cover(entries, data_start, file_size, where)
    return Header(tuple(entries), metadata, data_start)


def _load_json(text: bytes, where: str) -> dict[str, Any]:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        result = dict(pairs)
        if len(result) != len(pairs):
            seen: set[str] = set()
            twice = next(name for name, _ in pairs if name in seen or seen.add(name))  # type: ignore[func-returns-value]
            raise IntegrityError(
                f"{where} has {twice!r} twice in its header, so one of the two is lost.", _AGAIN
            )
        return result

    if not text.startswith(b"{"):
        raise IntegrityError(f"{where}: the header does not begin with '{{'.", _AGAIN)
    try:
        value = json.loads(text.decode("utf-8"), object_pairs_hook=unique)
    except UnicodeDecodeError:
        raise IntegrityError(f"{where}: the header is not UTF-8 text.", _AGAIN) from None
    except (ValueError, RecursionError) as error:
        raise IntegrityError(f"{where}: the header is not JSON: {error}.", _AGAIN) from None
    if not isinstance(value, dict):
        raise IntegrityError(f"{where}: the header is not a JSON object.", _AGAIN)
    return value


def _metadata(value: Any, where: str) -> dict[str, str]:
    if not isinstance(value, dict) or not all(isinstance(text, str) for text in value.values()):
        raise IntegrityError(f"{where}: __metadata__ must be an object of strings.", _AGAIN)
    return value


def _entry(name: str, value: Any, data_start: int, where: str) -> Entry:
    check_tensor_name(name, where)
    if not isinstance(value, dict) or set(value) != {"dtype", "shape", "data_offsets"}:
        raise IntegrityError(
            f"{where}: {name} must have exactly dtype, shape and data_offsets.", _AGAIN
        )
    dtype, shape, offsets = value["dtype"], value["shape"], value["data_offsets"]
    if not isinstance(dtype, str) or dtype not in BITS:
        raise IntegrityError(f"{where}: {name} has the unknown dtype {dtype!r:.80}.", _AGAIN)
    if not _is_shape(shape):
        raise IntegrityError(f"{where}: {name} has the impossible shape {shape!r:.80}.", _AGAIN)
    if not isinstance(offsets, list) or len(offsets) != 2 or not all(map(_is_size, offsets)):
        raise IntegrityError(
            f"{where}: {name} has impossible data_offsets {offsets!r:.80}.", _AGAIN
        )
    start, stop = offsets
    if stop < start:
        raise IntegrityError(f"{where}: {name} ends before it begins ({start} to {stop}).", _AGAIN)
    bits = prod(shape) * BITS[dtype]
    if bits != (stop - start) * 8:
        raise IntegrityError(
            f"{where}: {name} is {dtype} {shape}, {bits / 8:g} bytes, "
            f"but its data_offsets hold {stop - start}.",
            _AGAIN,
        )
    return Entry(name, dtype, tuple(shape), data_start + start, data_start + stop)


def _is_size(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < _MAX_SIZE


def _is_shape(value: Any) -> bool:
    return (
        isinstance(value, list)
        and len(value) <= _MAX_DIMENSIONS
        and all(map(_is_size, value))
        and prod(value) < _MAX_SIZE
    )


def check_tensor_name(name: str, where: str) -> None:
    """Names become file paths and module paths elsewhere: only plain ASCII without separators."""
    if not name or not name.isascii() or not name.isprintable() or set(name) & set("/\\ "):
        raise IntegrityError(f"{where}: {name!r} is not a tensor's name.", _AGAIN)


def _check_cover(entries: list[Entry], data_start: int, file_size: int, where: str) -> None:
    position = data_start
    for entry in entries:
        if entry.start != position:
            fault = "overlaps the tensor before it" if entry.start < position else "follows a hole"
            raise IntegrityError(f"{where}: {entry.name} {fault} in the data.", _AGAIN)
        position = entry.stop
    if position > file_size:
        raise IntegrityError(
            f"{where} is truncated: its header speaks of {position} bytes, the file has {file_size}.",
            _AGAIN,
        )
    if position < file_size:
        raise IntegrityError(
            f"{where} has {file_size - position} bytes after its last tensor.", _AGAIN
        )


def build_header(
    tensors: Iterable[tuple[str, str, tuple[int, ...]]],
    metadata: Mapping[str, str] | None,
    alignment: int,
) -> tuple[bytes, list[int]]:
    """The header (length included) of a file of (name, dtype, shape) in this order, and the
    position of each tensor in the file.

    The JSON is padded with spaces so that the data begin at a multiple of `alignment`.
    `metadata` None leaves `__metadata__` out.
    """
    fields: dict[str, Any] = {} if metadata is None else {"__metadata__": dict(metadata)}
    offsets, position = [], 0
    for name, dtype, shape in tensors:
        stop = position + tensor_nbytes(dtype, shape)
        fields[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [position, stop]}
        offsets.append(position)
        position = stop
    text = json.dumps(fields, separators=(",", ":")).encode()
    text += b" " * (-(8 + len(text)) % alignment)
    header = len(text).to_bytes(8, "little") + text
    return header, [len(header) + offset for offset in offsets]
