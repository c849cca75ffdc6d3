"""One model over several processes: the same logits, and each reads its share only.

The processes are real, started by torchrun, and talk over gloo. Reading needs no others, so the
bytes of each rank are counted in this process.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from dsdeploy.runner.parallel import Group, join

from .driver import load, logits_with_generated, random_tokens

TOKENS = random_tokens(100)

# Precision of the checkpoint, number of files (0: Hugging Face's layout), options -> how far the
# logits may be from those of one rank, as a part of their norm. Partial sums are added in another
# order; now and then a value so falls on the other side of a rounding to BF16 (the cache) or to FP8
# (all activations, to 4 bits: the whole error of FP8 is some 3 %).
JOBS = {
    "float32": ("bf16", 0, {"dtype": "float32"}, 1e-6),
    "float32, from 2 files": ("bf16", 2, {"dtype": "float32"}, 1e-6),
    "BF16": ("bf16", 0, {}, 1e-3),
    "FP8": ("fp8", 0, {}, 0.015),
    "FP8, from 4 files": ("fp8", 4, {}, 0.015),
    "FP8, experts on disk": ("fp8", 0, {"expert_memory": 1_000_000}, 0.015),
}


@pytest.fixture(scope="module")
def folder_of(splittable, per_rank):
    return lambda precision, files: per_rank(precision, files) if files else splittable[precision]


def run_ranks(count, jobs, folder):
    """What each rank has found: job -> logits."""
    (folder / "jobs.json").write_text(json.dumps(jobs))
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    worker = [Path(__file__).with_name("rank_worker.py"), folder / "jobs.json", folder]
    subprocess.run(
        [*torchrun, "--nproc-per-node", str(count), *worker],
        check=True, timeout=300, env=os.environ | {"GLOO_SOCKET_IFNAME": "lo"},
    )  # fmt: skip
    return [torch.load(folder / f"{rank}.pt") for rank in range(count)]


@pytest.mark.parametrize("count", [2, 4])
def test_several_ranks_compute_the_logits_of_one(folder_of, tmp_path, count):
    """One test, as starting the processes is what takes the time."""
    folders = {name: folder_of(precision, files) for name, (precision, files, _, _) in JOBS.items()}
    jobs = {name: (str(folders[name]), options) for name, (_, _, options, _) in JOBS.items()}
    first, *others = run_ranks(count, jobs, tmp_path)
    for name, (precision, _, options, tolerance) in JOBS.items():
        alone = logits_with_generated(load(folder_of(precision, 0), **options), TOKENS, 95)
        assert (first[name] - alone).norm() < tolerance * alone.norm(), name
        assert all(torch.equal(found[name], first[name]) for found in others), name
    # Where the weights come from changes no bit.
    assert torch.equal(first["float32, from 2 files"], first["float32"])
    assert torch.equal(first["FP8, from 4 files"], first["FP8"])
    assert torch.equal(first["FP8, experts on disk"], first["FP8"])
    assert [found["received"] for found in others] == [{"step": 7}] * (count - 1)


def test_a_process_that_torchrun_has_not_started_is_alone(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert join(torch.device("cpu")) == Group(rank=0, size=1)


@pytest.mark.parametrize("files", [0, 2, 4])
@pytest.mark.parametrize("size", [2, 4])
@pytest.mark.parametrize("precision", ["fp8", "bf16"])
def test_a_rank_reads_its_share_and_no_more(folder_of, reads, precision, size, files):
    """Its share is what the demo's file for it holds; but the embedding, which that file has a
    part of, is whole on every rank here."""
    source, shares = folder_of(precision, files), folder_of(precision, size)
    for rank in range(size):
        share = stored_bytes(shares / f"model{rank}-mp{size}.safetensors")
        others = share["embed.weight"] * (size - 1)
        reads()
        load(source, Group(rank, size), mtp=False)
        assert reads() == sum(share.values()) + others


def stored_bytes(path):
    with safe_open(path, "pt") as file:
        return {name: file.get_tensor(name).nbytes for name in file.keys()}  # noqa: SIM118
