"""Compiles what a step of DeepSeek-V3 launches, for a card that is not here: its name in, a line of JSON
for each kernel out. Run as a program of its own, without the interpreter."""

import json
import sys

import torch
from triton.backends.compiler import GPUTarget
from triton.runtime import driver, jit

NAME = sys.argv[1]
BF16 = torch.bfloat16
# The target; whether FP8 is multiplied, and all else in what; processors, KiB of shared memory.
TARGET, FP8, DTYPE, PROCESSORS, MEMORY = {
    "T4": (GPUTarget("cuda", 75, 32), False, torch.float16, 40, 64),
    "A100": (GPUTarget("cuda", 80, 32), False, BF16, 108, 163),
    "H200": (GPUTarget("cuda", 90, 32), True, BF16, 132, 227),
    "B200": (GPUTarget("cuda", 100, 32), True, BF16, 148, 227),
    "MI300X": (GPUTarget("hip", "gfx942", 64), False, BF16, 304, 64),
}[NAME]


class Absent:
    """A driver of a card that compiles and never runs."""

    def get_current_target(self):
        return TARGET

    def get_current_device(self):
        return 0

    def get_current_stream(self, device):
        return 0


def compiled(self, *arguments, grid, warmup, **options):
    kernel = launch(self, *arguments, grid=grid, warmup=True, **options)
    text = kernel.asm.get("ptx") or kernel.asm["amdgcn"]
    units = [unit for unit in ("tcgen05.mma", "wgmma", "mma.sync", "v_mfma") if unit in text]
    print(json.dumps({"kernel": self.__name__, "shared": kernel.metadata.shared, "units": units}))
    return kernel


launch, jit.JITFunction.run = jit.JITFunction.run, compiled
driver.set_active(Absent())

from dsdeploy.runner.gpu.matmul import Arithmetic  # noqa: E402
from dsdeploy.runner.gpu.ops import TritonOps  # noqa: E402
from dsdeploy.runner.gpu.table import Table  # noqa: E402
from dsdeploy.runner.gpu.tiles import Card  # noqa: E402
from dsdeploy.runner.ops import (  # noqa: E402
    DecodingQueries,
    FeedForwardWeights,
    HeadShape,
    LatentNorms,
    Routing,
    Weight,
)
from dsdeploy.runner.rope import Turn  # noqa: E402

SHAPE = HeadShape(heads=128, no_position=128, rotary=64, value=128, latent=512, scale=0.1)


def fp8(*shape):
    grid = (*shape[:-2], *(-(-length // 128) for length in shape[-2:]))
    return Weight(torch.empty(*shape, dtype=torch.float8_e4m3fn), torch.empty(grid))


def layer(ops, tokens):
    x = torch.empty(tokens, 7168)
    normed = ops.rms_norm(x, torch.empty(7168), 1e-6, x)
    row = ops.linear(normed, fp8(1536, 7168), fp8(576, 7168))
    turn = Turn(torch.empty(tokens, 32), torch.empty(tokens, 32))
    rows, integers = torch.empty(4096, 576, dtype=DTYPE), torch.zeros(tokens, dtype=torch.int64)
    norms = LatentNorms(torch.empty(1536), torch.empty(512), 1e-6)
    query = ops.norm_compressed(row, norms, turn, rows, integers)
    q = ops.linear(query, fp8(24576, 1536)).view(tokens, 128, 192)
    queries = DecodingQueries(integers, integers, torch.zeros(1, 64, dtype=torch.int64))
    kv_b = Weight(torch.empty(128 * 256, 512, dtype=DTYPE))
    ops.linear(ops.attend_absorbed(q, turn, queries, rows, kv_b, SHAPE), fp8(7168, 16384))
    gate = Weight(torch.empty(256, 7168, dtype=torch.bfloat16))
    routing = Routing(8, 8, 4, True, 2.5, shared=1)
    slots, shares = ops.route(normed, gate, torch.empty(256), routing)
    y = torch.empty(tokens, 9, 7168)
    for slots_here in (257, 2):  # few pairs for each expert, and many
        experts = (fp8(slots_here, 2048, 7168), fp8(slots_here, 2048, 7168))
        weights = FeedForwardWeights(*experts, fp8(slots_here, 7168, 2048))
        ops.feed_forward(normed, slots, weights, y)
    ops.combine(y, shares)
    wide = FeedForwardWeights(fp8(1, 18432, 7168), fp8(1, 18432, 7168), fp8(1, 7168, 18432))
    ops.dense(normed, wide)


card = Card(NAME, PROCESSORS, MEMORY << 10)
for tokens in (1, 256):
    layer(TritonOps(Arithmetic(FP8, DTYPE, False), card, Table(NAME)), tokens)
