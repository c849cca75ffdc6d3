"""What only the data can tell: NaN codes, scales that cannot be, pages of zeros, other hashes.

One pass over each file, in windows; hashes are compared with MANIFEST.json where there is one.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np

from dsdeploy.checkpoint.direct import PAGE, Bytes
from dsdeploy.checkpoint.findings import DOWNLOAD_AGAIN, Finding, error, note
from dsdeploy.checkpoint.manifest import Manifest
from dsdeploy.checkpoint.reader import Checkpoint, StoredTensor
from dsdeploy.checkpoint.safetensors import BITS, Entry
from dsdeploy.checkpoint.shard import Shard
from dsdeploy.checkpoint.store import Store
from dsdeploy.errors import IntegrityError
from dsdeploy.model.tensors import SCALE_SUFFIX

_WINDOW = 4 << 20
_MAY_HAVE_ZEROS = ("embed", "head")
"""Rows of an embedding that no token uses may be zero; other trained weights never are: the
largest weight of a block has the largest code."""

Advance = Callable[[int, str], None]


@dataclass
class Scan:
    """What one pass over a file has seen."""

    shard: Shard
    sha256: str = ""
    length: int = 0
    nan: Counter[str] = field(default_factory=Counter)
    """NaN or infinite values of each tensor."""
    scales: Counter[str] = field(default_factory=Counter)
    """Scales that are not positive and finite, of each tensor."""
    zeros: Counter[str] = field(default_factory=Counter)
    """Pages of zeros that begin in each tensor."""
    cut: Bytes = field(default_factory=lambda: np.empty(0, np.uint8))
    """The first bytes of an element whose others are in the next window."""


def inspect_data(
    checkpoint: Checkpoint, manifest: Manifest | None, workers: int, advance: Advance
) -> tuple[dict[str, str], list[Finding]]:
    """(sha256 of each file of weights, findings)."""
    with ThreadPoolExecutor(workers) as pool:
        scans = list(pool.map(lambda shard: scan_shard(shard, advance), checkpoint.shards))
    findings = [finding for scan in scans for finding in _findings(scan)]
    if manifest is not None:
        findings += _against_manifest(checkpoint, manifest, scans)
    return {scan.shard.name: scan.sha256 for scan in scans}, findings


def scan_shard(shard: Shard, advance: Advance) -> Scan:
    scan, running = Scan(shard), hashlib.sha256()
    starts = [entry.start for entry in shard.header.entries]
    for position, window in shard.data.windows(_WINDOW):
        running.update(window.data)
        scan.length += len(window)
        _scan_zero_pages(scan, starts, position, window)
        for entry, offset, piece in _pieces(shard, starts, position, window):
            _scan_values(scan, entry, offset, piece)
        advance(len(window), shard.name)
    scan.sha256 = running.hexdigest()
    return scan


def _pieces(
    shard: Shard, starts: list[int], position: int, window: Bytes
) -> Iterator[tuple[Entry, int, Bytes]]:
    """(tensor, first byte within it, bytes) of what the window holds of each tensor."""
    stop = position + len(window)
    for entry in shard.header.entries[max(0, bisect_right(starts, position) - 1) :]:
        low, high = max(entry.start, position), min(entry.stop, stop)
        if entry.start >= stop:
            return
        if low < high:
            yield entry, low - entry.start, window[low - position : high - position]


def _scan_zero_pages(scan: Scan, starts: list[int], position: int, window: Bytes) -> None:
    pages = window[: len(window) // PAGE * PAGE].view(np.uint64).reshape(-1, PAGE // 8)
    for page in np.flatnonzero(~pages.any(axis=1)).tolist():
        at = position + page * PAGE
        index = bisect_right(starts, at) - 1
        if index >= 0:
            scan.zeros[scan.shard.header.entries[index].name] += 1


def _scan_values(scan: Scan, entry: Entry, offset: int, piece: Bytes) -> None:
    item = BITS[entry.dtype] // 8
    if entry.dtype == "F8_E4M3":
        scan.nan[entry.name] += int(np.count_nonzero((piece & 0x7F) == 0x7F))
    elif entry.dtype in ("BF16", "F32"):
        whole = _whole_elements(scan, offset % item, piece, item)
        if entry.dtype == "BF16":
            bits = np.frombuffer(whole, "<u2")
            scan.nan[entry.name] += int(np.count_nonzero((bits & 0x7F80) == 0x7F80))
        else:
            values = np.frombuffer(whole, "<f4")
            finite = np.isfinite(values)
            if entry.name.endswith((SCALE_SUFFIX, ".scale")):
                scan.scales[entry.name] += int(np.count_nonzero(~(finite & (values > 0))))
            else:
                scan.nan[entry.name] += int(np.count_nonzero(~finite))


def _whole_elements(scan: Scan, missing: int, piece: Bytes, item: int) -> Bytes:
    """The elements that end in `piece`, whose first `missing` bytes were in the window before it:
    in a file whose data are not aligned, windows cut elements."""
    joined = np.concatenate([scan.cut, piece]) if missing else piece
    usable = len(joined) // item * item
    scan.cut = joined[usable:].copy()
    return joined[:usable]


def _findings(scan: Scan) -> Iterator[Finding]:
    file = scan.shard.name
    if scan.length != scan.shard.size:
        yield error(f"{file} ended while it was read: it has been cut", None, file, DOWNLOAD_AGAIN)
    for name, count in (+scan.nan).items():
        yield error(f"{name} holds {count} NaN or infinite values", name, file, DOWNLOAD_AGAIN)
    for name, count in (+scan.scales).items():
        what = "that are zero, negative, infinite or NaN"
        yield error(f"{name} holds {count} scales {what}", name, file, DOWNLOAD_AGAIN)
    for name, count in scan.zeros.items():
        pages = f"{name} holds {count} pages ({PAGE} bytes each) of zeros"
        if any(part in name for part in _MAY_HAVE_ZEROS):
            yield note(f"{pages}, as unused tokens may", name, file)
        else:
            message = f"{pages}, the mark of a download that was cut off"
            yield error(message, name, file, DOWNLOAD_AGAIN)


_EDITED_BY_HAND = ("config.json", "generation_config.json")


def _against_manifest(
    checkpoint: Checkpoint, manifest: Manifest, scans: list[Scan]
) -> Iterator[Finding]:
    fix = "Make or download this file again."
    found = {scan.shard.name: scan for scan in scans}
    damaged = {fault.file for fault in checkpoint.faults}
    for name, record in manifest.files.items():
        if name in found:
            if found[name].sha256 != record.sha256:
                yield from _changed_tensors(found[name], manifest.tensors.get(name, {}), fix)
            continue
        if name in damaged:
            continue  # a finding already
        sha256 = None if name.endswith(".safetensors") else _hash(checkpoint.store, name)
        if sha256 is None:
            yield error(f"{name} is missing; MANIFEST.json names it", None, name, fix)
        elif sha256 != record.sha256:
            make = note if name in _EDITED_BY_HAND else error
            yield make(f"{name} has changed since MANIFEST.json was written", None, name, fix)
    for name in sorted(found.keys() - manifest.files.keys()):
        yield note(f"{name} is not in MANIFEST.json", None, name)


def _hash(store: Store, name: str) -> str | None:
    try:
        return hashlib.sha256(store.read(name)).hexdigest()
    except (OSError, IntegrityError):
        return None


def _changed_tensors(scan: Scan, hashes: Mapping[str, str], fix: str) -> Iterator[Finding]:
    """Each tensor whose hash is another; the header when no tensor's is. A download's manifest has
    hashes of files alone."""
    file, sound = scan.shard.name, True
    if not hashes:
        yield error(f"{file} has changed since MANIFEST.json was written", None, file, fix)
        return
    for entry in scan.shard.header.entries:
        if entry.name in hashes and _tensor_sha256(scan.shard, entry) == hashes[entry.name]:
            continue
        sound = False
        yield error(
            f"{entry.name} has changed since MANIFEST.json was written", entry.name, file, fix
        )
    if sound:
        what = "the header has changed since MANIFEST.json was written"
        yield error(f"{file}: {what}", None, file, fix)


def _tensor_sha256(shard: Shard, entry: Entry) -> str:
    running = hashlib.sha256()
    tensor = StoredTensor(shard, entry)
    for offset in range(0, entry.nbytes, _WINDOW):
        piece = np.empty(min(_WINDOW, entry.nbytes - offset), np.uint8)
        tensor.read_into(piece, offset)
        running.update(piece.data)
    return running.hexdigest()
