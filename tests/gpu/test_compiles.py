"""The kernels through Triton's compiler for cards that are not here.

It refuses what its interpreter takes, and tells how much shared memory a program would ask for.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("compile_kernels.py")
KERNELS = {
    "_rms_norm", "_linear", "_norm_compressed", "_absorb", "_attend", "_expand", "_route",
    "_sort_by_slot", "_gate_up", "_down", "_combine", "_gated",
}  # fmt: skip


@pytest.mark.parametrize(
    ("card", "kibibytes", "unit"),
    [
        ("T4", 64, None),
        ("A100", 163, "mma.sync"),
        ("H200", 227, "wgmma"),
        ("B200", 227, "tcgen05.mma"),
        ("MI300X", 64, "v_mfma"),
    ],
)
def test_a_step_compiles_and_fits_the_shared_memory(card, kibibytes, unit):
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    command = [sys.executable, "-W", "ignore", str(SCRIPT), card]
    answer = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert answer.returncode == 0, answer.stderr[-3000:]
    found = [json.loads(line) for line in answer.stdout.splitlines()]
    # Decoding needs more than a T4 has: there plain torch does it.
    decoding = {"_absorb", "_attend", "_expand"} if card == "T4" else set()
    assert {kernel["kernel"] for kernel in found} == KERNELS - decoding
    assert [kernel for kernel in found if kernel["shared"] > kibibytes << 10] == []
    # Tensor cores multiply, those for FP8 where there are some. Triton has left Turing's.
    for name in ("_linear", "_gate_up", "_down"):
        units = {unit for kernel in found if kernel["kernel"] == name for unit in kernel["units"]}
        assert unit is None or unit in units
