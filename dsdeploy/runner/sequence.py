"""A request while the engine works on it."""

from __future__ import annotations

from dataclasses import dataclass, field

from dsdeploy.runner.pages import PAGE_TOKENS
from dsdeploy.runner.request import Request, TokenLogprob
from dsdeploy.runner.step import Span
from dsdeploy.runner.text import TextStream


@dataclass(eq=False)
class Sequence:
    request: Request
    text: TextStream
    tokens: list[int]
    """Prompt and output."""
    drafts: list[int] = field(default_factory=list)
    """What the MTP layer expects to follow."""
    cached: int = 0
    """Tokens whose rows are in the cache."""
    pages: list[int] = field(default_factory=list)
    reused: int = 0
    """Tokens of the prompt that another request had left in the cache."""
    prompt_logprobs: list[TokenLogprob] = field(default_factory=list)
    stop_token: int | None = None
    cancelled: bool = False
    """Set by whoever no longer wants it; the engine sees it at its next step."""
    finished: bool = False

    @property
    def prompt_length(self) -> int:
        return len(self.request.prompt)

    @property
    def output(self) -> list[int]:
        return self.tokens[self.prompt_length :]

    @property
    def remaining(self) -> int:
        """Tokens that may still be generated."""
        return self.request.sampling.max_tokens + self.prompt_length - len(self.tokens)

    @property
    def decoding(self) -> bool:
        """Whether only its last token is not in the cache, and that was generated."""
        return self.cached == len(self.tokens) - 1 and self.cached >= self.prompt_length

    def next_count(self, budget: int) -> int:
        """How many tokens come next: of the prompt, or generated ones with the drafts after them,
        never of both forms."""
        in_prompt = self.cached < self.prompt_length
        stop = self.prompt_length if in_prompt else len(self.tokens) + len(self.drafts)
        return min(stop - self.cached, budget)

    def pages_for(self, positions: int) -> int:
        """Pages that are missing for so many positions, of those it can ever come to."""
        positions = min(positions, self.prompt_length + self.request.sampling.max_tokens)
        return max(0, -(-positions // PAGE_TOKENS) - len(self.pages))

    def take_up(self, pages: list[int]) -> None:
        """Begin with pages that hold the first tokens of the prompt."""
        self.pages, self.cached = pages, len(pages) * PAGE_TOKENS
        if not self.output:  # later they are its own, from before it was preempted
            self.reused = self.cached

    def forget_cache(self) -> None:
        self.pages, self.cached, self.drafts = [], 0, []


@dataclass(frozen=True)
class Work:
    """A sequence's part of a step, fixed when the step is planned."""

    sequence: Sequence
    span: Span
    row: int
    """Of the step, where its tokens begin."""
    tokens: list[int]
    scored: range
    """Positions whose logits give the log-probability of the prompt's next token."""
    answers: int
    """How many rows choose a token: the last known one's and those of the drafts."""

    @staticmethod
    def of(sequence: Sequence, count: int, row: int) -> Work:
        """The sequence's next `count` tokens."""
        past, stop = sequence.cached, sequence.cached + count
        prompt, scored = past < sequence.prompt_length, range(0)
        if prompt and sequence.request.sampling.prompt_logprobs is not None:
            first = max(past, len(sequence.prompt_logprobs))  # those before are known
            scored = range(first, min(stop, sequence.prompt_length - 1))
        return Work(
            sequence=sequence,
            span=Span(past, count, tuple(sequence.pages), prompt),
            row=row,
            tokens=(sequence.tokens + sequence.drafts)[past:stop],
            scored=scored,
            answers=max(0, stop - len(sequence.tokens) + 1),
        )

    @property
    def wanted(self) -> list[int]:
        """Rows of the step whose logits are wanted: those scored, then those that answer."""
        last = range(self.row + self.span.count - self.answers, self.row + self.span.count)
        return [*(self.row + p - self.span.past for p in self.scored), *last]
