"""The engine: many requests at once over one model, a step at a time.

Each step takes the sequences in the order of their arrival. Those that generate give one token
each (and drafts to be checked); what is left of the step's tokens goes to prompts, in chunks.
When pages run out the latest arrival gives its own back and is computed again later, each token
in the form of attention it had: its numbers do not change.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

import torch

from dsdeploy.runner.executor import Executor, Forward
from dsdeploy.runner.logits import Logits, Wish
from dsdeploy.runner.pages import PagePool
from dsdeploy.runner.request import Output, Request, TokenLogprob
from dsdeploy.runner.sampling import Floats, choose, logprob_of
from dsdeploy.runner.sequence import Sequence, Work
from dsdeploy.runner.speculation import propose
from dsdeploy.runner.step import Step
from dsdeploy.runner.text import TextStream, Tokenizer


@dataclass(frozen=True)
class EngineOptions:
    max_sequences: int = 64
    """How many are worked on at once; others wait."""
    step_tokens: int = 512
    """At most so many tokens a step."""
    drafts: int = 0
    """Tokens that the MTP layer proposes at a time; 0 is no speculation."""


@dataclass
class Counters:
    """Since the start."""

    steps: int = 0
    prompt_tokens: int = 0
    reused_tokens: int = 0
    generated_tokens: int = 0
    drafted_tokens: int = 0
    accepted_tokens: int = 0
    preemptions: int = 0


class Engine:
    """Not safe for threads; see `service.py` for that."""

    def __init__(
        self, executor: Executor, tokenizer: Tokenizer | None, options: EngineOptions
    ) -> None:
        self.executor, self.tokenizer, self.options = executor, tokenizer, options
        vocabulary = range(executor.model.config.vocab_size)
        self._end_tokens = [
            t for t in (tokenizer.end_tokens if tokenizer else ()) if t in vocabulary
        ]
        self.pool = PagePool(executor.pages)
        self.waiting: deque[Sequence] = deque()
        self.running: list[Sequence] = []
        self.counters = Counters()

    @property
    def busy(self) -> bool:
        return bool(self.waiting or self.running)

    def add(self, request: Request) -> Sequence:
        """The caller has checked that prompt and answer fit the cache."""
        sampling = request.sampling
        text = TextStream(self.tokenizer, sampling.stop, sampling.skip_special_tokens)
        sequence = Sequence(request, text, list(request.prompt))
        self.waiting.append(sequence)
        return sequence

    def step(self) -> None:
        """One forward pass for as many sequences as fit, and their new tokens."""
        for sequence in [s for s in (*self.running, *self.waiting) if s.cancelled]:
            self._end(sequence, Output(finish_reason="cancelled"))
        work = self._schedule()
        if not work:
            return
        self.counters.steps += 1
        tokens = torch.tensor([token for part in work for token in part.tokens])
        wanted = [row for part in work for row in part.wanted]
        step = Step(tokens, tuple(part.span for part in work))
        logits = self.executor.run(Forward(step, torch.tensor(wanted, dtype=torch.int64)))
        rows = _rows_of(work)
        logits.prepare(wish for part, first in rows for wish in self._wishes(part, first))
        for part, first in rows:
            self._deliver(part, logits, first)
        if self.options.drafts:
            going_on = [part for part in work if not part.sequence.finished]
            self.counters.drafted_tokens += propose(self.executor, going_on, self.options.drafts)

    def end_all(self, output: Output) -> None:
        for sequence in (*self.running, *self.waiting):
            self._end(sequence, output)

    # Which sequences take part in the next step.

    def _schedule(self) -> list[Work]:
        budget, row, planned = self.options.step_tokens, 0, {}
        by_need = sorted(self.running, key=lambda sequence: not sequence.decoding)
        for sequence in by_need:
            count = sequence.next_count(budget)
            if count and self._make_room(sequence, count):
                planned[sequence] = count
                budget -= count
        while budget > 0 and self._admit():
            sequence = self.running[-1]
            planned[sequence] = sequence.next_count(budget)
            budget -= planned[sequence]
        work = []
        for sequence, count in planned.items():
            if sequence in self.running:  # it has not been preempted by one planned later
                work.append(Work.of(sequence, count, row))
                row += count
        return work

    def _make_room(self, sequence: Sequence, count: int) -> bool:
        """Give the sequence pages for its next tokens; False when it was preempted itself."""
        if sequence not in self.running:
            return False
        missing = sequence.pages_for(sequence.cached + count + self.options.drafts)
        while (pages := self.pool.take(missing)) is None:
            victim = self.running[-1]
            self._preempt(victim)
            if victim is sequence:
                return False
        sequence.pages += pages
        return True

    def _preempt(self, sequence: Sequence) -> None:
        self.counters.preemptions += 1
        self.pool.give_back(sequence.pages)
        sequence.forget_cache()
        self.running.remove(sequence)
        self.waiting.appendleft(sequence)

    def _admit(self) -> bool:
        """Take the first of those that wait, if there is room for all it holds so far."""
        if not self.waiting or len(self.running) >= self.options.max_sequences:
            return False
        sequence = self.waiting[0]
        if sequence.request.sampling.prompt_logprobs is None:
            sequence.take_up(self.pool.reuse(sequence.request.prompt))
        missing = sequence.pages_for(len(sequence.tokens) + self.options.drafts)
        pages = self.pool.take(missing)
        if pages is None:
            self.pool.give_back(sequence.pages)
            sequence.forget_cache()
            return False
        sequence.pages += pages
        self.counters.reused_tokens += sequence.cached
        self.running.append(self.waiting.popleft())
        return True

    # What a step has brought.

    @staticmethod
    def _wishes(part: Work, first: int) -> Iterator[Wish]:
        """The tokens that can be chosen before any is known: all, if the drafts are right."""
        sampling, said = part.sequence.request.sampling, len(part.sequence.output)
        for index in range(part.answers if sampling.max_tokens else 0):
            if said + index >= sampling.min_tokens:
                yield Wish(first + len(part.scored) + index, sampling, said + index)

    def _deliver(self, part: Work, logits: Logits, first: int) -> None:
        """`first`: the row of the part's first logits."""
        sequence, span = part.sequence, part.span
        for row, position in enumerate(part.scored, first):
            token = sequence.tokens[position + 1]
            top = sequence.request.sampling.prompt_logprobs or 0
            sequence.prompt_logprobs.append(logprob_of(logits[row], token, top))
        if span.prompt:
            self.counters.prompt_tokens += span.count
            if span.past + span.count == sequence.prompt_length:
                self.pool.remember(sequence.request.prompt, sequence.pages)
        if not part.answers:
            sequence.cached = span.past + span.count
        else:
            begin = first + len(part.scored)
            self._extend(sequence, logits, range(begin, begin + part.answers))

    def _extend(self, sequence: Sequence, logits: Logits, rows: range) -> None:
        """Append the token that each row chooses, and tell whoever asked."""
        before = len(sequence.tokens)
        text, logprobs, reason = "", list[TokenLogprob](), None
        if sequence.request.sampling.max_tokens:
            text, logprobs, reason = self._choose(sequence, logits, rows)
        else:  # nothing but the prompt's log-probabilities was wanted
            sequence.cached, reason = before, "length"
        output = Output(
            text=text + (sequence.text.finish() if reason else ""),
            tokens=tuple(sequence.tokens[before:]),
            logprobs=tuple(logprobs),
            prompt_logprobs=tuple(sequence.prompt_logprobs)
            if before == sequence.prompt_length
            else (),
            finish_reason=reason,
            stop_reason=sequence.text.stopped_by or sequence.stop_token,
            cached_tokens=sequence.reused,
        )
        self.counters.generated_tokens += len(output.tokens)
        if reason:
            self._end(sequence, output)
        else:
            sequence.request.emit(output)

    def _choose(
        self, sequence: Sequence, logits: Logits, rows: range
    ) -> tuple[str, list[TokenLogprob], str | None]:
        """A token for each row, as long as the drafts foretold it: (text, log-probabilities, why
        it ends)."""
        drafts, sequence.drafts = sequence.drafts, []
        sampling, prompt = sequence.request.sampling, sequence.request.prompt
        text, logprobs, reason = "", list[TokenLogprob](), None
        for index, row in enumerate(rows):
            output = sequence.output
            may_end = len(output) >= sampling.min_tokens
            if may_end:
                token = logits.choose(Wish(row, sampling, len(output)), prompt, output)
            else:
                token = choose(self._without_ends(sequence, logits[row]), sampling, prompt, output)
            sequence.cached = len(sequence.tokens)
            sequence.tokens.append(token)
            if sampling.logprobs is not None:
                logprobs.append(logprob_of(logits[row], token, sampling.logprobs))
            ended = self._ends(sequence, token)
            text += "" if ended else sequence.text.add(token, may_end)
            reason = self._reason(sequence, ended)
            if reason or index == len(rows) - 1 or token != drafts[index]:
                break
            self.counters.accepted_tokens += 1
        return text, logprobs, reason

    def _without_ends(self, sequence: Sequence, logits: Floats) -> Floats:
        """Nothing that ends an answer can be chosen."""
        allowed = logits.copy()
        allowed[[*self._end_tokens, *sequence.request.sampling.stop_token_ids]] = -torch.inf
        return allowed

    def _ends(self, sequence: Sequence, token: int) -> bool:
        """Whether this token ends the answer, which it is then not part of."""
        sampling = sequence.request.sampling
        if token in sampling.stop_token_ids:
            sequence.stop_token = token
            return True
        return token in self._end_tokens and not sampling.ignore_eos

    @staticmethod
    def _reason(sequence: Sequence, ended: bool) -> str | None:
        if ended or sequence.text.stopped_by is not None:
            return "stop"
        return "length" if sequence.remaining <= 0 else None

    def _end(self, sequence: Sequence, output: Output) -> None:
        self.pool.give_back(sequence.pages)
        sequence.forget_cache()
        sequence.finished = True
        if sequence in self.running:
            self.running.remove(sequence)
        else:
            self.waiting.remove(sequence)
        sequence.request.emit(output)


def _rows_of(work: list[Work]) -> list[tuple[Work, int]]:
    """Each part with the row of its first logits."""
    found, first = [], 0
    for part in work:
        found.append((part, first))
        first += len(part.wanted)
    return found
