"""Driving a model by hand, as the engine does: steps of spans over a paged cache.

Nothing of pytest here: the workers of `test_ranks.py` use it too.
"""

import torch

from dsdeploy.checkpoint.reader import open_checkpoint
from dsdeploy.runner.load import LoadOptions, load_model
from dsdeploy.runner.pages import PAGE_TOKENS
from dsdeploy.runner.step import Span, Step


def load(folder, group=None, **options):
    return load_model(open_checkpoint(folder), LoadOptions(**options), group)


def random_tokens(count, seed=0, vocabulary=264):
    return torch.randint(vocabulary, (count,), generator=torch.Generator().manual_seed(seed))


def prompt(sequence, count):
    """The next `count` tokens of a sequence, as part of its prompt."""
    return sequence, count, True


def generated(sequence, count=1):
    """The next `count` tokens of a sequence, as generated ones."""
    return sequence, count, False


class Sequences:
    """Sequences of tokens in a cache of their own, whose rows are NaN until they are written: a
    kernel that reads another's row, or one too many, shows in the logits."""

    def __init__(self, model, *tokens, pages=None, room=0):
        """`pages` of each sequence; without it they follow each other. `room`: tokens to come."""
        needed = [-(-(len(sequence) + room) // PAGE_TOKENS) for sequence in tokens]
        if pages is None:
            firsts = [sum(needed[:index]) for index in range(len(needed))]
            pages = [range(f, f + count) for f, count in zip(firsts, needed, strict=True)]
        self.model, self.tokens, self.past = model, list(tokens), [0] * len(tokens)
        self.pages = [tuple(of_one) for of_one in pages]
        self.cache = model.new_cache(1 + max(max(of_one) for of_one in self.pages))
        self.cache.rows.fill_(torch.nan)

    def hidden(self, *parts):
        """One step; the final state [T, D] of each part's tokens."""
        step = self.planned(*parts)
        for sequence, count, _ in parts:
            self.past[sequence] += count
        counts = [count for _, count, _ in parts]
        return self.model.hidden(step, self.cache).split(counts)

    def step(self, *parts):
        """One step; the logits [T, W] of each part's tokens."""
        return [self.model.logits(part) for part in self.hidden(*parts)]

    def planned(self, *parts):
        spans, tokens = [], []
        for sequence, count, is_prompt in parts:
            past = self.past[sequence]
            spans.append(Span(past, count, self.pages[sequence], is_prompt))
            tokens.append(self.tokens[sequence][past : past + count])
        return Step(torch.cat(tokens), tuple(spans))


def prompt_logits(model, tokens):
    """[T, W] of a whole prompt."""
    return Sequences(model, tokens).step(prompt(0, len(tokens)))[0]


def logits_with_generated(model, tokens, first):
    """[T, W] of a prompt of `first` tokens, and of the others one after the other."""
    run = Sequences(model, tokens)
    parts = run.step(prompt(0, first))
    while run.past[0] < len(tokens):
        parts += run.step(generated(0))
    return torch.cat(parts)
