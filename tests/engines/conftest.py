"""A checkpoint that the engines take, and what each of them says about it.

An engine is up only while it is asked: two at a time would need twice the memory.
"""

import json
import os
import random
import shutil

import pytest

from .answers import of_completions, of_runner, of_sglang
from .servers import native, served, sglang, vllm

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
def ask(prompts, tmp_path_factory):
    """`ask(start, client)`: start a server, put the questions to it, end it."""

    def run(start, client):
        with served(*start, tmp_path_factory.mktemp("server") / "log") as server:
            return client(server, prompts)

    return run


@pytest.fixture(scope="session")
def ask_vllm(ask):
    """`ask_vllm(checkpoint)`"""
    python = _interpreter("DSDEPLOY_VLLM_PYTHON")
    return lambda checkpoint: ask(vllm(python, checkpoint), of_completions)


@pytest.fixture(scope="session")
def vllm_answers(ask_vllm, checkpoint):
    return ask_vllm(checkpoint)


@pytest.fixture(scope="session")
def sglang_answers(ask, checkpoint):
    return ask(sglang(_interpreter("DSDEPLOY_SGLANG_PYTHON"), checkpoint), of_sglang)


@pytest.fixture(scope="session", params=["vllm", "sglang"])
def engine_answers(request):
    return request.getfixturevalue(f"{request.param}_answers")


@pytest.fixture(scope="session")
def server_answers(ask, checkpoint):
    return ask(native(checkpoint), of_completions)


@pytest.fixture(scope="session")
def runner_answers(dsdeploy, checkpoint, prompts):
    return of_runner(dsdeploy, checkpoint, prompts)


def _interpreter(variable):
    if variable not in os.environ:
        pytest.skip(f"{variable} names no Python with this engine")
    return os.environ[variable]
