"""Products of a model's true shapes, on random operands, by everyone who can compute them.

T tokens   N outputs   K inputs   S slots   D hidden   F width of an expert   B queries
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from dsdeploy.model.config import BLOCK, ModelConfig
from dsdeploy.runner.gpu import decode, experts, libraries, matmul, rowwise
from dsdeploy.runner.gpu.matmul import Arithmetic
from dsdeploy.runner.gpu.table import By, Entry
from dsdeploy.runner.gpu.tiles import (
    Card,
    DecodeTile,
    Tile,
    decode_tile,
    expert_tiles,
    fitted,
    linear_tile,
)
from dsdeploy.runner.ops import Activation, DecodingQueries, FeedForwardWeights, HeadShape, Weight
from dsdeploy.runner.pages import PAGE_TOKENS
from dsdeploy.runner.rope import Turn

_NARROW = tuple(
    Tile(16, columns, warps, stages)
    for columns in (16, 32, 64, 128) for warps in (2, 4) for stages in (4, 6, 8)
)  # fmt: skip
_WIDE = tuple(
    Tile(rows, columns, warps, stages)
    for rows in (32, 64, 128) for columns in (64, 128) for warps in (4, 8) for stages in (3, 4)
)  # fmt: skip
_DECODE = tuple(
    DecodeTile(heads, keys, splits, 4, 2)
    for heads in (16, 32, 64) for keys in (32, 64) for splits in (1, 2, 4, 8, 16, 32)
)  # fmt: skip
_FEW_ROWS = 16


@dataclass(frozen=True)
class Candidate:
    entry: Entry
    """Without a time."""
    compute: Callable[[], Tensor]


@dataclass(frozen=True)
class Trial:
    label: str
    candidates: tuple[Candidate, ...]
    """The first computes as is done where nothing is measured."""
    nbytes: int
    """Of weights and cache that must be read."""
    operations: int
    """Multiplications and additions."""


@dataclass(frozen=True)
class Operands:
    """Random ones, made on the device."""

    device: torch.device
    generator: torch.Generator

    @staticmethod
    def on(device: torch.device) -> Operands:
        return Operands(device, torch.Generator(device).manual_seed(0))

    def values(self, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        found = torch.randn(shape, device=self.device, generator=self.generator)
        return found.to(dtype)

    def weight(self, *shape: int) -> Weight:
        """In FP8."""
        codes = torch.empty(shape, dtype=torch.uint8, device=self.device)
        codes.random_(0, 0x7F, generator=self.generator)
        codes ^= codes << 7  # the last bit is the sign too
        grid = (*shape[:-2], *(-(-length // BLOCK) for length in shape[-2:]))
        scales = torch.rand(grid, device=self.device, generator=self.generator) * 1e-4 + 1e-4
        return Weight(codes.view(torch.float8_e4m3fn), scales)

    def slots(self, tokens: int, slots: int, choices: int) -> Tensor:
        """Distinct ones for each token; uniform, as a balanced gate chooses."""
        order = torch.rand(tokens, slots, device=self.device, generator=self.generator)
        return order.topk(choices, -1).indices


def linear_shapes(config: ModelConfig) -> dict[str, tuple[tuple[int, ...], int]]:
    """(outputs of each weight, inputs) of the FP8 products of a layer but for the experts'."""
    heads, hidden = config.num_attention_heads, config.hidden_size
    query = config.qk_nope_head_dim + config.qk_rope_head_dim
    latent = config.kv_lora_rank + config.qk_rope_head_dim
    shapes: dict[str, tuple[tuple[int, ...], int]] = {}
    if config.q_lora_rank is None:
        shapes["q, kv_a"] = (heads * query, latent), hidden
    else:
        shapes["q_a, kv_a"] = (config.q_lora_rank, latent), hidden
        shapes["q_b"] = (heads * query,), config.q_lora_rank
    shapes["o"] = (hidden,), heads * config.v_head_dim
    width = config.intermediate_size
    return shapes | {"dense gate, up": ((width, width), hidden), "dense down": ((hidden,), width)}


def linear_trial(
    label: str, outputs: tuple[int, ...], k: int, rows: int,
    operands: Operands, card: Card, arithmetic: Arithmetic,
) -> Trial:  # fmt: skip
    weights = [operands.weight(n, k) for n in outputs]
    x = Activation(operands.values(rows, k))
    x = rowwise.quantise(x.values_TK, arithmetic.powers_of_two) if arithmetic.fp8 else x
    shape, item = (sum(outputs), k), matmul.bytes_of(x)

    def by_triton(tile: Tile) -> Candidate:
        entry = Entry("linear", shape, rows, "triton", (tile,))
        return Candidate(entry, lambda: matmul.linear(x, weights, tile, arithmetic))

    def by(name: By, compute: Callable[[Activation, Weight], Tensor]) -> Candidate:
        entry = Entry("linear", shape, rows, name)
        return Candidate(entry, lambda: torch.cat([compute(x, w) for w in weights], -1))

    tiles = _NARROW if rows <= _FEW_ROWS else _WIDE
    found = [
        by_triton(tile) for tile in _distinct(linear_tile(rows, shape[0], card), tiles, card, item)
    ]
    if (
        arithmetic.fp8
        and libraries.installed("torch")
        and all(libraries.torch_takes(n, k) for n in outputs)
    ):
        found.append(by("torch", libraries.linear_by_torch))
    if arithmetic.fp8 and libraries.installed("deep_gemm"):
        found.append(by("deep_gemm", libraries.linear_by_deep_gemm))
    nbytes = sum(weight.nbytes for weight in weights)
    return Trial(label, tuple(found), nbytes, 2 * rows * shape[0] * k)


def expert_trial(
    config: ModelConfig, slots: int, rows: int,
    operands: Operands, card: Card, arithmetic: Arithmetic,
) -> Trial:  # fmt: skip
    """All routed experts of a token, and one that is every token's behind them."""
    hidden, width = config.hidden_size, config.moe_intermediate_size
    choices = config.num_experts_per_tok
    shape = (slots, hidden, width)
    weights = FeedForwardWeights(
        operands.weight(slots, width, hidden), operands.weight(slots, width, hidden),
        operands.weight(slots, hidden, width),
    )  # fmt: skip
    chosen = operands.slots(rows, slots - 1, min(choices, slots - 1))
    chosen = torch.cat([chosen, torch.full_like(chosen[:, :1], slots - 1)], -1)
    x = Activation(operands.values(rows, hidden))
    x = rowwise.quantise(x.values_TK, arithmetic.powers_of_two) if arithmetic.fp8 else x
    y = torch.empty(*chosen.shape, hidden, device=operands.device)

    def by_tiles(tiles: tuple[Tile, Tile]) -> Candidate:
        def compute() -> Tensor:
            experts.feed_forward(x, chosen, weights, y, *tiles, arithmetic)
            return y

        return Candidate(Entry("experts", shape, rows, "triton", tiles), compute)

    default = expert_tiles(chosen.numel(), slots)
    # Few pairs for each expert fill a small tile at most.
    of_slot = chosen.numel() / slots
    heights = (16,) if of_slot <= _FEW_ROWS else (32, 64, 128)
    wished = [default, *_expert_tiles(heights)]
    fitting = dict.fromkeys(experts.fitted_tiles(tiles, card, x, weights) for tiles in wished)
    hit = len(chosen.unique())
    return Trial(
        "experts",
        tuple(map(by_tiles, fitting)),
        hit * 3 * hidden * width,
        6 * chosen.numel() * hidden * width,
    )


def _expert_tiles(heights: tuple[int, ...]) -> Iterator[tuple[Tile, Tile]]:
    for rows in heights:
        for columns in (32, 64, 128):
            for below in (32, 64, 128):
                for warps in (4, 8) if rows > _FEW_ROWS else (4,):
                    yield Tile(rows, columns, warps, 4), Tile(rows, below, warps, 4)


def decode_trial(
    shape: HeadShape, rows: int, context: int, dtype: torch.dtype,
    operands: Operands, card: Card,
) -> Trial:  # fmt: skip
    pages = -(-context // PAGE_TOKENS)
    cache = operands.values(rows * pages * PAGE_TOKENS, shape.latent + shape.rotary, dtype=dtype)
    tables = torch.arange(rows * pages, device=operands.device).view(rows, pages)
    queries = DecodingQueries(
        torch.full((rows,), context, device=operands.device),
        torch.arange(rows, device=operands.device),
        tables,
    )
    height = shape.heads * (shape.no_position + shape.value)
    kv_b = Weight(operands.values(height, shape.latent, dtype=dtype) * shape.latent**-0.5)
    q = operands.values(rows, shape.heads, shape.no_position + shape.rotary)
    ones = torch.ones(rows, shape.rotary // 2, device=operands.device)
    turn = Turn(ones, torch.zeros_like(ones))
    absorbed = decode.absorb(q, turn, dtype, kv_b, shape)
    unrounded = rowwise.Rounding(False, False)

    def candidate(entry: Entry, attend: Callable[[], decode.Parts]) -> Candidate:
        return Candidate(
            entry, lambda: decode.expand(attend(), dtype, kv_b, shape, unrounded).values_TK
        )

    def by_tile(tile: DecodeTile) -> Candidate:
        entry = Entry("decode", (shape.heads,), rows, "triton", decode=tile)
        return candidate(entry, lambda: decode.attend(absorbed, queries, cache, shape, tile))

    default = decode_tile(rows, shape.heads, card)
    found = [by_tile(tile) for tile in dict.fromkeys([default, *_DECODE])]
    if libraries.installed("flash_mla"):
        entry = Entry("decode", (shape.heads,), rows, "flash_mla")
        library = libraries.attend_by_flash_mla
        found.append(
            candidate(entry, lambda: decode.whole(library(absorbed, queries, cache, shape)))
        )
    operations = 2 * rows * shape.heads * context * (2 * shape.latent + shape.rotary)
    return Trial(f"decode, {context} keys", tuple(found), cache.nbytes + kv_b.nbytes, operations)


def _distinct(default: Tile, others: tuple[Tile, ...], card: Card, item: int) -> list[Tile]:
    return list(dict.fromkeys(fitted(tile, card, item, 1) for tile in (default, *others)))
