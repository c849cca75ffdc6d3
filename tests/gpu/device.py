"""Where the kernels run, and how exact they are there."""

import os

import torch
from hypothesis import settings

from dsdeploy.runner.gpu.matmul import Arithmetic
from dsdeploy.runner.gpu.ops import TritonOps
from dsdeploy.runner.gpu.table import Table
from dsdeploy.runner.gpu.tiles import card_of
from dsdeploy.runner.plain import PlainOps

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = torch.device("cpu" if INTERPRETED else "cuda")
CARD = card_of(DEVICE)
UNIT = 2.0**-24 if INTERPRETED else 2.0**-13
"""A sum of K products is within K of these of the sum of their absolute values: float32's, or those of
the short accumulators that tensor cores have for FP8."""

PLAIN = PlainOps(False)
few = settings(max_examples=12 if INTERPRETED else 200, deadline=None)


def triton_ops(fp8=True, dtype=torch.float32, powers=False, table=None):
    return TritonOps(Arithmetic(fp8, dtype, powers), CARD, table or Table(CARD.name))


def here(value):
    """On the device: a tensor, or anything that has `to`."""
    return value.to(DEVICE)
