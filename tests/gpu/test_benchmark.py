"""The benchmark for GPUs, gone through from end to end with small shapes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from .device import INTERPRETED

BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "gpu.py"


@pytest.mark.skipif(not INTERPRETED, reason="a GPU runs all of it")
def test_a_rehearsal_measures_everything(tmp_path):
    command = [sys.executable, str(BENCHMARK), "--rehearse", "--device", "cpu"]
    command += ["--json", str(tmp_path / "figures.json")]
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    answer = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert answer.returncode == 0, answer.stderr[-2000:]
    found = json.loads((tmp_path / "figures.json").read_text())
    rows = {row["what"]: row for row in found["rows"]}
    assert {"copy rate", "q_b, 1 rows", "experts, 3 rows", "MoE layer, batch 1"} <= set(rows)
    assert {"add, norm, round, 3 rows", "decode, 70 keys, batch 2"} <= set(rows)
    assert {"decoding, batch 2", "prefill of 4 tokens"} <= set(rows)
    assert all(row["figure"] > 0 for row in rows.values())
    assert "the demo's" in rows["q_b, 1 rows"]["detail"]
    assert rows["MoE layer, batch 1"]["target"] == {"comparison": "<=", "limit": 230}
    assert found["machine"]["card"] == "interpreter"
