"""Nodes over ssh: a server of this very machine stands in for the others."""

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
import uuid
from dataclasses import replace
from pathlib import Path

import pytest

from dsdeploy.errors import DeployError
from dsdeploy.serving import control
from dsdeploy.serving.deployment import NodeScript, read_deployment, write_deployment
from dsdeploy.serving.processes import members
from dsdeploy.serving.remote import start_remote

from ..ports import free_port
from ..sshd import needs_sshd, two_hosts
from ..waiting import until

pytestmark = needs_sshd


@pytest.fixture(scope="module")
def ssh_config(tmp_path_factory):
    with two_hosts(tmp_path_factory.mktemp("sshd")) as config:
        yield config


@pytest.fixture
def name():
    """Of a deployment; what is brought to a node lies by that in its user's home, which is one for
    all tests that run at the same time."""
    found = f"tried-{uuid.uuid4().hex[:8]}"
    yield found
    shutil.rmtree(Path.home() / ".dsdeploy" / found, ignore_errors=True)


@pytest.fixture
def two_nodes(standing_in, ssh_config, name):
    """A stand-in that is served by node `one` and has a process on `two`."""
    with standing_in() as running:
        running.until("ready")
        control.stop(running.entry)
        waits = f"echo here; exec {shlex.quote(sys.executable)} -c 'import time; time.sleep(600)'\n"
        (running.folder / "start-1.sh").write_text(waits)
        deployment = replace(
            read_deployment(running.folder),
            name=name,
            nodes=(NodeScript("start.sh", "one"), NodeScript("start-1.sh", "two")),
            ssh_config=str(ssh_config),
        )
        write_deployment(running.folder, deployment)
        yield running


def launch(running):
    control.launch(running.folder, dict(os.environ), detached=True)


def test_nodes_are_started_heard_and_ended(two_nodes):
    launch(two_nodes)
    status = two_nodes.until("ready")
    until(lambda: "\n[two] here\n" in two_nodes.log())
    until(lambda: "\n[one] INFO:     Application startup complete.\n" in two_nodes.log())
    there = [f"{status.marker}-{host}" for host in ("one", "two")]
    assert [len(members(marker)) for marker in there] == [2, 1]
    control.stop(two_nodes.entry)
    assert [len(members(marker)) for marker in there] == [0, 0]


def test_the_end_of_one_node_is_the_end_of_all(two_nodes):
    (two_nodes.folder / "start-1.sh").write_text("sleep 1; exit 3\n")
    launch(two_nodes)
    status = two_nodes.until("failed")
    assert "on two: exit status 3" in status.reason
    assert not members(status.marker)


def test_a_host_that_cannot_be_reached_is_told(two_nodes):
    deployment = read_deployment(two_nodes.folder)
    nodes = (deployment.nodes[0], NodeScript("start-1.sh", "gone"))
    write_deployment(two_nodes.folder, replace(deployment, nodes=nodes))
    launch(two_nodes)
    assert "no ssh server answers" in two_nodes.until("failed").reason


@pytest.mark.parametrize("ending", ["close", "kill"])
def test_nothing_outlives_the_connection(two_nodes, ending):
    """Neither what ignores TERM nor what has gone into a session of its own."""
    deployment = read_deployment(two_nodes.folder)
    stubborn = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"
    script = f"setsid {sys.executable} -c '{stubborn}' &\nexec {sys.executable} -c '{stubborn}'\n"
    marker = f"marker-{ending}-{time.time()}"
    secret = {"API_KEY": 'it\'s a "secret" $HOME'}
    process = start_remote(
        deployment, NodeScript("start.sh", "one"), f'echo "<$API_KEY>"\n{script}', secret, marker
    )
    assert process.stdout.readline().decode() == f"<{secret['API_KEY']}>\n"
    marker = f"{marker}-one"
    until(lambda: len(members(marker)) == 2)
    assert not (Path.home() / f".dsdeploy/{deployment.name}/start/environment").exists()
    if ending == "close":
        process.stdin.close()
    else:
        process.send_signal(signal.SIGKILL)
    until(lambda: not members(marker), seconds=20)
    process.wait(10)


def test_a_host_that_refuses_is_an_error(two_nodes):
    deployment = read_deployment(two_nodes.folder)
    with pytest.raises(DeployError, match="no ssh server answers"):
        start_remote(deployment, NodeScript("start.sh", "gone"), "true", {}, "marker")


PROFILE = """\
name: two-nodes
description: Two hosts that are one machine.
accelerator: cpu-laptop
nodes: 2
accelerators_per_node: 1
host_memory: 16GB
disk: {space: 100GB, read: 1GB/s}
inter_node: {kind: memory, bandwidth: 10GB/s}
network_interface: lo
container_runtime: none
"""


def test_serve_starts_the_native_runner_on_two_hosts(synth, state, ssh_config, name, tmp_path):
    checkpoint = synth(tmp_path / "tiny", "--precision", "bf16")
    (tmp_path / "two.yaml").write_text(PROFILE)
    words = [
        "serve", checkpoint, "--backend", "native", "--profile", tmp_path / "two.yaml", "--tp", 2,
        "--nodes", "one,two", "--ssh-config", ssh_config, "--engine-python", sys.executable,
        "--port", free_port(), "--context", 256, "--name", name, "--detach",
    ]  # fmt: skip
    program = Path(sys.executable).with_name("dsdeploy")
    try:
        done = subprocess.run(
            [program, *map(str, words)], text=True, capture_output=True, timeout=120
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert "tiny is served at http://127.0.0.1:" in done.stdout
    finally:
        subprocess.run([program, "stop", "--all"], check=True, capture_output=True)
    status = json.loads((state / name / "status.json").read_text())
    assert not any(members(f"{status['marker']}-{host}") for host in ("one", "two"))


def test_as_many_hosts_as_the_plan_has_nodes(dsdeploy, synth, ssh_config, tmp_path):
    checkpoint = synth(tmp_path / "tiny", "--precision", "bf16")
    (tmp_path / "two.yaml").write_text(PROFILE)
    common = (
        "serve",
        checkpoint,
        "--backend",
        "native",
        "--profile",
        tmp_path / "two.yaml",
        "--tp",
        2,
    )
    few = dsdeploy(*common, "--nodes", "one", "--ssh-config", ssh_config)
    assert (few.exit_code, "--nodes names 1" in few.output) == (2, True)
    none = dsdeploy(*common)
    assert (none.exit_code, "Name them with --nodes" in none.output) == (2, True)
