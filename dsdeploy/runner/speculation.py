"""Drafts of the MTP layer: which tokens it expects to come next.

A draft costs a row in the next step and saves one where it is right. It changes no result: the
main model chooses each token, from the logits that it would have had without drafts.
"""

from __future__ import annotations

import torch

from dsdeploy.runner.executor import Draft, DraftAgain, Executor
from dsdeploy.runner.logits import Logits, Wish
from dsdeploy.runner.sequence import Sequence, Work
from dsdeploy.runner.step import Span, Step


def propose(executor: Executor, work: list[Work], count: int) -> int:
    """Give each sequence that generates up to `count` drafts, and the MTP layer's cache the rows
    of all that the step has computed. The number of drafts."""
    if not work:
        return 0
    spans: list[Span] = []
    rows: list[int] = []
    tokens: list[int] = []
    wanted: list[int] = []
    drafting: list[Sequence] = []
    for part in work:
        sequence, past = part.sequence, part.span.past
        kept = sequence.cached - past  # rejected drafts' rows are not
        spans.append(Span(past, kept, tuple(sequence.pages), part.span.prompt))
        rows += range(part.row, part.row + kept)
        tokens += sequence.tokens[past + 1 : past + kept + 1]
        if sequence.remaining > 1 and sequence.decoding:
            drafting.append(sequence)
            wanted.append(len(rows) - 1)
    step = Step(torch.tensor(tokens), tuple(spans))
    logits = executor.run(Draft(step, torch.tensor(rows), torch.tensor(wanted, dtype=torch.int64)))
    _take(drafting, logits)
    for _ in range(count - 1):
        staying = [row for row, s in enumerate(drafting) if s.remaining > len(s.drafts) + 1]
        drafting = [drafting[row] for row in staying]
        if not drafting:
            break
        logits = executor.run(DraftAgain(_next_step(drafting), torch.tensor(staying)))
        _take(drafting, logits)
    return sum(len(part.sequence.drafts) for part in work)


def _next_step(drafting: list[Sequence]) -> Step:
    """Each sequence's last draft, at the position after those before."""
    spans = [Span(s.cached + len(s.drafts) - 1, 1, tuple(s.pages), False) for s in drafting]
    return Step(torch.tensor([s.drafts[-1] for s in drafting]), tuple(spans))


def _take(drafting: list[Sequence], logits: Logits) -> None:
    """Chosen as the main model will choose at that position: with the same settings and the same
    random number, so that drafts of sampled text are right as often as can be."""
    outputs = [sequence.output + sequence.drafts for sequence in drafting]
    wishes = [
        Wish(row, sequence.request.sampling, len(output))
        for row, (sequence, output) in enumerate(zip(drafting, outputs, strict=True))
    ]
    logits.prepare(wishes)
    for sequence, wish, output in zip(drafting, wishes, outputs, strict=True):
        sequence.drafts.append(logits.choose(wish, sequence.request.prompt, output))
