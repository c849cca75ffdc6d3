"""dsdeploy chat with a deployment, on the native runner."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = Path(sys.executable).with_name("dsdeploy")


@pytest.fixture
def run(tmp_path):
    """`run("ps")` as another process; what was started is stopped."""
    environment = {**os.environ, "DSDEPLOY_STATE": str(tmp_path / "state")}

    def run(*words, **options):
        return subprocess.run(
            [PROGRAM, *map(str, words)],
            env=environment, capture_output=True, text=True, timeout=120, **options,
        )  # fmt: skip

    yield run
    run("stop", "--all")


def test_a_deployment_is_found_by_its_name_or_alone_and_its_key_is_known(run, synth, tmp_path):
    checkpoint = synth(tmp_path / "tiny", "--precision", "bf16")
    (tmp_path / "key").write_text("a-very-secret-key\n")
    words = ("--port", 0, "--detach", "--context", 512, "--api-key-file", tmp_path / "key")
    started = run("serve", checkpoint, "--backend", "native", *words)
    assert started.returncode == 0, started.stdout + started.stderr

    settings = ("--max-tokens", 5, "--temperature", 1, "--seed", 3)
    chat = run("chat", "tiny", "--json", *settings, input="Hello\nAgain\n")
    assert chat.returncode == 0, chat.stdout + chat.stderr
    first, second = map(json.loads, chat.stdout.splitlines())
    assert first["usage"]["completion_tokens"] <= 5
    assert second["usage"]["prompt_tokens"] > first["usage"]["prompt_tokens"]

    alone = run("chat", *settings, input="Hello\n")
    assert (alone.returncode, alone.stdout) == (0, first["content"] + "\n")

    (address,) = [each["address"] for each in json.loads(run("ps", "--json").stdout)["deployments"]]
    locked_out = run("chat", address, input="Hello\n")
    assert locked_out.returncode == 2
    assert "--api-key-file" in locked_out.stderr
