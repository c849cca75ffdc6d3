"""How an answer is shown while it comes, and what is said of it afterwards."""

from __future__ import annotations

import os
import re
import sys
from typing import TYPE_CHECKING, TextIO

from dsdeploy.output import Output

if TYPE_CHECKING:
    from dsdeploy.client.chat import Answer
    from dsdeploy.client.stream import Piece

_DIM, _PLAIN = "\x1b[2m", "\x1b[0m"
_PREFIX = "thinking: "
_CONTROL = re.compile(r"[^\n\t -~\xa0-\U0010ffff]")


class AnswerView:
    """Thoughts are dim on a terminal. Elsewhere each of their lines begins with `thinking: `, so
    that a script can tell them from the answer."""

    def __init__(self, out: Output, with_reasoning: bool) -> None:
        self._out, self._with_reasoning = out, with_reasoning
        self._terminal = sys.stdout.isatty()
        self._dim = has_colour(sys.stdout)
        self._part = ""

    def show(self, piece: Piece) -> None:
        if piece.reasoning and self._with_reasoning:
            self._enter("reasoning")
            lines = piece.reasoning if self._dim else piece.reasoning.replace("\n", f"\n{_PREFIX}")
            self._write(lines)
        if piece.content:
            self._enter("content")
            self._write(piece.content)

    def end(self) -> None:
        """Also of an answer that broke off: the terminal is left as it was."""
        self._enter("")

    def _enter(self, part: str) -> None:
        if part == self._part:
            return
        if self._part:
            self._out.text(f"{_PLAIN}\n" if self._dim and self._part == "reasoning" else "\n")
        if part == "reasoning":
            self._out.text(_DIM if self._dim else _PREFIX)
        self._part = part

    def _write(self, text: str) -> None:
        """A model may say anything; a terminal would obey."""
        self._out.text(_CONTROL.sub("", text) if self._terminal else text)


def speed(answer: Answer) -> str:
    """`57 tokens, the first after 0.21 s, 31.4 tokens/s`, as far as it is known."""
    parts = [] if answer.tokens is None else [_counted(answer.tokens)]
    if answer.first_seconds is not None:
        parts.append(f"the first after {answer.first_seconds:.2f} s")
    if answer.tokens_per_second is not None:
        parts.append(f"{answer.tokens_per_second:.1f} tokens/s")
    if answer.interrupted:
        parts.append("interrupted")
    if answer.finish_reason == "length":
        parts.append("cut at the limit of tokens")
    return ", ".join(parts) or "an empty answer"


def dim(text: str, stream: TextIO) -> str:
    return f"{_DIM}{text}{_PLAIN}" if has_colour(stream) else text


def has_colour(stream: TextIO) -> bool:
    return stream.isatty() and not os.environ.get("NO_COLOR")


def _counted(tokens: int) -> str:
    return "one token" if tokens == 1 else f"{tokens} tokens"
