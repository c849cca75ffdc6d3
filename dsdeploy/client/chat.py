"""A conversation: what has been said, and the answer that comes."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass, replace
from typing import Any

from dsdeploy.client.endpoint import Endpoint
from dsdeploy.client.stream import Piece, stream_chat


@dataclass(frozen=True)
class Turn:
    question: str
    answer: str


@dataclass(frozen=True)
class Chat:
    """Holds whole turns only, so that an answer which fails leaves no trace in it."""

    endpoint: Endpoint
    model: str
    system: str | None = None
    max_tokens: int | None = None
    temperature: float | None = None
    seed: int | None = None
    turns: tuple[Turn, ...] = ()

    @property
    def messages(self) -> list[dict[str, str]]:
        """Without what was thought: models expect their answers alone."""
        found = [_message("system", self.system)] if self.system else []
        for turn in self.turns:
            found += [_message("user", turn.question), _message("assistant", turn.answer)]
        return found

    def after(self, question: str, answer: Answer) -> Chat:
        """An answer that was interrupted before its first word does not count."""
        if answer.interrupted and not answer.content:
            return self
        return replace(self, turns=(*self.turns, Turn(question, answer.content)))


@dataclass(frozen=True)
class Answer:
    content: str
    reasoning: str
    finish_reason: str | None
    usage: dict[str, Any]
    """As the endpoint counts; empty where it does not."""
    first_seconds: float | None
    """From the question to the first text, thought or said."""
    seconds: float
    """To the end."""
    interrupted: bool

    @property
    def tokens(self) -> int | None:
        found = self.usage.get("completion_tokens")
        return found if isinstance(found, int) else None

    @property
    def tokens_per_second(self) -> float | None:
        """After the first token. None where there is only one, or nobody counts."""
        if self.tokens is None or self.tokens < 2 or self.first_seconds is None:
            return None
        seconds = self.seconds - self.first_seconds
        return (self.tokens - 1) / seconds if seconds > 0 else None


def ask(chat: Chat, question: str, show: Callable[[Piece], None]) -> Answer:
    """Hand each piece to `show` as it comes. Ctrl-C ends the request, and the answer there.

    Raises DeployError as `stream_chat`.
    """
    begun = time.monotonic()
    first: float | None = None
    pieces: list[Piece] = []
    interrupted = False
    try:
        with contextlib.closing(_pieces(chat, question)) as coming:
            for piece in coming:
                pieces.append(piece)
                if first is None and (piece.content or piece.reasoning):
                    first = time.monotonic() - begun
                show(piece)
    except KeyboardInterrupt:
        interrupted = True
    return _whole(pieces, first, time.monotonic() - begun, interrupted)


def _pieces(chat: Chat, question: str) -> Generator[Piece, None, None]:
    yield from stream_chat(
        chat.endpoint,
        chat.model,
        [*chat.messages, _message("user", question)],
        max_tokens=chat.max_tokens,
        temperature=chat.temperature,
        seed=chat.seed,
    )


def _whole(pieces: list[Piece], first: float | None, seconds: float, interrupted: bool) -> Answer:
    reasons = [piece.finish_reason for piece in pieces if piece.finish_reason]
    usages = [piece.usage for piece in pieces if piece.usage]
    return Answer(
        content="".join(piece.content for piece in pieces),
        reasoning="".join(piece.reasoning for piece in pieces),
        finish_reason=reasons[-1] if reasons else None,
        usage=dict(usages[-1]) if usages else {},
        first_seconds=first,
        seconds=seconds,
        interrupted=interrupted,
    )


def _message(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}
