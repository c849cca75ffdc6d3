"""Sizes, durations and counts, as people write and read them.

Bytes are decimal (GB = 10^9), as the Hub and disks count them.
"""

from __future__ import annotations

import re
from decimal import Decimal

from dsdeploy.errors import UsageError

_MULTIPLES = {
    "": 1,
    "K": 10**3,
    "M": 10**6,
    "G": 10**9,
    "T": 10**12,
    "KI": 2**10,
    "MI": 2**20,
    "GI": 2**30,
    "TI": 2**40,
}


def parse_bytes(text: str) -> int:
    """`5GB`, `4.3 GB`, `512MiB`, `1000000` -> bytes."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]I?)?B?\s*", text.upper())
    if not match:
        raise UsageError(f"{text!r} is not a size.", "Write it as 5GB, 500MB or 2GiB.")
    size = int(Decimal(match[1]) * _MULTIPLES[match[2] or ""])
    if not 0 < size < 2**63:
        raise UsageError(f"{text[:40]!r} is no possible size.", "Write it as 5GB, 500MB or 2GiB.")
    return size


def format_bytes(count: float) -> str:
    """1368979721216 -> `1.37 TB`."""
    for unit in ("B", "kB", "MB", "GB"):
        if abs(count) < 1000:
            return f"{count:.0f} B" if unit == "B" else f"{count:.2f} {unit}"
        count /= 1000
    return f"{count:.2f} TB"


def format_count(count: float) -> str:
    """671026419200 -> `671.03 B` (parameters)."""
    for unit, size in (("B", 1e9), ("M", 1e6), ("k", 1e3)):
        if count >= size:
            return f"{count / size:.2f} {unit}"
    return f"{count:.0f}"


def format_seconds(seconds: float) -> str:
    whole = max(0, round(seconds))
    hours, rest = divmod(whole, 3600)
    return f"{hours}:{rest // 60:02d}:{rest % 60:02d}"
