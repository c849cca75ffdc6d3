"""Engines over Ray, run by the real bash with stand-ins for `ray` and the engine that write down what
happens: who is started when, and what ends whom."""

import os
import signal
import socket
import stat
import subprocess
import time

import pytest

from dsdeploy.deploy.launch import Symbol
from dsdeploy.planning.planner import Sizes

from ..ports import free_port
from ..waiting import until
from .launches import launched

RAY = """#!/bin/bash
echo "ray $*" >>"$LOG"
case $1 in
status) [ -e "$LOG.up" ] || exit 1 ;;
start)
    trap 'echo "ray ends" >>"$LOG"; [ -n "${RAY_HANGS:-}" ] || exit 0' TERM
    sleep 0.3
    touch "$LOG.up"
    [ -z "${RAY_STATUS:-}" ] || exit "$RAY_STATUS"
    sleep 1000 &
    wait
    [ -z "${RAY_HANGS:-}" ] || wait
    ;;
esac
"""
ENGINE = """#!/bin/bash
echo "engine $1 with $RAY_ADDRESS" >>"$LOG"
trap 'echo "engine ends" >>"$LOG"; exit 0' TERM
[ -z "${ENGINE_STATUS:-}" ] || exit "$ENGINE_STATUS"
sleep 1000 &
wait
"""


@pytest.fixture
def start(tmp_path):
    """`start(process, **environment)`: begins it on this machine, as the only node."""
    begun = []
    for name, text in (("ray", RAY), ("vllm", ENGINE), ("lmdeploy", ENGINE)):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(stat.S_IRWXU)

    def run(process, port=None, **environment):
        known = {Symbol.HEAD: "127.0.0.1", Symbol.HERE: "127.0.0.1"}
        argv = [known.get(word, word) for word in process.argv]
        argv = [str(port) if port and word == "6379" else word for word in argv]
        variables = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "LOG": str(tmp_path / "log")}
        variables |= dict.fromkeys(("VLLM_HOST_IP", "NODE_ADDRESS"), "localhost")
        variables |= environment
        begun.append(subprocess.Popen(argv, env=variables, start_new_session=True))
        return begun[-1]

    yield run
    for process in begun:
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
        process.wait()


@pytest.fixture
def log(tmp_path):
    """`log(line)`: waits for a line that begins so, and gives all of them."""

    def lines(begins=""):
        for _ in range(600):
            found = (tmp_path / "log").read_text() if (tmp_path / "log").exists() else ""
            if any(line.startswith(begins) for line in found.splitlines()):
                return [line for line in found.splitlines() if line != "ray status"]
            time.sleep(0.1)
        raise AssertionError(f"no line {begins!r} in {found!r}")

    return lines


def is_a_group(number):
    try:
        os.killpg(number, 0)
    except ProcessLookupError:
        return False
    return True


def processes(backend="vllm", release="0.10.0"):
    launch = launched(backend, "2x8xh100", release, sizes=Sizes(tensor=16))
    return [node.processes[0] for node in launch.nodes]


@pytest.mark.parametrize(("backend", "release"), [("vllm", "0.10.0"), ("lmdeploy", None)])
def test_the_engine_starts_when_ray_is_up_and_both_end_in_order(start, log, backend, release):
    head = start(processes(backend, release)[0])
    begun = log("engine serve")
    head.send_signal(signal.SIGTERM)
    assert head.wait(60) == 143
    assert log("ray ends") == [*begun, "engine ends", "ray ends"]
    assert begun[0].startswith("ray start --head --block --node-ip-address ")
    address = begun[1].removeprefix("engine serve with ")
    assert address.endswith(":6379")
    # A name of this node has become the number that Ray knows it by.
    assert "localhost" not in address


def test_an_engine_that_fails_ends_ray_and_says_how(start, log):
    assert start(processes()[0], ENGINE_STATUS="7").wait(60) == 7
    assert log("ray ends")[-1] == "ray ends"


def test_a_ray_that_hangs_at_its_end_is_killed(start, log):
    head = start(processes()[0], RAY_HANGS="1")
    log("engine serve")
    head.send_signal(signal.SIGTERM)
    log("ray ends")
    assert head.wait(120) == 143


def test_without_ray_there_is_no_engine(start, log):
    """Whether it fails before the engine has started or after."""
    assert start(processes()[0], RAY_STATUS="3").wait(60) == 1
    begun = [line for line in log("ray start") if line.startswith("engine")]
    assert begun == [] or begun[-1] == "engine ends"


def test_a_follower_waits_for_the_first_node(start, log, tmp_path):
    port = free_port()
    follower = start(processes()[1], port)
    time.sleep(0.5)
    assert not (tmp_path / "log").exists()
    with socket.create_server(("127.0.0.1", port)):
        (begun,) = log("ray start")
        assert begun.startswith(f"ray start --block --address 127.0.0.1:{port} --node-ip-address ")
        follower.send_signal(signal.SIGTERM)
        assert follower.wait(60) == 143
    assert log("ray ends")[-1] == "ray ends"


def test_a_follower_ends_well_with_the_first_node(start, log):
    port = free_port()
    with socket.create_server(("127.0.0.1", port)):
        follower = start(processes("lmdeploy", None)[1], port)
        log("ray start")
    assert follower.wait(60) == 0
    assert log("ray ends")[-1] == "ray ends"
    until(lambda: not is_a_group(follower.pid))


def test_a_follower_without_ray_says_how_it_failed(start):
    port = free_port()
    with socket.create_server(("127.0.0.1", port)):
        assert start(processes()[1], port, RAY_STATUS="3").wait(60) == 3
