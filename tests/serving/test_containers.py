"""serve --runtime: containers are started, heard, and stopped by their names. A script stands in for
docker: the lines of `docker run` themselves are judged in tests/deploy/targets."""

import json
import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from dsdeploy.deploy.flags import load_catalogue

from ..ports import free_port
from ..waiting import until

PROGRAM = Path(sys.executable).with_name("dsdeploy")
# A container is the daemon's child: it has neither the client's session nor its marker.
DOCKER = """\
#!/bin/bash
printf '%s\\n' "$*" >>"$CALLS"
case "$*" in
    *importlib.metadata*) echo 0.30.0; exit RELEASE ;;
esac
case $1 in
    run)
        env -u DSDEPLOY_DEPLOYMENT setsid PYTHON STAND_IN vllm "$PORT" FAILURE >"$CALLS.log" 2>&1 &
        echo $! >"$CALLS.pid"
        tail -F --pid=$! "$CALLS.log" 2>/dev/null
        ;;
    stop) kill -TERM "$(<"$CALLS.pid")"; sleep 1; kill -KILL "$(<"$CALLS.pid")" ;;
    rm) [[ ! -e $CALLS.pid ]] || kill -KILL "$(<"$CALLS.pid")" 2>/dev/null ;;
esac
"""


@pytest.fixture
def docker(tmp_path, monkeypatch):
    """`docker("podman", failure)`: a program of this name; what it was asked, a line each."""

    def install(program, port, failure="none", release_status=0):
        stand_in = shlex.quote(str(Path(__file__).with_name("stand_in.py")))
        text = DOCKER.replace("PYTHON", sys.executable).replace("STAND_IN", stand_in)
        text = text.replace("RELEASE", str(release_status))
        (tmp_path / "bin").mkdir()
        (tmp_path / "bin" / program).write_text(text.replace("FAILURE", shlex.quote(failure)))
        (tmp_path / "bin" / program).chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
        monkeypatch.setenv("CALLS", str(tmp_path / "calls"))
        monkeypatch.setenv("PORT", str(port))
        monkeypatch.setenv("DSDEPLOY_STATE", str(tmp_path / "state"))
        return lambda: (tmp_path / "calls").read_text().splitlines()

    yield install
    pid = tmp_path / "calls.pid"
    if pid.exists() and Path(f"/proc/{pid.read_text().strip()}").exists():
        os.kill(int(pid.read_text()), signal.SIGKILL)


def run(*words):
    return subprocess.run([PROGRAM, *map(str, words)], text=True, capture_output=True, timeout=90)


@pytest.mark.parametrize(("program", "failure"), [("docker", "none"), ("podman", "ignores TERM")])
def test_a_container_is_run_and_stopped_by_its_name(docker, synth, tmp_path, program, failure):
    port = free_port()
    checkpoint = synth(tmp_path / "tiny", "--precision", "bf16")
    asked = docker(program, port, failure)
    words = ("--runtime", program, "--backend", "vllm", "--image", "mine:1", "--port", port)
    done = run("serve", checkpoint, *words, "--context", 256, "--grace-seconds", 5, "--detach")
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"engine      vllm 0.30.0 in mine:1, by {program}\n" in done.stderr + done.stdout
    release, removed, started = asked()[:3]
    assert release.startswith("run --rm --pull=missing --entrypoint python3 mine:1 -c ")
    assert removed == "rm --force tiny-vllm"
    assert started.startswith("run --rm --init --name tiny-vllm")
    assert f"-p 127.0.0.1:{port}:{port}" in started
    assert "mine:1" in started
    assert "--host 0.0.0.0" in started
    # The log goes through docker, the readiness does not: either may be seen first.
    until(lambda: "Application startup complete" in (tmp_path / "state/tiny/log").read_text())

    assert run("stop", "tiny").returncode == 0
    assert asked()[-2:] == ["stop --time 4 tiny-vllm", "rm --force tiny-vllm"]
    assert not Path(f"/proc/{(tmp_path / 'calls.pid').read_text().strip()}").exists()
    (found,) = json.loads(run("ps", "--json").stdout)["deployments"]
    assert (found["state"], found["processes"]) == ("stopped", 0)


def test_an_image_that_does_not_say_its_release_gets_the_newest_flags(docker, synth, tmp_path):
    checkpoint = synth(tmp_path / "tiny", "--precision", "bf16")
    asked = docker("docker", free_port(), release_status=127)
    words = ("--runtime", "docker", "--backend", "vllm", "--image", "mine:1", "--context", 256)
    said = run("serve", checkpoint, *words, "--dry-run")
    assert said.returncode == 0, said.stderr
    newest = load_catalogue("dsdeploy.backends.vllm").catalogue.release
    line = f"vllm {newest} in mine:1, by docker; it does not say which release it has"
    assert line in said.stdout + said.stderr
    assert "--pull=never" in asked()[0], "what only tells fetches nothing"


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("--runtime", "podman", "--on", "slurm"), "do not go together"),
        (("--image", "mine:1"), "--image is of a container"),
        (("--runtime", "podman"), "There is no podman here"),
    ],
)
def test_what_cannot_be(dsdeploy, synth, tmp_path, monkeypatch, words, sentence):
    monkeypatch.setenv("PATH", str(tmp_path))
    checkpoint = synth(tmp_path / "tiny", "--precision", "bf16")
    result = dsdeploy("serve", checkpoint, "--backend", "vllm", *words)
    assert sentence in result.output
