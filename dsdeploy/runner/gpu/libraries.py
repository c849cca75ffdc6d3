"""Other people's kernels for the same products, where they are installed: torch's block-scaled product,
DeepGEMM and FlashMLA. A table says when one is used; they give BF16."""

from __future__ import annotations

from functools import cache
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from dsdeploy.runner.gpu.fp8 import GROUP
from dsdeploy.runner.ops import Activation, DecodingQueries, HeadShape, Weight
from dsdeploy.runner.pages import PAGE_TOKENS

_ROWS = 4
"""Of torch's product: a multiple of so many."""


def installed(name: str) -> bool:
    if name == "torch":
        return hasattr(F, "scaled_mm")
    return find_spec(name) is not None


def torch_takes(n: int, k: int) -> bool:
    """Other widths some releases have answered with wrong numbers."""
    return n % int(GROUP.value) == 0 and k % (4 * int(GROUP.value)) == 0


def linear_by_torch(x: Activation, weight: Weight) -> Tensor:
    """x in FP8 by an FP8 weight [N, K]: [M, N]."""
    if x.codes_TK is None or x.scales_TG is None or weight.scales is None:
        raise RuntimeError("torch's block-scaled product is of FP8")
    missing = -len(x) % _ROWS
    codes = F.pad(x.codes_TK.view(torch.uint8), (0, 0, 0, missing)).view(torch.float8_e4m3fn)
    scales = F.pad(x.scales_TG, (0, 0, 0, missing))
    recipes = F.ScalingType
    out = F.scaled_mm(
        codes, weight.values.T,
        # One scale of every row lies beside the next.
        scales.T.contiguous().T, recipes.BlockWise1x128,
        weight.scales.T, recipes.BlockWise128x128,
        output_dtype=torch.bfloat16,
    )  # fmt: skip
    return out[: len(x)].float()


def linear_by_deep_gemm(x: Activation, weight: Weight) -> Tensor:
    out = torch.empty(
        len(x), weight.values.shape[0], dtype=torch.bfloat16, device=x.values_TK.device
    )
    pair, stored = (x.codes_TK, x.scales_TG), (weight.values, weight.scales)
    _library("deep_gemm").fp8_gemm_nt(pair, stored, out, disable_ue8m0_cast=True)
    return out.float()


def attend_by_flash_mla(
    absorbed_BHL: Tensor, queries: DecodingQueries, rows_RL: Tensor, shape: HeadShape
) -> Tensor:
    """[B, H, L] of absorbed queries [B, H, L + R]."""
    library = _library("flash_mla")
    lengths = queries.lengths_B.int()
    pages = rows_RL.view(-1, PAGE_TOKENS, 1, rows_RL.shape[1])
    out, _ = library.flash_mla_with_kvcache(
        absorbed_BHL[:, None], pages, queries.tables[queries.owners_B].int(), lengths,
        shape.latent, *library.get_mla_metadata(lengths, shape.heads, 1),
        softmax_scale=shape.scale,
    )  # fmt: skip
    latent_BHL: Tensor = out[:, 0]
    return latent_BHL


@cache
def _library(name: str) -> Any:
    return import_module(name)
