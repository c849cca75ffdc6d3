"""Small files of the system."""

from __future__ import annotations

from pathlib import Path


def text_of(path: Path) -> str:
    """Empty where it cannot be read."""
    try:
        return path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError):
        return ""
