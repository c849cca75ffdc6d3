"""Other people's kernels, by their contracts: stand-ins compute in float64 what the documents say, and
take nothing else. The real ones need a GPU, where `dsdeploy tune` holds them against ours."""

import sys
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F  # noqa: N812

from dsdeploy.runner.gpu import libraries
from dsdeploy.runner.gpu.table import Entry, Table
from dsdeploy.runner.ops import Activation, DecodingQueries, HeadShape

from ..runner.operands import (
    as_the_product_takes_it,
    cache_and_weights,
    in_float64,
    queries_of,
    random_like,
    random_weight,
    turn_of,
)
from .device import INTERPRETED, here, triton_ops

pytestmark = pytest.mark.skipif(not INTERPRETED, reason="on a GPU the real ones are measured")


def widened(codes, scales):
    grid = scales.double().repeat_interleave(128, -1)[:, : codes.shape[1]]
    if len(scales) != len(codes):
        grid = grid.repeat_interleave(128, 0)[: len(codes)]
    return codes.double() * grid


def scaled_mm(a, b, scale_a, recipe_a, scale_b, recipe_b, *, output_dtype):
    """Source: torch's document, and NVIDIA's on scales in blocks."""
    (m, k), n = a.shape, b.shape[1]
    assert m % 4 == 0
    assert k % 512 == 0
    assert b.stride() == (1, k)
    assert (recipe_a, recipe_b) == (
        F.ScalingType.BlockWise1x128, F.ScalingType.BlockWise128x128,
    )  # fmt: skip
    assert scale_a.shape == (m, k // 128)
    assert scale_a.stride() == (1, m)
    assert scale_b.shape == (k // 128, n // 128)
    assert scale_b.stride() == (1, k // 128)
    return (widened(a, scale_a) @ widened(b.T, scale_b.T).T).to(output_dtype)


def fp8_gemm_nt(lhs, rhs, out, *, disable_ue8m0_cast):
    assert out.dtype == torch.bfloat16
    assert disable_ue8m0_cast
    assert lhs[1].dtype == rhs[1].dtype == torch.float32
    out.copy_(widened(*lhs) @ widened(*rhs).T)


@pytest.mark.parametrize("name", ["torch", "deep_gemm"])
@pytest.mark.parametrize("rows", [1, 4, 7])
def test_a_product_that_a_table_gives_to_a_library(monkeypatch, name, rows):
    monkeypatch.setattr(F, "scaled_mm", scaled_mm)
    monkeypatch.setitem(sys.modules, "deep_gemm", SimpleNamespace(fp8_gemm_nt=fp8_gemm_nt))
    libraries._library.cache_clear()
    table = Table("card", {}, (Entry("linear", (384, 512), 8, name),))
    x = random_like(rows, 512, seed=1)
    weights = [random_weight("e4m3", n, 512, seed=n) for n in (256, 128)]
    found = triton_ops(table=table).linear(Activation(here(x)), *map(here, weights))
    expected = torch.cat([as_the_product_takes_it(x, w) @ in_float64(w).T for w in weights], -1)
    assert torch.allclose(found.double(), expected, rtol=2**-8, atol=1e-6)


def test_widths_that_torch_gets_wrong_are_not_given_to_it():
    assert libraries.torch_takes(7168, 16384)
    assert not libraries.torch_takes(576, 7168)
    assert not libraries.torch_takes(7168, 384)


def get_mla_metadata(lengths, queries_of_a_key, heads_of_keys):
    assert lengths.dtype == torch.int32
    assert heads_of_keys == 1
    return "schedule", queries_of_a_key


def flash_mla_with_kvcache(
    q, k_cache, block_table, cache_seqlens, head_dim_v, tile_scheduler_metadata, num_splits,
    softmax_scale,
):  # fmt: skip
    """Source: FlashMLA's own document of its arguments."""
    assert block_table.dtype == cache_seqlens.dtype == torch.int32
    assert k_cache.shape[1:3] == (64, 1)
    assert q.shape[1] == 1
    assert (tile_scheduler_metadata, num_splits) == ("schedule", q.shape[2])
    out = []
    for query, table, length in zip(q[:, 0], block_table, cache_seqlens, strict=True):
        rows = k_cache[table.long()].flatten(0, 2)[:length].double()
        shares = (query.double() @ rows.T * softmax_scale).softmax(-1)
        out.append(shares @ rows[:, :head_dim_v])
    return torch.stack(out)[:, None].to(q.dtype), None


def test_attention_that_a_table_gives_to_flash_mla(monkeypatch):
    library = SimpleNamespace(
        get_mla_metadata=get_mla_metadata, flash_mla_with_kvcache=flash_mla_with_kvcache
    )
    monkeypatch.setitem(sys.modules, "flash_mla", library)
    libraries._library.cache_clear()
    shape = HeadShape(heads=4, no_position=20, rotary=6, value=12, latent=40, scale=0.2)
    rows, kv_b = cache_and_weights(shape, torch.float32, 5, 1)
    queries = DecodingQueries(
        torch.tensor([100, 3]), torch.tensor([1, 0]), torch.tensor([[4, 0], [2, 3]])
    )
    q, turn = queries_of(shape, 2, 2), turn_of(shape, 2, 2)
    entry = Entry("decode", (4,), 2, "flash_mla")
    ours = triton_ops().attend_absorbed(q, turn, queries, rows, kv_b, shape)
    theirs = triton_ops(table=Table("card", {}, (entry,))).attend_absorbed(
        q, turn, queries, rows, kv_b, shape
    )
    assert torch.allclose(theirs.values_TK, ours.values_TK, atol=1e-5)
