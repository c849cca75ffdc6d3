"""When another try may help, how long to wait for it, and when to give up."""

from __future__ import annotations

import random
import time
from dataclasses import dataclass
from email.utils import parsedate_to_datetime

from dsdeploy.errors import DeployError, ExitCode

_LONGEST_ASKED = 600.0
"""Seconds; a server that asks for more is not going to serve us."""


class TransientError(Exception):
    """A fault of the way or the server that another try may mend."""

    def __init__(self, sentence: str, wait: float = 0.0) -> None:
        super().__init__(sentence)
        self.sentence = sentence
        self.wait = wait
        """Seconds that the server asked for."""


@dataclass(frozen=True)
class Retries:
    attempts: int = 10
    """In a row without a byte gained."""
    metadata_attempts: int = 4
    """Fewer: somebody waits for the first answer."""
    first_wait: float = 0.5
    """Seconds; doubled each time."""
    longest_wait: float = 60.0
    stall: float = 60.0
    """Seconds without a byte after which a connection is given up."""

    def wait_or_give_up(self, what: str, failures: int, fault: TransientError) -> float:
        """Seconds before the next try. Raises DeployError after too many failures."""
        if failures >= self.attempts:
            raise DeployError(
                f"{what}: {fault.sentence}, {failures} times in a row.",
                "Run the same command again when the network is back: it goes on from here.",
                ExitCode.NETWORK,
            )
        return self.wait(failures, fault)

    def wait(self, failures: int, fault: TransientError) -> float:
        """Seconds before the next try, after so many failures in a row. The jitter keeps many
        workers, and many machines, from coming back at the same moment."""
        grown = min(self.longest_wait, self.first_wait * 2.0 ** (failures - 1))
        return max(grown * random.uniform(0.5, 1.0), fault.wait)


def retry_after(text: str | None) -> float:
    """Seconds of a Retry-After header: a number or a date; 0 when there is none."""
    if not text:
        return 0.0
    try:
        seconds = float(text)
    except ValueError:
        try:
            seconds = parsedate_to_datetime(text).timestamp() - time.time()
        except ValueError:
            return 0.0
    return min(max(0.0, seconds), _LONGEST_ASKED)  # in this order NaN is 0
