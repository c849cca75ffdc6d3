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
_READING = Interval(0.4, 0.95)
"""Share of the disk's sequential rate that reading experts reaches."""


@dataclass(frozen=True)
class StreamedRun:
    resident_bytes: int
    expert_bytes: int
    """Read for each token when no expert is kept."""
    token_seconds: Interval


def streamed_run(model: PlannedModel, machine: Machine) -> StreamedRun | None:
    """None where the rest does not fit into one node's memory, or the files onto its disk."""
    config = model.config
    if config.has_indexer:
        return None
    layers = range(config.num_hidden_layers)
    rules = WeightRules(FORMATS[model.stored], _WHOLE)
    weights = stage_weights(config, layers, rules, mtp=False)
    experts = weights["experts"]
    resident = int(sum(weights.values()) - experts + _OVERHEAD)
    if resident > 0.9 * machine.host_memory or sum(weights.values()) > machine.disk.space:
        return None
    read = experts * config.num_experts_per_tok // config.n_routed_experts
    rate = machine.disk.read
    return StreamedRun(
        resident, read, Interval(read / (rate * _READING.high), read / (rate * _READING.low))
    )
