"""Experts that stay on disk and pass through a bounded pool of memory.

The pool has slots, each with room for one expert of any layer. When a gate has chosen, missing
experts are read by threads while the shared expert computes; the ones used longest ago make room.
When a step needs more experts than there are slots they come in waves. A slot holds what resident
memory would, and results are combined in the same order: the logits do not change by a bit.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import torch
from torch import Tensor

from dsdeploy.errors import UsageError
from dsdeploy.runner.ops import FeedForwardWeights, Weight
from dsdeploy.runner.weights import WeightSource, kept_dtype, read_weight
from dsdeploy.units import format_bytes

_ROLES = ("gate_proj", "up_proj", "down_proj")
_READERS = 4


class ExpertSlots:
    """Memory for experts: three matrices a slot, with their scales for FP8."""

    def __init__(self, source: WeightSource, dtype: torch.dtype, count: int) -> None:
        self._source, self._dtype = source, dtype
        layer = source.config.first_k_dense_replace
        self.weights = FeedForwardWeights(*(self._stack(layer, role, count) for role in _ROLES))

    def _stack(self, layer: int, role: str, count: int) -> Weight:
        spec = self._source.spec(layer, role, expert=0)
        dtype = kept_dtype(spec, self._dtype)
        values = torch.empty(count, *spec.shape, dtype=dtype)
        if dtype != torch.float8_e4m3fn:
            return Weight(values)
        grid = self._source.spec(layer, role, "scale", 0).shape
        return Weight(values, torch.empty(count, *grid))

    @property
    def nbytes(self) -> int:
        parts = (self.weights.gate, self.weights.up, self.weights.down)
        return sum(weight.nbytes for weight in parts)

    def read(self, layer: int, expert: int | None, slot: int) -> None:
        """`expert` None: the shared one."""
        stacks = (self.weights.gate, self.weights.up, self.weights.down)
        for role, stack in zip(_ROLES, stacks, strict=True):
            spec = self._source.spec(layer, role, expert=expert)
            found = read_weight(self._source, spec, self._dtype, stack.values[slot])
            if stack.scales is not None and found.scales is not None:
                stack.scales[slot] = found.scales


class ExpertPool:
    """The slots that the experts of all layers share. Used by one thread."""

    def __init__(self, source: WeightSource, dtype: torch.dtype, nbytes: int) -> None:
        config = source.config
        one = ExpertSlots(source, dtype, 1).nbytes
        layers = config.num_hidden_layers - config.first_k_dense_replace + source.has_mtp
        count = min(nbytes // one, layers * config.n_routed_experts)
        if count < 2:
            raise UsageError(
                f"--expert-memory {format_bytes(nbytes)} does not hold two experts of "
                f"{format_bytes(one)}.",
                f"Give at least {format_bytes(2 * one)}; the experts of one token take "
                f"{format_bytes(config.num_experts_per_tok * one)}.",
            )
        self.slots = ExpertSlots(source, dtype, count)
        self.count = count
        self._threads = ThreadPoolExecutor(_READERS, "experts")
        self._reading: OrderedDict[tuple[int, int], tuple[int, Future[None]]] = OrderedDict()
        self._free = list(range(count))

    def layer(self, layer: int, experts: range) -> StreamedExperts:
        return StreamedExperts(self, layer, experts)

    def request(self, keys: list[tuple[int, int]]) -> None:
        """Begin to read what is missing of at most `count` experts, which are kept until others
        are requested."""
        for key in keys:
            if key in self._reading:
                self._reading.move_to_end(key)
        for key in keys:
            if key not in self._reading:
                slot = self._take_slot()
                self._reading[key] = slot, self._threads.submit(self.slots.read, *key, slot)

    def _take_slot(self) -> int:
        if self._free:
            return self._free.pop()
        _, (slot, reading) = self._reading.popitem(last=False)
        reading.cancel()
        if not reading.cancelled():
            reading.exception()  # waits; a fault of an expert that nobody uses is no fault
        return slot

    def slot(self, key: tuple[int, int]) -> int:
        """Where a requested expert is, when it is there. Raises what reading it has raised."""
        slot, reading = self._reading[key]
        try:
            reading.result()
        except BaseException:
            self._forget_failures()
            raise
        return slot

    def _forget_failures(self) -> None:
        """So that they are read again when they are asked for again."""
        for key, (slot, reading) in list(self._reading.items()):
            if reading.exception() is not None:  # waits
                del self._reading[key]
                self._free.append(slot)


@dataclass(frozen=True)
class StreamedExperts:
    """One layer's experts, of which this rank has `experts`."""

    pool: ExpertPool
    layer: int
    experts: range

    def prefetch(self, experts_TC: Tensor) -> None:
        self.pool.request(self._waves(experts_TC)[0])

    def waves(self, experts_TC: Tensor) -> Iterator[tuple[Tensor, FeedForwardWeights]]:
        waves = self._waves(experts_TC)
        for index, wave in enumerate(waves):
            self.pool.request(wave)
            slots = torch.full((max(self.experts.stop, 1),), -1)
            for key in wave:
                slots[key[1]] = self.pool.slot(key)
            if index + 1 < len(waves):  # half of the pool computes while the other half is read
                self.pool.request(waves[index + 1])
            yield self._slots_of(slots, experts_TC), self.pool.slots.weights

    def _slots_of(self, slots: Tensor, experts_TC: Tensor) -> Tensor:
        mine = (experts_TC >= self.experts.start) & (experts_TC < self.experts.stop)
        return torch.where(mine, slots[experts_TC.clamp(max=self.experts.stop - 1)], -1)

    def _waves(self, experts_TC: Tensor) -> list[list[tuple[int, int]]]:
        chosen = experts_TC.unique().tolist()
        keys = [(self.layer, expert) for expert in chosen if expert in self.experts]
        size = self.pool.count if len(keys) <= self.pool.count else self.pool.count // 2
        return [keys[at : at + size] for at in range(0, len(keys), size)] or [[]]
