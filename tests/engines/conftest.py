"""A checkpoint that the engines take, and what each of them says about it.

An engine is up only while it is asked: two at a time would need twice the memory.
"""

import json
import os
import random
import shutil

import pytest

from .answers import of_completions, of_runner, of_sglang
from .servers import Commands, native, served, sglang, vllm

TWO_DEVICES = """\
name: two-devices
description: One machine, taken for two devices.
accelerator: cpu-laptop
nodes: 1
accelerators_per_node: 2
host_memory: 16GB
disk: {space: 100GB, read: 1GB/s}
intra_node: {kind: memory, bandwidth: 10GB/s}
container_runtime: none
"""
LENGTHS = (9, 17, 64, 65, 130, 257, 300)
"""The runner's pages have 64 tokens."""


@pytest.fixture(scope="session")
def prompts():
    """Of tokens that are whole characters: after half a one vLLM repeats the prompt in its text."""
    chance = random.Random(0)
    return [[chance.randrange(261, 2048) for _ in range(length)] for length in LENGTHS]


@pytest.fixture(scope="session")
def checkpoint(dsdeploy, tmp_path_factory):
    """The tiny preset, made for this: dimensions that vLLM's CPU kernels have, and YaRN."""
    folder = tmp_path_factory.mktemp("engines") / "bf16"
    result = dsdeploy("synth", folder, "--precision", "bf16")
    assert result.exit_code == 0, result.output
    return folder


@pytest.fixture(scope="session")
def altered(checkpoint, tmp_path_factory):
    """`altered(field=value)`: the same weights under another config.json."""

    def make(**fields):
        folder = tmp_path_factory.mktemp("altered") / "bf16"
        shutil.copytree(checkpoint, folder, copy_function=os.link)
        path = folder / "config.json"
        config = json.loads(path.read_text())
        assert fields.keys() <= config.keys()
        path.unlink()
        path.write_text(json.dumps(config | fields))
        return folder

    return make


@pytest.fixture(scope="session")
def commands(tmp_path_factory):
    return Commands(tmp_path_factory.mktemp("state"))


@pytest.fixture(scope="session")
def ask(prompts, commands):
    """`ask(checkpoint, options, client)`: serve it, put the questions to it, stop it."""

    def run(checkpoint, options, client):
        with served(commands, checkpoint, options) as server:
            return client(server, prompts)

    return run


@pytest.fixture(scope="session")
def vllm_python():
    return _interpreter("DSDEPLOY_VLLM_PYTHON")


@pytest.fixture(scope="session")
def sglang_python():
    return _interpreter("DSDEPLOY_SGLANG_PYTHON")


@pytest.fixture(scope="session")
def ask_vllm(ask, vllm_python):
    """`ask_vllm(checkpoint, *more_options)`"""
    return lambda checkpoint, *more: ask(checkpoint, [*vllm(vllm_python), *more], of_completions)


@pytest.fixture(scope="session")
def vllm_answers(ask_vllm, checkpoint):
    return ask_vllm(checkpoint)


@pytest.fixture(scope="session")
def ask_sglang(ask, sglang_python):
    return lambda checkpoint, *more: ask(checkpoint, [*sglang(sglang_python), *more], of_sglang)


@pytest.fixture(scope="session")
def sglang_answers(ask_sglang, checkpoint):
    return ask_sglang(checkpoint)


@pytest.fixture(scope="session", params=["vllm", "sglang"])
def engine_answers(request):
    return request.getfixturevalue(f"{request.param}_answers")


@pytest.fixture(scope="session")
def server_answers(ask, checkpoint):
    return ask(checkpoint, native(), of_completions)


@pytest.fixture(scope="session")
def runner_answers(dsdeploy, checkpoint, prompts):
    return of_runner(dsdeploy, checkpoint, prompts)


@pytest.fixture(scope="session")
def two_devices(tmp_path_factory):
    """A profile of this machine as two devices."""
    path = tmp_path_factory.mktemp("profile") / "two.yaml"
    path.write_text(TWO_DEVICES)
    return path


def _interpreter(variable):
    if variable not in os.environ:
        pytest.skip(f"{variable} names no Python with this engine")
    return os.environ[variable]
