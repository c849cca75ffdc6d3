"""One device's memory as parts of a whole, for a terminal or a page."""

from __future__ import annotations

from dataclasses import dataclass

from dsdeploy.planning.memory import DeviceMemory


@dataclass(frozen=True)
class Part:
    label: str
    nbytes: int


def memory_parts(memory: DeviceMemory, context: int, concurrency: int) -> list[Part]:
    """They add up to the device's memory, unless more is asked than fits. What the engine takes for
    itself is drawn at its most."""
    weights = [Part(name, size) for name, size in memory.weights.items()]
    cache = memory.cache_bytes(context, concurrency)
    engine = int(memory.runtime.high + memory.activations.high)
    parts = [
        *weights,
        Part("cache of these requests", cache),
        Part("activations, at most", int(memory.activations.high)),
        Part("graphs and buffers, at most", int(memory.runtime.high)),
        Part("free for more cache", memory.limit - memory.weight_bytes - cache - engine),
        Part("left to the system", memory.total - memory.limit),
    ]
    return [part for part in parts if part.nbytes > 0]
