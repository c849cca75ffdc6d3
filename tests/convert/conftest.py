"""Small checkpoints to convert, and the command that converts them."""

import pytest
from click.testing import CliRunner

from dsdeploy.building import build, output, writer
from dsdeploy.cli.main import cli

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


@pytest.fixture(scope="session")
def fp8(synth, tmp_path_factory):
    """370 kB in five shards. Never write to it."""
    return synth(tmp_path_factory.mktemp("fp8") / "fp8")


@pytest.fixture(scope="session")
def bf16(synth, tmp_path_factory):
    """The same model in BF16. Never write to it."""
    return synth(tmp_path_factory.mktemp("bf16") / "bf16", "--precision", "bf16")


@pytest.fixture(scope="module")
def small_windows():
    """Windows of 64 KiB, so that small files have several."""
    with pytest.MonkeyPatch.context() as patch:
        for module in (build, output, writer):
            patch.setattr(module, "WINDOW", 1 << 16)
        yield
