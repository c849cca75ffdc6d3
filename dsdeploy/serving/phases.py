"""How far a start has come, read from the engine's log."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable

from dsdeploy.deploy.launch import Phase

SPAWN = "spawn"
_COLOURS = re.compile(rb"\x1b\[[0-9;]*[A-Za-z]")


class PhaseTracker:
    """A phase begins with the first line that tells of it, and never comes back."""

    def __init__(
        self, phases: Iterable[Phase], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._waiting = [(phase.name, re.compile(phase.pattern.encode())) for phase in phases]
        self._clock = clock
        self._begun = clock()
        self.name, self.detail = SPAWN, ""
        self.over: list[tuple[str, float]] = []

    def read(self, line: bytes) -> bool:
        """Whether the line told something new."""
        plain = _COLOURS.sub(b"", line)
        for index, (name, pattern) in enumerate(self._waiting):
            if match := pattern.search(plain):
                del self._waiting[:index]  # what the log skipped does not come later
                return self._reached(name, match)
        return False

    def leave_the_log(self, name: str) -> None:
        """For what comes after all that the log tells of."""
        self._waiting.clear()
        self._move_to(name)

    def _move_to(self, name: str) -> None:
        if name != self.name:
            now = self._clock()
            self.over.append((self.name, now - self._begun))
            self.name, self.detail, self._begun = name, "", now

    def _reached(self, name: str, match: re.Match[bytes]) -> bool:
        self._move_to(name)
        fields = {key: value.decode() for key, value in match.groupdict().items() if value}
        detail = f"{fields['done']} of {fields['total']}" if len(fields) == 2 else self.detail
        told, self.detail = detail != self.detail, detail
        return told or not fields
