"""A limit on bytes a second that all workers share."""

from __future__ import annotations

import threading
import time


class Pace:
    def __init__(self, rate: int | None) -> None:
        """`rate` in bytes a second; None is no limit."""
        self._rate = rate
        self._mutex = threading.Lock()
        self._free_at = time.monotonic()

    def wait(self, nbytes: int) -> float:
        """Seconds to rest after `nbytes` that have come, so that the rate is kept. Time unused
        is not saved up for later."""
        if self._rate is None:
            return 0.0
        with self._mutex:
            now = time.monotonic()
            self._free_at = max(self._free_at, now) + nbytes / self._rate
            return self._free_at - now
