"""One real question, because an engine can be healthy and wrong."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

from dsdeploy.client.endpoint import Completion, Endpoint, complete
from dsdeploy.client.failures import StatusError
from dsdeploy.errors import DeployError, ExitCode

PROMPT = "The three largest cities of France are"
TOKENS = 16
_REPEATED = 8
"""So often in a row no sound model says one token after this prompt."""


@dataclass(frozen=True)
class Answer:
    text: str
    seconds: float
    logprobs: tuple[float, ...]
    """Empty where the engine gives none."""

    def __str__(self) -> str:
        numbers = (
            f"log-probabilities finite, mean {sum(self.logprobs) / len(self.logprobs):.2f}"
            if self.logprobs
            else "no log-probabilities given"
        )
        return f"{self.text!r} in {self.seconds:.2f} s, {numbers}"


def smoke(endpoint: Endpoint, model: str, timeout: float) -> Answer:
    """Raises DeployError for an answer that no sound model gives, and for none."""
    begun = time.monotonic()
    completion, asked = _asked(endpoint, model, timeout)
    seconds = time.monotonic() - begun
    logprobs = completion.logprobs if asked else ()
    _judge(completion, logprobs)
    numbers = tuple(value for value in logprobs if value is not None)
    return Answer(completion.text, seconds, numbers)


def _asked(endpoint: Endpoint, model: str, timeout: float) -> tuple[Completion, bool]:
    """Some engines refuse to tell log-probabilities, and answer without them."""
    try:
        return complete(
            endpoint, model, PROMPT, max_tokens=TOKENS, logprobs=1, timeout=timeout
        ), True
    except StatusError as error:
        if error.status not in (400, 422):
            raise
    return complete(endpoint, model, PROMPT, max_tokens=TOKENS, timeout=timeout), False


def _judge(completion: Completion, logprobs: tuple[float | None, ...]) -> None:
    if not completion.text and not completion.usage.get("completion_tokens"):
        raise _wrong("answers without a single token")
    if any(value is None or not math.isfinite(value) or value > 1e-3 for value in logprobs):
        raise _wrong("gives log-probabilities that are no numbers below zero")
    if _repeats(completion):
        raise _wrong(f"says one thing again and again: {completion.text[:60]!r}")


def _repeats(completion: Completion) -> bool:
    """The same token so often in a row, or one character where tokens are not told."""
    units = completion.tokens or tuple(completion.text)
    run, most = 0, 0
    for before, unit in zip(("", *units), units, strict=False):
        run = run + 1 if unit == before else 1
        most = max(most, run)
    return most >= _REPEATED


def _wrong(what: str) -> DeployError:
    return DeployError(
        f"The engine runs, but it {what}.",
        "Its weights or its configuration are not what it takes them for: dsdeploy inspect --deep "
        "checks the checkpoint; compare log-probabilities with dsdeploy score.",
        ExitCode.ENGINE,
    )
