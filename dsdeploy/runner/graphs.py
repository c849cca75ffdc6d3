"""Steps of generated tokens alone, recorded once for each number of rows and then replayed.

A step of one token launches a thousand kernels, which takes a host longer than the card computes them.
So each step that only generates is laid into buffers that stay where they are, filled up to one of a
few numbers of rows, and its launches are replayed as one (a CUDA graph).

T tokens of a step   R rows of a bucket   G pages of a sequence at most   W vocabulary
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from dsdeploy.runner.cache import LatentCache
from dsdeploy.runner.model import Model
from dsdeploy.runner.ops import DecodingQueries
from dsdeploy.runner.pages import PAGE_TOKENS
from dsdeploy.runner.step import Span, Step

Results = tuple[Tensor, Tensor]
"""(hidden states [R, D], logits [R, W])"""
Compute = Callable[[], Results]
Record = Callable[[Compute], Compute]
"""Gives what computes the same again, into what it gave before."""


@dataclass(frozen=True)
class Recording:
    """What is to be recorded."""

    rows: int
    """Of the largest step."""
    pages: int
    """Of the longest sequence."""
    record: Record | None = None
    """None: CUDA graphs."""


@dataclass(frozen=True)
class BufferedStep:
    """What the model reads of a step, in one piece of memory."""

    whole: Tensor
    """int64"""
    tokens: Tensor
    positions: Tensor
    slots: Tensor
    queries: DecodingQueries
    prompts: tuple[tuple[int, Span], ...] = ()

    @property
    def generated(self) -> slice:
        return slice(None)

    @staticmethod
    def of(rows: int, pages: int, device: torch.device) -> BufferedStep:
        """Of zeros: each row the first token of a sequence on page 0."""
        whole = torch.zeros(rows * (4 + pages), dtype=torch.int64, device=device)
        tokens, positions, slots, lengths, tables = whole.split([rows] * 4 + [rows * pages])
        lengths.fill_(1)
        owners = torch.arange(rows, device=device)
        queries = DecodingQueries(lengths, owners, tables.view(rows, pages))
        return BufferedStep(whole, tokens, positions, slots, queries)


def laid_out(step: Step, rows: int, pages: int, spare: int) -> Tensor:
    """What `BufferedStep.whole` holds of this step, on the CPU: its tokens in order, then its first one
    again in the rows that are left. That one meets the same experts and reads the same keys, so that
    nothing more is read for it; it is written to the spare page."""
    found = BufferedStep.of(rows, pages, torch.device("cpu"))
    row = 0
    for span in step.spans:
        of_span = slice(row, row + span.count)
        positions = torch.arange(span.past, span.past + span.count)
        span_pages = torch.tensor(span.pages)
        found.positions[of_span] = positions
        found.queries.lengths_B[of_span] = positions + 1
        found.queries.tables[of_span, : len(span.pages)] = span_pages
        in_page = positions % PAGE_TOKENS
        found.slots[of_span] = span_pages[positions // PAGE_TOKENS] * PAGE_TOKENS + in_page
        row += span.count
    found.tokens[:row] = step.tokens.cpu()
    for of_row in (found.tokens, found.positions, found.queries.lengths_B, found.queries.tables):
        of_row[row:] = of_row[0].clone()
    found.slots[row:] = spare * PAGE_TOKENS
    return found.whole


def buckets(most: int) -> list[int]:
    """Numbers of rows that are recorded: powers of two up to 16, then every 16th."""
    small = [rows for rows in (1, 2, 4, 8) if rows < most]
    return [*small, *range(16, most, 16), most]


class DecodingGraphs:
    """For one model and its cache, whose last page is spare. Used by one thread."""

    def __init__(self, model: Model, cache: LatentCache, recording: Recording) -> None:
        """Records the largest step first, whose memory the others then share."""
        self._model, self._cache, self._pages = model, cache, recording.pages
        self._spare = cache.pages - 1
        record = recording.record or cuda_recorder(model.device)
        nothing = Step(torch.zeros(1, dtype=torch.int64), (Span(0, 1, (self._spare,), False),))
        self._steps: dict[int, tuple[BufferedStep, Compute]] = {}
        for count in reversed(buckets(recording.rows)):
            step = BufferedStep.of(count, self._pages, model.device)
            step.whole.copy_(laid_out(nothing, count, self._pages, self._spare))
            self._steps[count] = step, record(self._computing(step))

    def _computing(self, step: BufferedStep) -> Compute:
        def compute() -> Results:
            hidden_RD = self._model.hidden(step, self._cache)
            return hidden_RD, self._model.logits(hidden_RD)

        return compute

    def take(self, step: Step) -> Results | None:
        """(hidden states [T, D], logits [T, W]) until the next step is taken; None for a step that
        is not recorded."""
        count = sum(span.count for span in step.spans)
        rows = min((rows for rows in self._steps if rows >= count), default=None)
        if rows is None or any(s.prompt or len(s.pages) > self._pages for s in step.spans):
            return None
        buffered, replay = self._steps[rows]
        values = self._staged(laid_out(step, rows, self._pages, self._spare))
        buffered.whole.copy_(values, non_blocking=True)
        hidden_RD, logits_RW = replay()
        return hidden_RD[:count], logits_RW[:count]

    def _staged(self, values: Tensor) -> Tensor:
        """Where the card can read them without the host's help."""
        return values.pin_memory() if self._model.device.type == "cuda" else values


def cuda_recorder(device: torch.device) -> Record:
    """Records CUDA graphs that share one pool of memory."""
    pool = torch.cuda.graph_pool_handle()

    def record(compute: Compute) -> Compute:
        _warm_up(compute, device)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=pool):
            results = compute()

        def replay() -> Results:
            graph.replay()
            return results

        return replay

    return record


def _warm_up(compute: Compute, device: torch.device) -> None:
    """Twice, on a stream of its own: libraries and compilers make ready when they are first asked."""
    current, own = torch.cuda.current_stream(device), torch.cuda.Stream(device)
    own.wait_stream(current)
    with torch.cuda.stream(own):
        compute()
        compute()
    current.wait_stream(own)
