"""serve, ps, logs, restart and stop as a user types them, on the native runner."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from urllib.request import Request, urlopen

import pytest

PROGRAM = Path(sys.executable).with_name("dsdeploy")


@pytest.fixture(scope="module")
def checkpoint(synth, tmp_path_factory):
    return synth(tmp_path_factory.mktemp("served") / "tiny", "--precision", "bf16")


@pytest.fixture
def run(tmp_path):
    """`run("ps", "--json")` as another process; what was started is stopped."""
    environment = {**os.environ, "DSDEPLOY_STATE": str(tmp_path / "state")}

    def start(*words, **more):
        return subprocess.Popen(
            [PROGRAM, *map(str, words)], env={**environment, **more}, text=True, cwd=tmp_path,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip

    def run(*words, **more):
        with start(*words, **more) as process:
            said = process.communicate(timeout=120)[0]
        return subprocess.CompletedProcess(words, process.returncode, said)

    run.start = start
    yield run
    run("stop", "--all")


def served(run):
    return json.loads(run("ps", "--json").stdout)["deployments"]


def ask(address, key=None):
    body = {"prompt": "hi", "max_tokens": 3}
    head = {"content-type": "application/json"} | (
        {"authorization": f"Bearer {key}"} if key else {}
    )
    with urlopen(Request(f"{address}/v1/completions", json.dumps(body).encode(), head)) as answer:
        return json.load(answer)["usage"]["completion_tokens"]


def test_from_serve_to_stop(run, checkpoint):
    started = run(
        "serve", checkpoint, "--backend", "native", "--port", 0, "--detach", "--context", "256"
    )
    assert started.returncode == 0, started.stdout
    assert "log-probabilities finite" in started.stdout
    (found,) = served(run)
    assert (found["name"], found["state"]) == ("tiny", "ready")
    assert [name for name, _ in found["status"]["phases"]][-1] == "first answer"
    assert ask(found["deployment"]["address"]) == 3
    assert "[dsdeploy] ready" in run("logs", "tiny").stdout
    assert run("serve", checkpoint, "--port", 0).stdout.splitlines()[-2:] == [
        "error: tiny runs already.",
        "  fix: dsdeploy stop tiny ends it; --name gives this one another name.",
    ]

    assert run("restart", "tiny").returncode == 0
    (again,) = served(run)
    assert again["state"] == "ready"
    assert again["status"]["marker"] != found["status"]["marker"]
    assert ask(again["deployment"]["address"]) == 3

    assert run("stop", "tiny").stdout == "tiny is stopped.\n"
    (after,) = served(run)
    assert (after["state"], after["processes"]) == ("stopped", 0)
    assert run("stop", "tiny", "--forget").stdout == "tiny does not run.\n"
    assert served(run) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_in_the_foreground_the_log_follows_until_it_is_ended(run, checkpoint, number):
    with run.start(
        "serve", checkpoint, "--backend", "native", "--port", 0, "--context", 256
    ) as process:
        for line in process.stdout:
            if line.startswith("  curl"):
                process.send_signal(number)
                break
        rest = process.stdout.read()
        assert process.wait(60) == 0, rest
    assert "Stopping" in rest
    assert rest.endswith("Stopped.\n")
    assert [found["state"] for found in served(run)] == ["stopped"]


def test_a_key_is_asked_for_and_never_written(run, checkpoint, tmp_path):
    (tmp_path / "key").write_text("a-very-secret-key\n")
    words = (
        "serve",
        checkpoint,
        "--backend",
        "native",
        "--port",
        0,
        "--api-key-file",
        tmp_path / "key",
    )
    started = run(*words, "--detach", "--context", 256)
    assert started.returncode == 0, started.stdout
    assert "Bearer $DSDEPLOY_API_KEY" in started.stdout
    (found,) = served(run)
    with pytest.raises(OSError, match="401"):
        ask(found["deployment"]["address"])
    assert ask(found["deployment"]["address"], "a-very-secret-key") == 3
    for file in (tmp_path / "state").rglob("*"):
        assert not file.is_file() or b"a-very-secret" not in file.read_bytes(), file


def test_an_engine_that_dies_at_once_is_explained(run, checkpoint):
    words = ("serve", checkpoint, "--backend", "native", "--port", 0, "--extra-arg=--warp")
    result = run(*words)
    assert result.returncode == 7
    assert "No such option" in result.stdout
    assert "error: The engine ended: exit status 2." in result.stdout


def test_a_dry_run_starts_and_leaves_nothing(run, checkpoint, tmp_path):
    result = run("serve", checkpoint, "--backend", "native", "--port", 0, "--dry-run")
    assert result.returncode == 0
    assert "dsdeploy native" in result.stdout
    assert not (tmp_path / "state").exists()


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("stop",), "Give names, or --all."),
        (("stop", "--all"), "Nothing runs."),
        (("ps",), "Nothing is kept running"),
        (("logs", "none"), "There is no deployment 'none'."),
        (("restart", "../up"), "is no name of a deployment"),
        (("serve",), "Give a MODEL or a saved plan"),
        (("serve", "CHECKPOINT", "--host", "0.0.0.0"), "there is no API key"),
        (("serve", "CHECKPOINT", "--engine-python", "/none"), "is no program that could be run"),
        (("serve", "CHECKPOINT", "--backend", "vllm"), "vllm is not installed in this environment"),
        (("serve", "CHECKPOINT", "--env-file", "bad.env"), "line 1, is not NAME=VALUE"),
    ],
)
def test_what_cannot_be_done_is_said_in_a_sentence(run, checkpoint, tmp_path, words, sentence):
    (tmp_path / "bad.env").write_text("no assignment\n")
    words = [checkpoint if word == "CHECKPOINT" else word for word in words]
    assert sentence in run(*words, PATH="/usr/bin:/bin").stdout


def test_a_port_in_use_is_told_before_anything_starts(run, checkpoint):
    import socket

    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        one.listen()
        port = one.getsockname()[1]
        result = run("serve", checkpoint, "--backend", "native", "--port", port)
    assert result.returncode == 7
    assert f"port {port} (http) is in use" in result.stdout
