"""From a checkpoint's folder to a Model in memory."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import torch
from torch import Tensor

from dsdeploy.checkpoint.reader import Checkpoint
from dsdeploy.errors import UsageError
from dsdeploy.runner.attention import Attention, AttentionWeights
from dsdeploy.runner.experts import ExpertStore, FeedForward, Mixture, ResidentExperts
from dsdeploy.runner.model import Layer, Model, MtpLayer
from dsdeploy.runner.ops import (
    FeedForwardWeights,
    HeadShape,
    LatentNorms,
    Routing,
    Weight,
    choose_ops,
)
from dsdeploy.runner.parallel import Group
from dsdeploy.runner.rope import Rotation
from dsdeploy.runner.streaming import ExpertPool, ExpertSlots
from dsdeploy.runner.weights import DTYPES, WeightSource, read_vector, read_weight

Advance = Callable[[int, str], None]
CPU = torch.device("cpu")


@dataclass(frozen=True)
class LoadOptions:
    dtype: str = "auto"
    """`auto` keeps weights as they are stored; else one of `DTYPES`."""
    device: torch.device = CPU
    kernels: str | None = None
    """`compiled` or `plain`; None is what the device has."""
    mtp: bool = True
    """Whether to load the MTP layer, where there is one."""
    expert_memory: int | None = None
    """Bytes for experts that are read when they are needed; None keeps all in memory."""
    workers: int = 4


def load_model(
    checkpoint: Checkpoint,
    options: LoadOptions,
    group: Group | None = None,
    advance: Advance = lambda nbytes, detail: None,
) -> Model:
    """Raises IntegrityError, naming the tensor, when the checkpoint is damaged; UsageError when
    it is none that the runner can run so."""
    group = group or Group()
    return Loader(WeightSource(checkpoint, group), options, group, advance).model()


def _refuse(source: WeightSource, options: LoadOptions, group: Group) -> None:
    config = source.config
    if config.has_indexer:
        raise UsageError(
            "The native runner does not run DeepSeek-V3.2's sparse attention.",
            "Use DeepSeek-V3, R1 or V3.1.",
        )
    if options.dtype == "fp8" and not source.holds_fp8:
        raise UsageError(
            "--dtype fp8 needs FP8 weights; this checkpoint holds BF16.",
            "Convert it first: dsdeploy convert CHECKPOINT TARGET --to fp8",
        )
    if options.expert_memory is not None and options.device.type != "cpu":
        raise UsageError("--expert-memory is for a CPU.", "Leave one of it and --device away.")
    for what, count in (
        ("attention heads", config.num_attention_heads),
        ("experts", config.n_routed_experts),
        ("tokens of the vocabulary", config.vocab_size),
    ):
        if count % group.size:
            raise UsageError(f"{count} {what} cannot be shared by {group.size} ranks.")


class Loader:
    """Makes the parts of a model, each when it is asked for."""

    def __init__(
        self,
        source: WeightSource,
        options: LoadOptions,
        group: Group,
        advance: Advance = lambda nbytes, detail: None,
    ) -> None:
        _refuse(source, options, group)
        self.source, self.options, self.group = source, options, group
        self.config, self._advance = source.config, advance
        stored = "fp8" if source.holds_fp8 else "bfloat16"
        self.dtype = DTYPES[stored if options.dtype == "auto" else options.dtype]
        quantization = self.config.quantization
        powers = quantization is not None and quantization.scale_format == "ue8m0"
        self.ops = choose_ops(options.device, powers, options.kernels)
        self._pool = self._expert_pool()

    def model(self) -> Model:
        """All of it; layers are read by several threads."""
        with ThreadPoolExecutor(self.options.workers) as threads:
            layers = list(threads.map(self.layer, range(self.config.num_hidden_layers)))
        final_norm, head = self.final()
        return Model(
            config=self.config,
            embedding=self.embedding(),
            layers=layers,
            final_norm=final_norm,
            head=head,
            mtp=self._mtp() if self.options.mtp and self.source.has_mtp else None,
            rotation=Rotation(self.config, self.options.device),
            ops=self.ops,
            group=self.group,
            cache_dtype=self.cache_dtype,
        )

    @property
    def cache_dtype(self) -> torch.dtype:
        return torch.bfloat16 if self.dtype == torch.float8_e4m3fn else self.dtype

    def embedding(self) -> Tensor:
        """Every rank has all of it."""
        spec = self.source.spec(None, "embed_tokens")
        return self._place(read_weight(self.source, spec, self.dtype, whole=True)).values

    def layer(self, layer: int, cached_as: int | None = None) -> Layer:
        """`cached_as`: its place in the cache, when that holds fewer layers than the model."""
        dense = layer < self.config.first_k_dense_replace
        return Layer(
            attention_norm=self._vector(layer, "input_layernorm"),
            attention=self._attention(layer, layer if cached_as is None else cached_as),
            feed_forward_norm=self._vector(layer, "post_attention_layernorm"),
            feed_forward=self._feed_forward(layer) if dense else self._mixture(layer),
            epsilon=self.config.rms_norm_eps,
            ops=self.ops,
        )

    def final(self) -> tuple[Tensor, Weight]:
        """The last norm and the head."""
        return self._vector(None, "norm"), self._matrix(None, "lm_head")

    def _mtp(self) -> MtpLayer:
        layer = self.config.num_hidden_layers
        return MtpLayer(
            embedding_norm=self._vector(layer, "enorm"),
            hidden_norm=self._vector(layer, "hnorm"),
            projection=self._matrix(layer, "eh_proj"),
            layer=self.layer(layer),
            final_norm=self._vector(layer, "shared_head.norm"),
        )

    def _attention(self, layer: int, cached_as: int) -> Attention:
        compressed = self.config.q_lora_rank is not None
        weights = AttentionWeights(
            q_a=self._matrix(layer, "q_a_proj" if compressed else "q_proj"),
            q_b=self._matrix(layer, "q_b_proj") if compressed else None,
            kv_a=self._matrix(layer, "kv_a_proj_with_mqa"),
            norms=LatentNorms(
                query_A=self._vector(layer, "q_a_layernorm") if compressed else None,
                cache_L=self._vector(layer, "kv_a_layernorm"),
                epsilon=self.config.rms_norm_eps,
            ),
            kv_b=self._matrix(layer, "kv_b_proj", self.cache_dtype),
            o=self._matrix(layer, "o_proj"),
        )
        shape = HeadShape.of(self.config, self.group.size)
        return Attention(cached_as, weights, shape, self.ops, self.group)

    def _feed_forward(self, layer: int) -> FeedForward:
        gate, up, down = (
            _one_slot(self._matrix(layer, role)) for role in ("gate_proj", "up_proj", "down_proj")
        )
        return FeedForward(FeedForwardWeights(gate, up, down), self.ops, self.group)

    def _mixture(self, layer: int) -> Mixture:
        config, joined = self.config, self._joins_shared()
        separate = config.n_shared_experts and not joined
        return Mixture(
            gate=self._matrix(layer, "gate", torch.float32),
            bias=self._vector(layer, "gate", "bias"),
            routing=Routing(
                experts_per_token=config.num_experts_per_tok,
                groups=config.n_group,
                kept_groups=config.topk_group,
                normalise=config.norm_topk_prob,
                factor=config.routed_scaling_factor,
                shared=int(joined),
            ),
            experts=self._experts(layer, joined),
            shared=self._feed_forward(layer) if separate else None,
            ops=self.ops,
            group=self.group,
        )

    def _joins_shared(self) -> bool:
        """Where there is one, whole and of an expert's size."""
        alone = self.group.size == 1 and self._pool is None
        return self.ops.joins_shared and alone and self.config.n_shared_experts == 1

    def _experts(self, layer: int, joined: bool) -> ExpertStore:
        count = self.config.n_routed_experts // self.group.size
        first = count * self.group.rank
        if self._pool is not None:
            return self._pool.layer(layer, range(first, first + count))
        experts = [*range(first, first + count), *([None] if joined else [])]
        slots = ExpertSlots(self.source, self.dtype, len(experts))
        for slot, expert in enumerate(experts):
            slots.read(layer, expert, slot)
            self._advance(slots.nbytes // len(experts), f"layer {layer}")
        device = self.options.device
        alone = self.group.size == 1
        return ResidentExperts(slots.weights.to(device), None if alone else first)

    def _expert_pool(self) -> ExpertPool | None:
        if self.options.expert_memory is None or self.config.first_k_dense_replace >= (
            self.config.num_hidden_layers
        ):
            return None
        return ExpertPool(self.source, self.dtype, self.options.expert_memory)

    def _matrix(self, layer: int | None, role: str, dtype: torch.dtype | None = None) -> Weight:
        spec = self.source.spec(layer, role)
        weight = read_weight(self.source, spec, dtype or self.dtype)
        self._advance(spec.nbytes, f"layer {layer}")
        return self._place(weight)

    def _vector(self, layer: int | None, role: str, kind: str = "norm") -> Tensor:
        return read_vector(self.source, self.source.spec(layer, role, kind)).to(self.options.device)

    def _place(self, weight: Weight) -> Weight:
        return weight.to(self.options.device)


def _one_slot(weight: Weight) -> Weight:
    scales = None if weight.scales is None else weight.scales[None]
    return Weight(weight.values[None], scales)
