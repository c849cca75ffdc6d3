"""What becomes of a deployment when its supervisor, its disk or its user does something unusual."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from dsdeploy.errors import UsageError
from dsdeploy.serving import control, processes
from dsdeploy.serving.deployment import read_deployment, write_deployment
from dsdeploy.serving.registry import endpoint_of, entries, entry, only_endpoint
from dsdeploy.serving.status import read_status, write_status

SECRETS = {"API_KEY": "a-very-secret-key", "HF_TOKEN": "hf_abcdefghijklmnopqrstuvwxyz0123"}


def ended(pid):
    with_it = psutil.Process(pid) if psutil.pid_exists(pid) else None
    return with_it is None or with_it.status() == psutil.STATUS_ZOMBIE


def test_a_supervisor_that_is_killed_leaves_an_engine_that_is_told_of_and_can_be_ended(standing_in):
    with standing_in() as running:
        status = running.until("ready")
        os.kill(status.supervisor, signal.SIGKILL)
        while running.entry.watched:
            time.sleep(0.05)
        found = running.entry
        assert found.state == "unwatched"
        assert found.processes == 2  # the engine and its worker
        assert control.stop(found) == 2
        assert not processes.members(status.marker)
        assert running.entry.state == "lost"


def test_a_number_that_another_process_has_now_is_not_touched(standing_in):
    """A status left behind by a supervisor whose number a stranger has, and nobody's marker."""
    with standing_in() as running:
        running.until("ready")
        control.stop(running.entry)
        with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as stranger:
            stale = replace(running.status, state="ready", supervisor=stranger.pid)
            write_status(running.folder, stale)
            found = running.entry
            assert (found.state, found.watched, found.processes) == ("lost", False, 0)
            assert control.stop(found) == 0
            assert stranger.poll() is None
            stranger.communicate(b"\n")


def test_two_of_one_name_do_not_run(standing_in):
    with standing_in() as running:
        running.until("ready")
        with pytest.raises(UsageError, match="runs already"):
            control.launch(running.folder, dict(os.environ), detached=True)


def test_the_end_of_who_asked_for_it_is_its_end(standing_in):
    with standing_in() as running:
        running.until("ready")
        control.stop(running.entry)
        held = control.launch(running.folder, dict(os.environ), detached=False)
        status = running.until("ready")
        os.close(held.lifeline)
        assert held.process.wait(20) == 0
        assert running.status.state == "stopped"
        assert not processes.members(status.marker)


def test_a_second_request_to_end_ends_at_once(standing_in):
    with standing_in("vllm", "ignores TERM", grace=60) as running:
        status = running.until("ready")
        os.kill(status.supervisor, signal.SIGTERM)
        running.until("stopping")
        os.kill(status.supervisor, signal.SIGTERM)
        running.until("stopped", seconds=15)


def test_secrets_are_in_no_file_of_a_deployment(standing_in):
    environment = {**SECRETS, "DSDEPLOY_API_KEY": SECRETS["API_KEY"]}
    with standing_in("vllm", "prints its secrets", environment=environment) as running:
        running.until("ready")
        assert "Namespace(api_key='[secret]', token=[secret])" in running.log()
        control.stop(running.entry)
        for file in running.folder.iterdir():
            if file.is_file():
                assert not any(value.encode() in file.read_bytes() for value in SECRETS.values())


def test_the_smoke_test_sends_the_key(standing_in, monkeypatch):
    with standing_in("vllm", "wants a key") as running:
        assert "Unauthorized" in running.until("failed").reason
        keyed = replace(read_deployment(running.folder), needs_key=True)
        write_deployment(running.folder, keyed)
        monkeypatch.setenv("DSDEPLOY_API_KEY", SECRETS["API_KEY"])
        control.launch(running.folder, dict(os.environ), detached=True)
        running.until("ready")
        assert endpoint_of("tried").key == SECRETS["API_KEY"]
        assert only_endpoint().address == keyed.address


def test_a_log_that_finds_no_room_stops_no_engine(standing_in, monkeypatch):
    """A limit on the size of files stands in for a full disk: both end a write with an error."""
    with standing_in() as running:
        running.until("ready")
        control.stop(running.entry)
        script = running.folder / "start.sh"
        script.write_text(script.read_text().replace(" none", " 'floods 4'"))
        wrapper = running.folder / "python"
        wrapper.write_text(
            f"#!/bin/bash\ntrap '' XFSZ\nulimit -f 1024\nexec {sys.executable} \"$@\"\n"
        )
        wrapper.chmod(0o755)
        monkeypatch.setattr(control.sys, "executable", str(wrapper))
        control.launch(running.folder, dict(os.environ), detached=True)
        status = running.until("ready", also=lambda status: status.lost_lines > 3000)
        assert status.attempt == 1
        time.sleep(0.5)
        assert running.until("ready").attempt == 1


def test_what_is_registered(standing_in):
    with standing_in(name="one") as one, standing_in("sglang", name="two") as two:
        one.until("ready")
        two.until("ready")
        assert [(each.name, each.state) for each in entries()] == [
            ("one", "ready"),
            ("two", "ready"),
        ]
        with pytest.raises(UsageError, match="Several"):
            only_endpoint()
        control.stop(entry(two.folder))
        assert only_endpoint() == endpoint_of("one")
    with pytest.raises(UsageError, match="No deployment"):
        only_endpoint()
    with pytest.raises(UsageError, match="no deployment 'three'"):
        endpoint_of("three")
    with pytest.raises(UsageError, match="no name"):
        endpoint_of("../etc")


def test_semaphores_of_what_has_to_be_killed_are_removed(standing_in):
    """Python names them in /dev/shm, and a process of its own removes them when all others are gone."""
    before = set(Path("/dev/shm").glob("sem.*"))
    with standing_in("vllm", "leaves semaphores") as running:
        running.until("ready")
        assert set(Path("/dev/shm").glob("sem.*")) - before
        control.stop(running.entry)
        assert not set(Path("/dev/shm").glob("sem.*")) - before


def test_figures_come_from_the_metrics(standing_in):
    with standing_in("sglang") as running:
        status = running.until("ready", also=lambda status: status.generated is not None)
        assert (status.requests, status.generated) == (0, 16)


def test_a_status_that_cannot_be_read_is_none(tmp_path):
    assert read_status(tmp_path) is None
    (tmp_path / "status.json").write_text("{")
    assert read_status(tmp_path) is None
    (tmp_path / "status.json").write_text("{}")
    assert read_status(tmp_path) is None
