"""From logits to a token.

The choice is a pure function of the logits, the settings, the tokens so far and one uniform number
that belongs to (seed, position). So a request gets the same tokens whatever runs beside it, and
with speculation as without: a drafted token is right exactly when it is the one chosen here.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from dsdeploy.runner.request import Sampling, TokenLogprob

Floats = NDArray[np.float32]
_HEAD = 1024
"""Candidates that are sorted first; nearly always they hold the whole nucleus."""


def choose(
    logits_W: Floats, sampling: Sampling, prompt: Sequence[int], output: Sequence[int]
) -> int:
    """The token that follows prompt and output."""
    scores = adjust(logits_W, sampling, prompt, output)
    if sampling.temperature == 0:
        return int(scores.argmax())
    below = scores.astype(np.float64) - scores.max()
    with np.errstate(over="ignore"):  # near 0 a temperature leaves the best alone
        shares = np.exp(below / sampling.temperature)
    tokens, shares = _candidates(shares, sampling)
    sums = shares.cumsum()
    place = np.searchsorted(sums, uniform(sampling.seed, len(output)) * sums[-1], side="right")
    index = min(int(place), len(sums) - 1)
    return index if tokens is None else int(tokens[index])


def uniform(seed: int, position: int) -> float:
    """A number in [0, 1) that depends on nothing else."""
    return float(np.random.Generator(np.random.Philox(key=seed, counter=position)).random())


def adjust(
    logits_W: Floats, sampling: Sampling, prompt: Sequence[int], output: Sequence[int]
) -> Floats:
    """With bias and penalties: repetition's for tokens of prompt and output, the others' for the
    output alone."""
    if not adjusts(sampling):
        return logits_W
    repetition, counted = sampling.repetition_penalty, _counts(sampling)
    scores = logits_W.copy()
    if repetition != 1:
        seen = np.unique(np.array([*prompt, *output], np.int64))
        values = scores[seen]
        scores[seen] = np.where(values > 0, values / repetition, values * repetition)
    if counted and output:
        tokens, counts = np.unique(np.array(output, np.int64), return_counts=True)
        penalty = sampling.presence_penalty + sampling.frequency_penalty * counts
        scores[tokens] -= penalty.astype(np.float32)
    for token, bias in sampling.logit_bias.items():
        scores[token] += np.float32(bias)
    return scores


def adjusts(sampling: Sampling) -> bool:
    """Whether logits are changed before the choice."""
    repeats = sampling.repetition_penalty != 1
    return bool(sampling.logit_bias) or repeats or _counts(sampling)


def _counts(sampling: Sampling) -> bool:
    return (sampling.presence_penalty, sampling.frequency_penalty) != (0.0, 0.0)


def filters(sampling: Sampling) -> bool:
    """Whether some tokens are left out."""
    return bool(sampling.top_k) or sampling.top_p < 1 or sampling.min_p > 0


def _candidates(
    shares: NDArray[np.float64], sampling: Sampling
) -> tuple[NDArray[np.int64] | None, NDArray[np.float64]]:
    """(tokens by falling share, shares) after top-k, top-p and min-p; tokens None means all of
    them by number, unsorted."""
    if not filters(sampling):
        return None, shares
    enough = sampling.top_p * shares.sum()
    tokens = _by_share(shares, min(sampling.top_k or _HEAD, len(shares)))
    if not sampling.top_k and shares[tokens].sum() < enough:
        tokens = _by_share(shares, len(shares))
    kept = shares[tokens]
    if sampling.top_k:
        enough = sampling.top_p * kept.sum()
    if sampling.top_p < 1:
        count = int(np.searchsorted(kept.cumsum(), enough)) + 1
        tokens, kept = tokens[:count], kept[:count]
    if sampling.min_p > 0:
        strong = kept >= sampling.min_p * kept[0]
        tokens, kept = tokens[strong], kept[strong]
    return tokens, kept


def _by_share(shares: NDArray[np.float64], count: int) -> NDArray[np.int64]:
    """The `count` largest, by falling share, equal ones by their number."""
    if count == 0:
        return np.empty(0, np.int64)
    if count < len(shares):
        bound = np.partition(shares, len(shares) - count)[len(shares) - count]
        found = np.flatnonzero(shares >= bound)
    else:
        found = np.arange(len(shares))
    return found[np.argsort(-shares[found], kind="stable")][:count]


def logprob_of(logits_W: Floats, token: int, top: int) -> TokenLogprob:
    wide = logits_W.astype(np.float64)
    logprobs = wide - (np.log(np.exp(wide - wide.max()).sum()) + wide.max())
    best = _by_share(logprobs, min(top, len(logprobs)))
    return TokenLogprob(
        token,
        float(logprobs[token]),
        int((logprobs > logprobs[token]).sum()) + 1,
        tuple((int(other), float(logprobs[other])) for other in best),
    )
