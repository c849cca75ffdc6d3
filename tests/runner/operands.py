"""Random weights, caches and choices for operations, and the float64 that judges them."""

import numpy as np
import torch
from hypothesis import strategies as st

from dsdeploy.runner.ops import Activation, FeedForwardWeights, Weight
from dsdeploy.runner.pages import PAGE_TOKENS
from dsdeploy.runner.plain import quantise
from dsdeploy.runner.rope import Turn


def random_like(*shape, seed, spread=1.0):
    generator = np.random.default_rng(seed)
    return torch.from_numpy(generator.standard_normal(shape, np.float32) * np.float32(spread))


def random_weight(kind, *shape, seed):
    if kind != "e4m3":
        return Weight(random_like(*shape, seed=seed).to(getattr(torch, kind)))
    generator = np.random.default_rng(seed)
    codes = generator.integers(0, 0x7F, shape, np.uint8)  # subnormals too, no NaN
    codes |= generator.integers(0, 2, shape, np.uint8) << 7
    grid = (*shape[:-2], -(-shape[-2] // 128), -(-shape[-1] // 128))
    scales = generator.uniform(1e-3, 1e-2, grid).astype(np.float32)
    return Weight(torch.from_numpy(codes).view(torch.float8_e4m3fn), torch.from_numpy(scales))


def in_float64(weight):
    values = weight.values.double()
    if weight.scales is None:
        return values
    spread = weight.scales.double().repeat_interleave(128, -2).repeat_interleave(128, -1)
    return values * spread[..., : values.shape[-2], : values.shape[-1]]


def as_the_product_takes_it(x, weight):
    """Rounded to FP8 when the weight is (`test_fp8.py` has that rounding)."""
    if not weight.fp8:
        return x.double()
    codes, scales = quantise(x)
    return codes.double() * scales.double().repeat_interleave(128, -1)[:, : x.shape[1]]


def route(ops, logits, bias, routing):
    """By a gate that hands its inputs on."""
    return ops.route(Activation(logits), Weight(torch.eye(len(bias))), bias, routing)


def far_from_a_tie(biased, groups):
    """Whether one rounding cannot change an order."""
    grouped = biased.unflatten(-1, (groups, -1))
    strength = grouped.topk(min(2, grouped.shape[-1]), -1).values.sum(-1)
    return all((x.sort(-1).values.diff() > 1e-5).all() for x in (biased, strength))


def random_experts(kind, slots, d, f, seed):
    shapes = ((slots, f, d), (slots, f, d), (slots, d, f))
    return FeedForwardWeights(
        *(random_weight(kind, *shape, seed=seed + at) for at, shape in enumerate(shapes))
    )


def of_slot(weight, slot):
    return Weight(weight.values[slot], None if weight.scales is None else weight.scales[slot])


@st.composite
def assignments(draw):
    """(slots of the weights, slot of each token's choices): negative where an expert is elsewhere,
    some of the slots empty, sometimes all tokens in one."""
    slots, tokens, choices = draw(
        st.tuples(st.integers(1, 5), st.integers(1, 20), st.integers(1, 3))
    )
    used = draw(st.lists(st.integers(-1, slots - 1), min_size=1, max_size=3))
    pairs = draw(
        st.lists(st.sampled_from(used), min_size=tokens * choices, max_size=tokens * choices)
    )
    return slots, torch.tensor(pairs).view(tokens, choices)


def largest_possible(x, slots, weights):
    """The pairs' results if nothing cancelled: what their rounding is a fraction of."""
    gate, up, down = (in_float64(w).abs() for w in (weights.gate, weights.up, weights.down))
    inner = torch.einsum("td,tcfd->tcf", x.double().abs(), gate[slots])
    inner *= torch.einsum("td,tcfd->tcf", x.double().abs(), up[slots])
    return torch.einsum("tcf,tcdf->tcd", inner, down[slots]).masked_fill(slots[..., None] < 0, 0)


def cache_and_weights(shape, dtype, pages, seed):
    rows = random_like(pages * PAGE_TOKENS, shape.latent + shape.rotary, seed=seed).to(dtype)
    height = shape.heads * (shape.no_position + shape.value)
    spread = shape.latent**-0.5
    kv_b = random_like(height, shape.latent, seed=seed + 1, spread=spread)
    return rows, Weight(kv_b.to(dtype))


def turn_of(shape, count, seed):
    angles = random_like(count, shape.rotary // 2, seed=seed + 2, spread=3)
    return Turn(angles.cos(), angles.sin())


def queries_of(shape, count, seed):
    return random_like(count, shape.heads, shape.no_position + shape.rotary, seed=seed)
