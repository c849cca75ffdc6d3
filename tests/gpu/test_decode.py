"""Absorbed attention over the paged cache, in as many splits as there are."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dsdeploy.runner.gpu import decode
from dsdeploy.runner.gpu.rowwise import Rounding
from dsdeploy.runner.gpu.tiles import DecodeTile
from dsdeploy.runner.ops import DecodingQueries, HeadShape, Weight
from dsdeploy.runner.pages import PAGE_TOKENS
from dsdeploy.runner.plain import quantise, widen
from dsdeploy.runner.rope import Turn
from dsdeploy.runner.step import Span

from ..runner.operands import cache_and_weights, queries_of, turn_of
from .device import INTERPRETED, PLAIN, here, triton_ops

SHAPES = [
    HeadShape(heads=3, no_position=20, rotary=6, value=12, latent=40, scale=0.2),
    HeadShape(heads=1, no_position=1, rotary=2, value=1, latent=1, scale=0.5),
    HeadShape(heads=20, no_position=16, rotary=8, value=128, latent=136, scale=0.15),
]
TRUE = HeadShape(heads=128, no_position=128, rotary=64, value=128, latent=512, scale=0.1352)
UNROUNDED = Rounding(False, False)
CLOSE = {torch.float32: 1e-5, torch.bfloat16: 0.05, torch.float16: 0.005}


def attended(shape, q, turn, queries, rows, kv_b, tile, rounding=UNROUNDED):
    turn = Turn(here(turn.cos_TP), here(turn.sin_TP))
    queries = DecodingQueries(here(queries.lengths_B), here(queries.owners_B), here(queries.tables))
    rows, kv_b = here(rows), here(kv_b)
    absorbed = decode.absorb(here(q), turn, rows.dtype, kv_b, shape)
    parts = decode.attend(absorbed, queries, rows, shape, tile)
    return decode.expand(parts, rows.dtype, kv_b, shape, rounding)


@pytest.mark.parametrize("dtype", CLOSE, ids=str)
@given(
    shape=st.sampled_from(SHAPES), lengths=st.lists(st.integers(1, 190), min_size=1, max_size=3),
    splits=st.integers(1, 5), pages=st.permutations(range(9)), data=st.data(),
    seed=st.integers(0, 2**32 - 1),
)  # fmt: skip
@settings(max_examples=8 if INTERPRETED else 100, deadline=None)
def test_absorbed_attention_is_that_of_plain_torch(
    dtype, shape, lengths, splits, pages, data, seed
):
    rows, kv_b = cache_and_weights(shape, dtype, 9, seed)
    owners = data.draw(st.lists(st.integers(0, 2), min_size=len(lengths), max_size=len(lengths)))
    queries = DecodingQueries(
        torch.tensor(lengths), torch.tensor(owners), torch.tensor(pages).view(3, 3)
    )
    q, turn = queries_of(shape, len(lengths), seed), turn_of(shape, len(lengths), seed)
    tile = DecodeTile(16, 32, splits, 4, 1)
    found = attended(shape, q, turn, queries, rows, kv_b, tile).values_TK.cpu()
    expected = PLAIN.attend_absorbed(q.clone(), turn, queries, rows, kv_b, shape).values_TK
    assert (found - expected).abs().max() <= CLOSE[dtype] * max(1, float(expected.abs().max()))


def test_values_of_whole_groups_are_rounded():
    shape = SHAPES[2]
    rows, kv_b = cache_and_weights(shape, torch.float32, 3, 1)
    queries = DecodingQueries(torch.tensor([150]), torch.tensor([0]), torch.tensor([[2, 0, 1]]))
    q, turn = queries_of(shape, 1, 2), turn_of(shape, 1, 2)
    tile = DecodeTile(16, 64, 2, 4, 1)
    found = attended(shape, q, turn, queries, rows, kv_b, tile, Rounding(True, False))
    codes, scales = quantise(found.values_TK.cpu())
    assert torch.equal(found.codes_TK.cpu().view(torch.uint8), codes.view(torch.uint8))
    assert torch.equal(found.scales_TG.cpu(), scales)


def test_a_key_that_stands_out_is_the_only_one_seen():
    """Scores of thousands, and splits that see nothing of weight."""
    shape = SHAPES[0]
    still = Turn(torch.ones(1, shape.rotary // 2), torch.zeros(1, shape.rotary // 2))
    rows, kv_b = cache_and_weights(shape, torch.float32, 2, seed=0)
    q = torch.zeros(1, shape.heads, shape.no_position + shape.rotary)
    q[..., -1], rows[:, -1], rows[70, -1] = 100.0, -100.0, 100.0
    one = DecodingQueries(torch.tensor([100]), torch.tensor([0]), torch.tensor([[0, 1]]))
    found = attended(shape, q, still, one, rows, kv_b, DecodeTile(16, 32, 8, 4, 1)).values_TK
    values = widen(kv_b).view(shape.heads, -1, shape.latent)[:, shape.no_position :]
    expected = (values @ rows[70, : shape.latent]).flatten()
    assert torch.allclose(found[0].cpu(), expected, atol=1e-5)


@pytest.mark.parametrize(("past", "count"), [(0, 1), (0, 70), (70, 5), (130, 1)])
def test_prompts_attend_as_plain_torch_lets_them(past, count):
    shape = SHAPES[0]
    rows, kv_b = cache_and_weights(shape, torch.float32, 5, seed=3)
    q, turn = queries_of(shape, count, 4), turn_of(shape, count, 4)
    span = Span(past, count, (3, 1, 4, 0), True)
    found = triton_ops().attend_naive(
        here(q.clone()), Turn(here(turn.cos_TP), here(turn.sin_TP)), span, here(rows),
        here(kv_b), shape,
    )  # fmt: skip
    expected = PLAIN.attend_naive(q.clone(), turn, span, rows, kv_b, shape)
    assert torch.allclose(found.values_TK.cpu(), expected.values_TK, atol=1e-5)


@pytest.mark.skipif(INTERPRETED, reason="true shapes are for a GPU")
@pytest.mark.parametrize("lengths", [[1], [4096], [100, 3000, 8192, 77]])
def test_true_shapes(lengths):
    pages = sum(-(-length // PAGE_TOKENS) for length in lengths)
    rows, kv_b = cache_and_weights(TRUE, torch.bfloat16, pages, 1)
    width = max(-(-length // PAGE_TOKENS) for length in lengths)
    tables, taken = torch.zeros(len(lengths), width, dtype=torch.int64), 0
    for table, length in zip(tables, lengths, strict=True):
        used = -(-length // PAGE_TOKENS)
        table[:used] = torch.arange(taken, taken + used)
        taken += used
    queries = DecodingQueries(torch.tensor(lengths), torch.arange(len(lengths)), tables)
    q, turn = queries_of(TRUE, len(lengths), 2), turn_of(TRUE, len(lengths), 2)
    tile = DecodeTile(16, 32, 8, 4, 2)
    found = attended(TRUE, q, turn, queries, rows, Weight(kv_b.values), tile).values_TK
    expected = PLAIN.attend_absorbed(
        here(q), Turn(here(turn.cos_TP), here(turn.sin_TP)),
        DecodingQueries(here(queries.lengths_B), queries.owners_B, here(queries.tables)),
        here(rows), here(kv_b), TRUE,
    ).values_TK  # fmt: skip
    assert (found - expected).norm() / expected.norm() < 2e-2
