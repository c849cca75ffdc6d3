"""How fast: a roofline with the efficiencies that engines reach, so every figure is an interval.

A layer takes what its bytes take to read or its products to compute, whichever is more, then what
its collectives take, then a fixed time. The fast end has the best efficiencies that were measured,
the slow end the worst. See docs/planning.md.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import prod

from dsdeploy.hardware.profile import Machine
from dsdeploy.model.config import ModelConfig
from dsdeploy.model.formats import WeightFormat
from dsdeploy.model.tensors import TensorSpec
from dsdeploy.planning.interval import Interval
from dsdeploy.planning.layout import Layout, stages
from dsdeploy.planning.memory import CACHE_BYTES, cache_width
from dsdeploy.planning.rules import Rules
from dsdeploy.planning.weights import (
    WeightRules,
    layer_specs,
    layer_weights,
    outer_specs,
    part_of,
    stage_weights,
)

_ACCEPTED = Interval(0.6, 0.85)
"""Share of drafts that the MTP layer gets right: 81 to 82 % in vllm#12755, less off chat."""
_LINK = Interval(0.4, 0.85)
"""Share of a link's rate that collectives reach."""
_LATENCY = {True: Interval(5e-6, 15e-6), False: Interval(15e-6, 50e-6)}
"""Of one collective inside a node and between nodes, in seconds."""
_BUSIEST = Interval(1.0, 1.6)
"""Work of the busiest device over the mean when whole experts are dealt out."""
_DISK = Interval(0.4, 1.0)
"""Share of the disk's sequential rate at which engines load."""


@dataclass(frozen=True)
class Load:
    """What a step has to do on one replica's devices."""

    requests: float
    """Of one attention replica."""
    tokens: float
    """Of one attention replica in this step: one a request when decoding."""
    context: float
    """Tokens that each attends to, on average."""


@dataclass(frozen=True)
class _Ends:
    """One end of all efficiencies at once."""

    memory: float
    compute: float
    link: float
    latency: tuple[float, float]
    """Inside a node, between nodes."""
    busiest: float
    layer_seconds: float
    overlaps: bool
    """Whether tokens travel to their experts while others are computed."""


@dataclass(frozen=True)
class Speed:
    """Of the whole machine. All modelled."""

    decode: Interval
    """Tokens a second of all requests together."""
    prefill: Interval
    """Tokens a second."""
    first_token: Interval
    """Seconds until an alone request of the asked context has its first token."""
    load: Interval
    """Seconds from the disk to the devices."""


class Roofline:
    def __init__(
        self, config: ModelConfig, machine: Machine, rules: Rules, kept: WeightFormat,
        layout: Layout, cache_format: str,
    ) -> None:  # fmt: skip
        self.config, self.machine, self.rules, self.layout = config, machine, rules, layout
        self.weight_rules = WeightRules(kept, rules.splits(layout), rules.memory.kv_b_copies)
        self.peak = rules.teraflops(kept, machine.accelerator) * 1e12
        self.cache_item = CACHE_BYTES[cache_format]
        self._known: dict[bool, tuple[Mapping[str, int], Mapping[str, int]]] = {}

    def decode(self, concurrency: int, context: int, mtp: bool) -> Interval:
        """Tokens a second with so many requests that hold so much context each."""
        rates = [self._decode_rate(concurrency, context, ends) for ends in self._both_ends()]
        if not mtp:
            return Interval(*rates)
        # A step verifies two tokens a request and drafts with one layer more.
        step = 1 + 1.5 / self.config.num_hidden_layers
        return Interval(
            rates[0] * (1 + _ACCEPTED.low) / (1.25 * step), rates[1] * (1 + _ACCEPTED.high) / step
        )

    def _decode_rate(self, concurrency: int, context: int, ends: _Ends) -> float:
        """Requests pass a pipeline in as many groups as it has stages."""
        layout = self.layout
        groups = min(layout.pipeline, max(1, concurrency // layout.data))
        requests = max(1.0, concurrency / groups / layout.data)
        load = Load(requests, requests, context)
        per_stage = [self._stage_seconds(layers, load, ends) for layers in self._stages()]
        step = max(max(per_stage) * groups, sum(per_stage))
        return concurrency / step

    def prefill(self, context: int) -> Interval:
        """Tokens a second when many prompts of this length wait."""
        return Interval(*(self._prefill_rate(context, ends) for ends in self._both_ends()))

    def _prefill_rate(self, context: int, ends: _Ends) -> float:
        tokens = self.rules.memory.step_tokens
        load = Load(max(1.0, tokens / context), tokens, context / 2)
        slowest = max(self._stage_seconds(layers, load, ends) for layers in self._stages())
        return tokens * self.layout.data / slowest

    def first_token(self, context: int) -> Interval:
        """One prompt alone has one attention replica, and passes all stages one after the other."""
        return Interval(
            *(self._first_token(context, ends) for ends in reversed(list(self._both_ends())))
        )

    def _first_token(self, context: int, ends: _Ends) -> float:
        load = Load(1, context, context / 2)
        return sum(self._stage_seconds(layers, load, ends) for layers in self._stages())

    def load(self, mtp: bool) -> Interval:
        """Each node reads what its devices hold, but no byte twice."""
        heaviest = max(self._weights(layers, mtp) for layers in self._stages())
        nodes = min(
            self.machine.nodes, -(-self.layout.devices // self.machine.accelerators_per_node)
        )
        whole = sum(self._weights(layers, mtp) * self.layout.stage for layers in self._stages())
        a_node = min(heaviest * self.machine.accelerators_per_node, whole / nodes)
        rate = self.machine.disk.read
        return Interval(a_node / (rate * _DISK.high), a_node / (rate * _DISK.low))

    def _weights(self, layers: range, mtp: bool) -> int:
        return sum(stage_weights(self.config, layers, self.weight_rules, mtp).values())

    def _stages(self) -> list[range]:
        return stages(self.config.num_hidden_layers, self.layout.pipeline)

    def _both_ends(self) -> Iterable[_Ends]:
        """The slow one first."""
        speed = self.rules.speed
        inside, between = _LATENCY[True], _LATENCY[False]
        busiest = _BUSIEST if self.layout.expert > 1 else Interval(1.0, 1.0)
        yield _Ends(
            speed.memory.low, speed.compute.low, _LINK.low, (inside.high, between.high),
            busiest.high, speed.layer_microseconds.high * 1e-6, False,
        )  # fmt: skip
        yield _Ends(
            speed.memory.high, speed.compute.high, _LINK.high, (inside.low, between.low),
            busiest.low, speed.layer_microseconds.low * 1e-6, True,
        )  # fmt: skip

    def _stage_seconds(self, layers: range, load: Load, ends: _Ends) -> float:
        bound = min(max(self.config.first_k_dense_replace, layers.start), layers.stop)
        dense, moe = range(layers.start, bound), range(bound, layers.stop)
        seconds = sum(
            len(kind) * self._layer_seconds(kind.start, load, ends) for kind in (dense, moe) if kind
        )
        if layers.stop == self.config.num_hidden_layers:
            seconds += self._head_seconds(load, ends)
        return seconds

    def _layer_seconds(self, layer: int, load: Load, ends: _Ends) -> float:
        held, values = self._of_layer(layer)
        splits, layout = self.weight_rules.splits, self.layout
        seconds = self._bound(
            held["attention"] + self._cache_bytes(load),
            load.tokens * 2 * values["attention"] / splits.attention + self._attention_flops(load),
            ends,
        )
        always = held["dense layers"] + held["shared experts"] + held["gate and norms"]
        dense = values["dense layers"] / splits.dense + values["shared experts"] / splits.shared
        replicas = load.tokens * (layout.data if splits.dense > layout.tensor else 1)
        seconds += self._bound(always, replicas * 2 * dense, ends)
        experts = 0.0
        if held["experts"]:
            experts = ends.busiest * self._expert_seconds(held["experts"], values, load, ends)
        around = self._around_experts(load, ends)
        hidden = layout.data > 1 and ends.overlaps
        between = max(experts, around) if hidden else experts + around
        after_attention = self._all_reduce(layout.tensor, load.tokens * self._state, ends)
        return seconds + after_attention + between + ends.layer_seconds

    def _of_layer(self, layer: int) -> tuple[Mapping[str, int], Mapping[str, int]]:
        """(bytes on a device, values in the model) of its parts; all dense layers are alike, and so
        are all mixtures."""
        dense = layer < self.config.first_k_dense_replace
        if dense not in self._known:
            self._known[dense] = (
                layer_weights(self.config, layer, self.weight_rules),
                _values(self.config, layer_specs(self.config, layer)),
            )
        return self._known[dense]

    def _expert_seconds(
        self, held: float, values: Mapping[str, int], load: Load, ends: _Ends
    ) -> float:
        """Reading those experts that some token has chosen, and computing every choice."""
        config = self.config
        tokens = load.tokens * self.layout.data
        share = config.num_experts_per_tok / config.n_routed_experts
        hit = 1 - (1 - share) ** tokens
        products = tokens * config.num_experts_per_tok * values["experts"] / self.layout.stage
        return self._bound(held * hit, 2 * products, ends)

    def _head_seconds(self, load: Load, ends: _Ends) -> float:
        """Logits are wanted of one token a request."""
        specs = outer_specs(self.config)
        values = _values(self.config, specs)["head"] / self.weight_rules.splits.embedding
        return self._bound(values * 2, load.requests * 2 * values, ends)

    def _cache_bytes(self, load: Load) -> float:
        width = cache_width(self.config) * self.cache_item
        return load.requests * load.context * width

    def _attention_flops(self, load: Load) -> float:
        """Scores and sums. Decoding works on latents, prefill on expanded keys and values."""
        config = self.config
        heads = config.num_attention_heads / self.layout.tensor
        if load.tokens > load.requests:
            width = config.qk_nope_head_dim + config.qk_rope_head_dim + config.v_head_dim
        else:
            width = cache_width(config) + config.kv_lora_rank
        return load.tokens * load.context * heads * 2 * width

    def _bound(self, nbytes: float, flops: float, ends: _Ends) -> float:
        reading = nbytes / (self.machine.accelerator.bandwidth * ends.memory)
        return max(reading, flops / (self.peak * ends.compute))

    @property
    def _state(self) -> int:
        """Bytes of a token's hidden state in BF16."""
        return self.config.hidden_size * 2

    def _around_experts(self, load: Load, ends: _Ends) -> float:
        """Tokens go to their experts and come back: summed by all, or sent where they are wanted."""
        layout = self.layout
        if layout.data > 1 and layout.expert > 1:
            return self._all_to_all(load.tokens / layout.tensor, ends)
        return self._all_reduce(layout.stage, load.tokens * layout.data * self._state, ends)

    def _all_reduce(self, devices: int, nbytes: float, ends: _Ends) -> float:
        """Summed inside each node, then between nodes, where each device takes its share."""
        if devices == 1:
            return 0.0
        node = self.machine.accelerators_per_node
        inside, nodes = min(devices, node), -(-devices // node)
        moved = 2 * nbytes * (inside - 1) / inside
        seconds = ends.latency[nodes > 1] + moved / (self.machine.node_link.bandwidth * ends.link)
        if nodes > 1 and self.machine.inter_node is not None:
            moved = 2 * nbytes * (nodes - 1) / nodes
            seconds += moved / (self.machine.inter_node.bandwidth * ends.link)
        return seconds

    def _all_to_all(self, tokens: float, ends: _Ends) -> float:
        """A token goes out in FP8 and comes back in BF16, once for each device inside a node, once
        for each node that its groups of experts reach."""
        config, node = self.config, self.machine.accelerators_per_node
        each = tokens * config.hidden_size * 3
        nodes = -(-self.layout.stage // node)
        copies = min(config.num_experts_per_tok, self.layout.stage)
        seconds = each * copies / (self.machine.node_link.bandwidth * ends.link)
        if nodes > 1 and self.machine.inter_node is not None:
            reached = min(config.topk_group, nodes) * (nodes - 1) / nodes
            rate = self.machine.inter_node.bandwidth / node * ends.link
            seconds = max(seconds, each * reached / rate)
        return 2 * ends.latency[nodes > 1] + seconds


def _values(config: ModelConfig, specs: Iterable[TensorSpec]) -> dict[str, int]:
    """Parameters of each part, of one routed expert where there are some."""
    total: dict[str, int] = {}
    for spec in specs:
        part = part_of(config, spec)
        total[part] = total.get(part, 0) + prod(spec.shape)
    return {part: total.get(part, 0) for part in (*total, "attention", "dense layers",
            "shared experts", "experts", "head")}  # fmt: skip
