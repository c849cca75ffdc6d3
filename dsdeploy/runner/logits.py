"""What a step's rows say, where it was computed.

On a GPU tokens are chosen there, all rows' at once, unless more than a token is wanted of a row: so
that a token crosses to the host, and not the 129,280 numbers that it was chosen from. The choice is
that of `sampling.py`, in float64 like it.

N rows   W vocabulary   M rows of one kind
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dsdeploy.runner.request import Sampling
from dsdeploy.runner.sampling import Floats, adjusts, choose, filters, uniform


@dataclass(frozen=True)
class Wish:
    """A token is to be chosen from a row, as the `position`-th of an answer."""

    row: int
    sampling: Sampling
    position: int


def needs_only_a_token(sampling: Sampling) -> bool:
    """Neither numbers of the row nor what has been said before matter."""
    return sampling.logprobs is None and not adjusts(sampling)


class Logits:
    def __init__(self, values_NW: Tensor, ahead: bool) -> None:
        """`ahead`: whether tokens are chosen on the device."""
        self._values_NW, self._ahead = values_NW, ahead
        self._tokens: dict[int, int] = {}

    def __getitem__(self, row: int) -> Floats:
        values: Floats = self._values_NW[row].cpu().numpy()
        return values

    def prepare(self, wishes: Iterable[Wish]) -> None:
        """Choose at once what can be chosen on the device."""
        if self._ahead and (chosen := [w for w in wishes if needs_only_a_token(w.sampling)]):
            tokens = choose_all(self._values_NW, chosen).tolist()
            self._tokens |= dict(zip((wish.row for wish in chosen), tokens, strict=True))

    def choose(self, wish: Wish, prompt: Sequence[int], output: Sequence[int]) -> int:
        if wish.row in self._tokens:
            return self._tokens[wish.row]
        return choose(self[wish.row], wish.sampling, prompt, output)


def choose_all(logits_NW: Tensor, wishes: list[Wish]) -> Tensor:
    """[N wishes] int64, on the device; nothing there is waited for."""
    rows_NW = logits_NW[_on(logits_NW, [wish.row for wish in wishes], torch.int64)]
    kinds: dict[str, list[int]] = {}
    for index, wish in enumerate(wishes):
        kinds.setdefault(_kind(wish.sampling), []).append(index)
    tokens = torch.empty(len(wishes), dtype=torch.int64, device=logits_NW.device)
    for kind, indexes in kinds.items():
        places = _on(logits_NW, indexes, torch.int64)
        chosen = [wishes[index] for index in indexes]
        rows_MW = rows_NW[places]
        if kind == "greedy":
            tokens[places] = _first_largest(rows_MW)
        else:
            shares_MW = _shares(rows_MW, chosen)
            draw = _drawn_from_all if kind == "all" else _drawn_from_best
            tokens[places] = draw(shares_MW, chosen)
    return tokens


def _kind(sampling: Sampling) -> str:
    if sampling.temperature == 0:
        return "greedy"
    return "best" if filters(sampling) else "all"


def _on(like: Tensor, values: list[int] | list[float], dtype: torch.dtype) -> Tensor:
    return torch.tensor(values, dtype=dtype, device=like.device)


def _first_largest(rows_MW: Tensor) -> Tensor:
    """Of equal ones the first, which argmax does not promise."""
    largest = rows_MW == rows_MW.amax(-1, keepdim=True)
    numbers = torch.arange(rows_MW.shape[1], device=rows_MW.device)
    return torch.where(largest, numbers, rows_MW.shape[1] - 1).amin(-1)


def _shares(rows_MW: Tensor, wishes: list[Wish]) -> Tensor:
    """In proportion to the probabilities."""
    below = rows_MW.double() - rows_MW.amax(-1, keepdim=True)
    heat = _on(rows_MW, [wish.sampling.temperature for wish in wishes], torch.float64)
    return (below / heat[:, None]).exp()


def _drawn_from_all(shares_MW: Tensor, wishes: list[Wish]) -> Tensor:
    return _drawn(shares_MW.cumsum(-1), wishes)


def _drawn_from_best(shares_MW: Tensor, wishes: list[Wish]) -> Tensor:
    """After top-k, top-p and min-p."""
    kept_MW, order_MW = shares_MW.sort(dim=-1, descending=True, stable=True)
    width = shares_MW.shape[1]
    top_k = [wish.sampling.top_k or width for wish in wishes]
    limit_M = _on(shares_MW, top_k, torch.int64)
    place_W = torch.arange(width, device=shares_MW.device)
    kept_MW = kept_MW.masked_fill(place_W >= limit_M[:, None], 0.0)
    sums_MW = kept_MW.cumsum(-1)
    part = _on(shares_MW, [wish.sampling.top_p for wish in wishes], torch.float64)
    whole = torch.where(limit_M < width, sums_MW[:, -1], shares_MW.sum(-1))
    last_M1 = torch.searchsorted(sums_MW, (part * whole)[:, None])
    last_M1 = torch.where(part[:, None] < 1, last_M1, width)
    least = _on(shares_MW, [wish.sampling.min_p for wish in wishes], torch.float64)
    weak_MW = kept_MW < least[:, None] * kept_MW[:, :1]
    kept_MW = kept_MW.masked_fill((place_W > last_M1) | weak_MW, 0.0)
    place_M = _drawn(kept_MW.cumsum(-1), wishes)
    return order_MW.gather(-1, place_M[:, None])[:, 0]


def _drawn(sums_MW: Tensor, wishes: list[Wish]) -> Tensor:
    """The place that the random number of seed and position falls on."""
    numbers = [uniform(wish.sampling.seed, wish.position) for wish in wishes]
    total_M1 = sums_MW[:, -1:].contiguous()
    sought_M1 = _on(sums_MW, numbers, torch.float64)[:, None] * total_M1
    place_M1 = torch.searchsorted(sums_MW, sought_M1, right=True)
    # Beyond the last share only by rounding: the last that has any.
    end_M1 = torch.searchsorted(sums_MW, total_M1)
    within_M1: Tensor = torch.minimum(place_M1, end_M1)
    return within_M1[:, 0]
