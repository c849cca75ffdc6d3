"""A checkpoint of 370 kB that has all a large one has, and copies of it to damage."""

import shutil

import pytest
from click.testing import CliRunner

from dsdeploy.cli.main import cli

SMALL = {
    "vocab_size": 264,
    "hidden_size": 64,
    "intermediate_size": 192,
    "moe_intermediate_size": 64,
    "num_hidden_layers": 2,
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
    """Write a small random checkpoint into a folder."""
    settings = [part for item in SMALL.items() for part in ("--set", "{}={}".format(*item))]

    def make(folder, *options):
        result = dsdeploy("synth", folder, *settings, *options)
        assert result.exit_code == 0, result.output
        return folder

    return make


@pytest.fixture(scope="session")
def small(synth, tmp_path_factory):
    """The whole checkpoint, in five shards. Never write to it."""
    return synth(tmp_path_factory.mktemp("checkpoint") / "small")


@pytest.fixture
def copy(small, tmp_path):
    return shutil.copytree(small, tmp_path / "copy")
