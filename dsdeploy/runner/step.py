"""What one forward pass computes: spans of consecutive tokens, each of one sequence.

T tokens of the step   B of them that were generated
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import torch
from torch import Tensor

from dsdeploy.runner.ops import DecodingQueries
from dsdeploy.runner.pages import PAGE_TOKENS


@dataclass(frozen=True)
class Span:
    past: int
    """Tokens of the sequence that the cache already holds; the span's first position."""
    count: int
    pages: tuple[int, ...]
    """The sequence's pages in the order of positions, with room for the span's tokens."""
    prompt: bool
    """Whether the tokens are of the prompt (naive attention) or were generated (absorbed). The two
    round differently: a token is always computed in its own form, even when it is computed again
    or several at once, so that a request's numbers do not depend on what else is running."""


class StepInputs(Protocol):
    """What the model reads of a step."""

    @property
    def tokens(self) -> Tensor:
        """[T] int64"""

    @property
    def positions(self) -> Tensor:
        """[T] int64"""

    @property
    def slots(self) -> Tensor:
        """[T] int64: the row of the cache that each token fills."""

    @property
    def prompts(self) -> tuple[tuple[int, Span], ...]:
        """(index of its first token, span) of each span that is part of a prompt."""

    @property
    def generated(self) -> Tensor | slice:
        """Where the generated tokens are; a slice when that is everywhere."""

    @property
    def queries(self) -> DecodingQueries | None:
        """What the generated tokens see, or None when there are none."""


@dataclass(frozen=True)
class Step:
    """One that the host has put together."""

    tokens: Tensor
    """Those of all spans, one span after the other."""
    spans: tuple[Span, ...]

    def to(self, device: torch.device) -> Step:
        return self if self.tokens.device == device else Step(self.tokens.to(device), self.spans)

    @cached_property
    def positions(self) -> Tensor:
        return self._all([torch.arange(s.past, s.past + s.count) for s in self.spans])

    @cached_property
    def slots(self) -> Tensor:
        positions = self.positions.cpu()
        pages = torch.cat([torch.tensor(s.pages)[_pages_of(s)] for s in self.spans])
        return (pages * PAGE_TOKENS + positions % PAGE_TOKENS).to(self.tokens.device)

    @cached_property
    def prompts(self) -> tuple[tuple[int, Span], ...]:
        return tuple((begin, span) for begin, span in self._begins() if span.prompt)

    @cached_property
    def generated(self) -> Tensor | slice:
        if not self.prompts:
            return slice(None)
        begins = self._begins()
        return self._all([torch.arange(b, b + s.count) for b, s in begins if not s.prompt])

    @cached_property
    def queries(self) -> DecodingQueries | None:
        spans = [span for span in self.spans if not span.prompt]
        if not spans:
            return None
        lengths = [torch.arange(span.past + 1, span.past + span.count + 1) for span in spans]
        owners = [torch.full((span.count,), owner) for owner, span in enumerate(spans)]
        tables = torch.zeros(len(spans), max(len(span.pages) for span in spans), dtype=torch.int64)
        for table, span in zip(tables, spans, strict=True):
            table[: len(span.pages)] = torch.tensor(span.pages)
        return DecodingQueries(self._all(lengths), self._all(owners), tables.to(self.tokens.device))

    def _begins(self) -> list[tuple[int, Span]]:
        begin, found = 0, []
        for span in self.spans:
            found.append((begin, span))
            begin += span.count
        return found

    def _all(self, parts: list[Tensor]) -> Tensor:
        return torch.cat(parts).to(self.tokens.device)


def _pages_of(span: Span) -> Tensor:
    return torch.arange(span.past, span.past + span.count) // PAGE_TOKENS
