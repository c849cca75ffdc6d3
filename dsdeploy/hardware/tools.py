"""What drivers' tools print."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from typing import Any

_PATIENCE = 20
"""Seconds for a driver's tool."""


def json_of(*command: str) -> Any:
    """What the tool prints, less the warnings above it; [] where that has no JSON. Raises
    ValueError where it is cut off."""
    start = re.search(r"^[\[{]", text := output_of(*command), re.MULTILINE)
    return json.loads(text[start.start() :]) if start else []


def output_of(*command: str) -> str:
    """Empty where the tool is not there, fails or hangs."""
    if shutil.which(command[0]) is None:
        return ""
    try:
        done = subprocess.run(command, capture_output=True, timeout=_PATIENCE, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.decode("utf-8", "replace") if done.returncode == 0 else ""
