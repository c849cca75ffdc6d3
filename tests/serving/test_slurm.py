"""serve --on slurm, with a real Slurm of two nodes: submitted, answered over HTTP, cancelled."""

import json
import os
import sys
from pathlib import Path

from ..ports import free_port

PROFILE = """\
name: two-nodes
description: Two nodes of Slurm that are one machine.
accelerator: cpu-laptop
nodes: 2
accelerators_per_node: 1
host_memory: 16GB
disk: {space: 100GB, read: 1GB/s}
inter_node: {kind: memory, bandwidth: 10GB/s}
network_interface: lo
container_runtime: none
"""
SERVE = """
dsdeploy serve "$CHECKPOINT" --on slurm --backend native --profile two.yaml --tp 2 \\
    --port "$SERVED" --context 256 --name job --detach || exit
squeue -h -o '%T %D' >running
dsdeploy ps --json >ps.json
address=$(python3 -c "import json; print(json.load(open('ps.json'))['deployments'][0]['address'])")
curl -sS "$address/v1/completions" -H 'content-type: application/json' \\
    -d '{"prompt": "hi", "max_tokens": 3}' >answer.json || exit
dsdeploy stop job || exit
squeue -h >left
ps -eo args >processes
"""


def test_a_job_is_submitted_answers_and_is_cancelled(slurm, synth, tmp_path):
    port = free_port()
    checkpoint = synth(tmp_path / "tiny", "--precision", "bf16")
    (tmp_path / "two.yaml").write_text(PROFILE)
    environment = {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "HOME": str(tmp_path),
        "DSDEPLOY_STATE": str(tmp_path / "kept"),
        "CHECKPOINT": str(checkpoint),
        "SERVED": str(port),
        "OMP_NUM_THREADS": "1",
    }
    done = slurm(SERVE, tmp_path, environment, timeout=200)
    log = (tmp_path / "kept/job/log").read_text()
    assert done.returncode == 0, done.stdout + done.stderr + log
    assert (tmp_path / "running").read_text() == "RUNNING 2\n"
    assert json.loads((tmp_path / "answer.json").read_text())["usage"]["completion_tokens"] == 3
    assert f"http://127.0.0.1:{port}" in done.stdout
    assert ": PENDING" in log or ": RUNNING" in log
    assert (tmp_path / "left").read_text() == ""
    assert str(checkpoint) not in (tmp_path / "processes").read_text()
