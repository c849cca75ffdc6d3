"""The native runner on a machine that cannot hold the model: experts come from the disk."""

from __future__ import annotations

from dataclasses import dataclass

from dsdeploy.hardware.profile import Machine
from dsdeploy.model.formats import FORMATS
from dsdeploy.planning.interval import Interval
from dsdeploy.planning.layout import Splits
from dsdeploy.planning.models import PlannedModel
from dsdeploy.planning.weights import WeightRules, stage_weights

_WHOLE = Splits(attention=1, embedding=1, dense=1, shared=1, experts=1, expert_tensor=1)
_OVERHEAD = 1.5e9
"""Bytes of the process beside weights: interpreter, kernels, cache, activations (measured: 1.3 GB
with 0.8 GB of experts kept)."""
_SHARE = 0.9
"""Of a node's memory that one program may have."""
_READING = Interval(0.4, 0.95)
"""Share of the disk's sequential rate that reading experts reaches."""


@dataclass(frozen=True)
class StreamedRun:
    memory_bytes: int
    """Wanted for all but the experts."""
    disk_bytes: int
    expert_bytes: int
    """Read for each token when no expert is kept."""
    token_seconds: Interval

    def fits(self, machine: Machine) -> bool:
        return self.memory_bytes <= _SHARE * machine.host_memory and (
            self.disk_bytes <= machine.disk.space
        )


def streamed_run(model: PlannedModel, machine: Machine) -> StreamedRun | None:
    """On one node; None for models that the native runner does not run."""
    config = model.config
    if config.has_indexer:
        return None
    layers = range(config.num_hidden_layers)
    rules = WeightRules(FORMATS[model.stored], _WHOLE)
    weights = stage_weights(config, layers, rules, mtp=False)
    experts, everything = weights["experts"], sum(weights.values())
    read = experts * config.num_experts_per_tok // config.n_routed_experts
    rate = machine.disk.read
    return StreamedRun(
        memory_bytes=int(everything - experts + _OVERHEAD),
        disk_bytes=everything,
        expert_bytes=read,
        token_seconds=Interval(read / (rate * _READING.high), read / (rate * _READING.low)),
    )
