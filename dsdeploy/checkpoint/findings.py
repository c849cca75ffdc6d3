"""What an inspection has to say, one thing each."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

DOWNLOAD_AGAIN = "Download this file again."


@dataclass(frozen=True)
class Finding:
    severity: str
    """`error`: the checkpoint cannot be used as it is; `note`: worth knowing."""
    message: str
    tensor: str | None = None
    file: str | None = None
    fix: str = ""


error = partial(Finding, "error")
note = partial(Finding, "note")
