"""One device's memory as parts of a whole, for a terminal or a page."""

from __future__ import annotations

from dataclasses import dataclass

from dsdeploy.planning.memory import DeviceMemory


@dataclass(frozen=True)
class Part:
    label: str
    nbytes: int
    kind: str
    """weights, cache, engine, free or system"""


def memory_parts(memory: DeviceMemory, context: int, concurrency: int) -> list[Part]:
    """They add up to the device's memory, unless more is asked than fits. What the engine takes for
    itself is drawn at its most."""
    weights = [Part(name, size, "weights") for name, size in memory.weights.items()]
    cache = memory.cache_bytes(context, concurrency)
    engine = int(memory.runtime.high + memory.activations.high)
    free = memory.limit - memory.weight_bytes - cache - engine
    parts = [
        *weights,
        Part("cache of these requests", cache, "cache"),
        Part("activations, at most", int(memory.activations.high), "engine"),
        Part("graphs and buffers, at most", int(memory.runtime.high), "engine"),
        Part("free for more cache", free, "free"),
        Part("left to the system", memory.total - memory.limit, "system"),
    ]
    return [part for part in parts if part.nbytes > 0]
