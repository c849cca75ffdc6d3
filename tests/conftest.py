"""What all tests share: the command in this process, and small checkpoints made with it."""

import os
import signal

# Tests run side by side: threads of one would wait for cores that another has. Before numba and
# torch are imported, and for the processes that tests start.
os.environ.setdefault("NUMBA_NUM_THREADS", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")

# Without a GPU its kernels are interpreted, which Triton must know before anybody imports it.
if not any(map(os.path.exists, ("/dev/nvidiactl", "/dev/kfd"))):
    os.environ["TRITON_INTERPRET"] = "1"

import pytest
from click.testing import CliRunner
from hypothesis import settings

from dsdeploy.cli.main import cli

from .slurm import run_in_slurm

# A background job of a script ignores these, and so would all that tests start.
for _number in (signal.SIGINT, signal.SIGHUP):
    if signal.getsignal(_number) == signal.SIG_IGN:
        signal.signal(
            _number, signal.default_int_handler if _number == signal.SIGINT else signal.SIG_DFL
        )

# The first call of a kernel compiles it, which is no slow example.
settings.register_profile("dsdeploy", deadline=None)
settings.load_profile("dsdeploy")

SMALL = {
    "vocab_size": 264,
    "hidden_size": 64,
    "intermediate_size": 192,
    "moe_intermediate_size": 64,
    "num_hidden_layers": 2,
    "first_k_dense_replace": 1,
    "num_attention_heads": 2,
    "q_lora_rank": 32,
    "kv_lora_rank": 32,
    "qk_nope_head_dim": 16,
    "qk_rope_head_dim": 8,
    "v_head_dim": 16,
    "n_routed_experts": 4,
    "n_group": 2,
    "topk_group": 1,
    "num_experts_per_tok": 2,
}


@pytest.fixture(scope="session")
def slurm():
    """Run a script of bash in a folder, with a cluster of two nodes."""
    return run_in_slurm


@pytest.fixture(scope="session")
def dsdeploy():
    """Run a command in this process; its exit code and its output are in what it gives."""
    return lambda *arguments: CliRunner().invoke(cli, [str(argument) for argument in arguments])


@pytest.fixture(scope="session")
def synth(dsdeploy):
    """Write a small random checkpoint into a folder: `synth(folder, "--seed", 1, hidden_size=96)`."""

    def make(folder, *options, **changes):
        fields = (SMALL | changes).items()
        settings = [part for field, value in fields for part in ("--set", f"{field}={value}")]
        result = dsdeploy("synth", folder, *settings, *options)
        assert result.exit_code == 0, result.output
        return folder

    return make


@pytest.fixture(scope="session")
def convert(dsdeploy):
    """Convert, successfully; the target."""

    def run(source, target, *options):
        result = dsdeploy("convert", source, target, *options)
        assert result.exit_code == 0, result.output
        return target

    return run
