"""serve --on kubernetes: what is asked of kubectl, and when. A script stands in for kubectl and its
cluster; the manifests themselves are judged by Kubernetes' schemas in tests/deploy/targets."""

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from ..ports import free_port
from ..waiting import until

PROGRAM = Path(sys.executable).with_name("dsdeploy")
KUBECTL = """\
#!/bin/bash
printf '%s\\n' "$*" >>"$CALLS"
case $1 in
    create) printf 'secret: <%s>\\n' "$(cat)" >>"$CALLS" ;;
    apply) cat >/dev/null ;;
    wait) [[ $* == *--for=delete* ]] || { [[ -e $CALLS.again ]] || { touch "$CALLS.again"; exit 1; }; } ;;
    logs) echo "[pod/tiny] INFO:     Application startup complete."; exec sleep 600 ;;
    port-forward) exec PYTHON STAND_IN vllm "${3%:*}" none ;;
esac
"""


@pytest.fixture
def cluster(tmp_path, monkeypatch):
    """What kubectl was asked, a line each."""
    stand_in = Path(__file__).with_name("stand_in.py")
    text = KUBECTL.replace("PYTHON", sys.executable).replace("STAND_IN", shlex.quote(str(stand_in)))
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/kubectl").write_text(text)
    (tmp_path / "bin/kubectl").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    monkeypatch.setenv("CALLS", str(tmp_path / "calls"))
    monkeypatch.setenv("DSDEPLOY_STATE", str(tmp_path / "state"))
    monkeypatch.setenv("DSDEPLOY_API_KEY", "a-very-secret-key")
    return lambda: (tmp_path / "calls").read_text().splitlines()


def run(*words):
    done = subprocess.run([PROGRAM, *map(str, words)], text=True, capture_output=True, timeout=90)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_manifests_are_applied_reached_and_deleted(cluster, synth, tmp_path):
    checkpoint = synth(tmp_path / "tiny", "--precision", "bf16")
    port = free_port()
    words = ("--on", "kubernetes", "--backend", "native", "--port", port, "--host", "0.0.0.0")
    said = run("serve", checkpoint, *words, "--context", 256, "--detach")
    assert f"http://127.0.0.1:{port}/v1" in said
    asked = cluster()
    # What makes the secret is piped into what applies it: they begin at the same time.
    made = "create secret generic tiny-secrets --from-file=api-key=/dev/stdin"
    assert any(line.startswith(made) for line in asked[:2])
    assert "secret: <a-very-secret-key>" in asked
    assert "apply --filename=kubernetes.yaml" in asked
    assert f"port-forward service/tiny-api {port}:{port}" in asked
    ready = [line for line in asked if line.startswith("wait --for=condition=Ready")]
    assert len(ready) == 2  # the first time there was no pod yet
    until(lambda: "[pod/tiny] INFO" in (tmp_path / "state/tiny/log").read_text())
    assert "a-very" not in (tmp_path / "state/tiny/kubernetes.yaml").read_text()

    run("stop", "tiny")
    asked = cluster()
    assert "delete --filename=kubernetes.yaml --ignore-not-found" in asked
    assert "delete secret tiny-secrets --ignore-not-found" in asked
    found = json.loads(run("ps", "--json"))["deployments"]
    assert [(each["state"], each["processes"]) for each in found] == [("stopped", 0)]
