"""Several nodes: agents over a real ssh server of this machine, and what is made of their numbers."""

import json
import os
import socket
import threading
from dataclasses import replace
from pathlib import Path as File

import psutil
import pytest

from dsdeploy.doctor.check import gravest
from dsdeploy.doctor.nodes.agent import measure
from dsdeploy.doctor.nodes.facts import Fault, Nodes, Path
from dsdeploy.doctor.nodes.gathering import Agent, gather_nodes
from dsdeploy.doctor.nodes.gathering import _path as path_between
from dsdeploy.doctor.nodes.judging import judge_nodes
from dsdeploy.doctor.nodes.pairs import rounds

from ..ports import free_port
from ..sshd import Keys, listening, needs_sshd
from ..waiting import until

NOBODY = "192.0.2.1"  # set aside for examples (RFC 5737); a firewall that drops what is sent there
LATE = 90
CHATTY = "echo Welcome to this node; echo '[it is monitored]'"


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    """Hosts that are well (`one`, `two`), that ssh does not reach (`gone`), that reach the others but
    whose own ports are blocked (`walled`), whose clock is LATE seconds ahead (`late`), that have no
    python3 (`bare`)."""
    keys = Keys(tmp_path_factory.mktemp("sshd"))
    port = free_port()
    clock = keys.folder / "clock"
    clock.mkdir()
    (clock / "sitecustomize.py").write_text(
        f"import time\nnow = time.time\ntime.time = lambda: now() + {LATE}\n"
    )
    late = keys.server("late", f"SetEnv PYTHONPATH={clock}")
    plain = keys.server("plain")
    bare = keys.server("bare", 'ForceCommand PATH=/nowhere; eval "$SSH_ORIGINAL_COMMAND"')
    chatty = keys.server("chatty", f'ForceCommand {CHATTY}; eval "$SSH_ORIGINAL_COMMAND"')
    asleep = keys.server("asleep", "ForceCommand exec sleep 20")
    path = keys.folder / "config"
    path.write_text(
        keys.host("one two", "127.0.0.1", Port=port)
        + keys.host("gone", "127.0.0.1", Port=free_port())
        + keys.host("walled", NOBODY, ProxyCommand=keys.proxy(plain))
        + keys.host("late", "127.0.0.1", ProxyCommand=keys.proxy(late))
        + keys.host("bare", "127.0.0.1", ProxyCommand=keys.proxy(bare))
        + keys.host("chatty", "127.0.0.1", ProxyCommand=keys.proxy(chatty))
        + keys.host("asleep", "127.0.0.1", ProxyCommand=keys.proxy(asleep))
    )
    with listening(keys, port):
        yield path


@pytest.fixture
def quick(monkeypatch):
    """Short measurements."""
    monkeypatch.setattr("dsdeploy.doctor.nodes.gathering._SECONDS", 0.05)


def agents():
    """Processes that run an agent, on the nodes or on their way there."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        words = " ".join(process.info["cmdline"] or [])
        if "What each node runs" in words:
            found.append(process)
    return found


@needs_sshd
def test_the_matrix_of_two_nodes(dsdeploy, config):
    result = dsdeploy("doctor", "--nodes", "one,two", "--ssh-config", config)
    assert result.exit_code == 0, result.output
    assert "2 paths, all open" in result.output
    title, header, one, two, *_ = result.output.splitlines()
    assert title == "round trip, rate and MTU from each node (left) to each (top):"
    assert header.split() == ["one", "two"]
    assert (one.split()[:2], two.split()[0]) == (["one", "-"], "two")
    assert f"  {loopback_mtu()}" in one
    assert " ms  " in one
    assert "/s  " in one
    assert "export NCCL_SOCKET_IFNAME=lo GLOO_SOCKET_IFNAME=lo" in result.output
    until(lambda: not agents())


@needs_sshd
def test_what_is_measured_is_so(config, quick):
    nodes = gather_nodes(["one", "two"], config)
    assert nodes.hosts == ("one", "two")
    assert not nodes.faults
    assert {(path.source, path.target) for path in nodes.paths} == {("one", "two"), ("two", "one")}
    for path in nodes.paths:
        assert not path.problem
        assert path.seconds > 0
        assert path.rate > 0
        assert (path.mtu, path.interface) == (loopback_mtu(), "lo")
    assert all(abs(clock) < 5 for clock in nodes.clocks.values())


@needs_sshd
def test_nothing_is_left_on_the_nodes(config, quick, tmp_path):
    before = {place: set(os.listdir(place)) for place in ("/tmp", File.home(), "/dev/shm")}
    with Agent("one", config) as agent:
        agent.start()
        assert agents()
    gather_nodes(["one", "two"], config)
    until(lambda: not agents())
    for place, names in before.items():
        # Other tests make folders of their own meanwhile.
        new = set(os.listdir(place)) - names
        assert not [name for name in new if "dsdeploy" in name or "agent" in name]


@needs_sshd
def test_a_node_that_ssh_does_not_reach_does_not_hide_the_others(dsdeploy, config):
    words = ("doctor", "--nodes", "one,gone,two,bare", "--ssh-config", config, "--json")
    result = dsdeploy(*words)
    assert result.exit_code == 1
    found = json.loads(result.output)
    checks = {check["name"]: check for check in found["checks"]}
    assert "no ssh server answers" in checks["gone"]["found"]
    assert "no python3" in checks["bare"]["found"]
    assert all(checks[name]["fix"] for name in ("gone", "bare"))
    assert {path["target"] for path in found["paths"]} == {"one", "two"}
    assert checks["reach"]["state"] == "green"
    until(lambda: not agents())


@needs_sshd
def test_nobody_is_reached(dsdeploy, config):
    result = dsdeploy("doctor", "--nodes", "gone,bare", "--ssh-config", config)
    assert result.exit_code == 1
    assert "not known" in result.output
    assert "2 red, 0 yellow, 0 green" in result.output


@needs_sshd
def test_a_port_that_is_blocked(config, quick):
    nodes = gather_nodes(["one", "walled"], config)
    assert not nodes.path("walled", "one").problem
    assert nodes.path("one", "walled").problem
    reach = next(check for check in judge_nodes(nodes) if check.name == "reach")
    assert (reach.state, "one to walled: " in reach.found) == ("red", True)
    assert "Open all TCP ports" in reach.fix
    until(lambda: not agents())


@needs_sshd
def test_clocks_that_differ(config, quick):
    nodes = gather_nodes(["one", "late"], config)
    assert nodes.clocks["late"] - nodes.clocks["one"] == pytest.approx(LATE, abs=5)
    clocks = next(check for check in judge_nodes(nodes) if check.name == "clocks")
    assert clocks.state == "yellow"
    assert clocks.found.endswith(" s ahead of one")
    assert "timedatectl set-ntp true" in clocks.fix


@needs_sshd
def test_a_node_that_hangs(config, quick, monkeypatch):
    monkeypatch.setattr("dsdeploy.doctor.nodes.gathering._PATIENCE", 5)
    nodes = gather_nodes(["one", "asleep", "two"], config)
    assert nodes.faults["asleep"].problem == "asleep has not answered in 5 s."
    assert len(nodes.paths) == 2


@needs_sshd
def test_a_node_that_ends_meanwhile(config, quick):
    with Agent("one", config) as one, Agent("two", config) as two:
        one.start()
        two.start()
        one.close()
        path = path_between(one, two)
    assert path.problem.startswith(("python3 on one fails", "one has not answered"))


@needs_sshd
def test_a_login_shell_may_talk(config, quick):
    nodes = gather_nodes(["one", "chatty"], config)
    assert not nodes.faults
    assert not any(path.problem for path in nodes.paths)


@pytest.mark.parametrize("names", ["one", "one,one", ",", "one,"])
def test_two_hosts_or_more(dsdeploy, names):
    result = dsdeploy("doctor", "--nodes", names)
    assert (result.exit_code, "two hosts or more" in result.output) == (2, True)


def test_nodes_are_of_the_network_alone(dsdeploy):
    result = dsdeploy("doctor", "--nodes", "one,two", "--backend", "vllm")
    assert (result.exit_code, "network alone" in result.output) == (2, True)


@pytest.mark.parametrize("count", range(2, 10))
def test_each_pair_once_and_no_node_in_two_places(count):
    found = rounds(count)
    pairs = [pair for pairs in found for pair in pairs]
    assert sorted(pairs) == [(a, b) for a in range(count) for b in range(a + 1, count)]
    for pairs in found:
        busy = [node for pair in pairs for node in pair]
        assert len(busy) == len(set(busy))


GOOD = Path("a", "b", seconds=1e-4, rate=1.2e9, mtu=9000, interface="eth0")
BACK = replace(GOOD, source="b", target="a")
WELL = Nodes(("a", "b"), (GOOD, BACK), {"a": 0.0, "b": 0.01}, {})


def state_of(nodes, name):
    return {check.name: check.state for check in judge_nodes(nodes)}.get(name)


def test_nodes_in_good_order():
    assert gravest(judge_nodes(WELL)) == "green"


@pytest.mark.parametrize(
    ("change", "name", "state"),
    [
        ({"seconds": 2e-3}, "latency", "yellow"),
        ({"rate": 1e8}, "rate", "yellow"),
        ({"rate": 5e8}, "rate", "yellow"),  # less than half of what others have
        ({"mtu": 1500}, "MTU", "yellow"),
        ({"interface": "ens3"}, "interface", "yellow"),
        ({"problem": "timed out"}, "reach", "red"),
    ],
)
def test_one_path_that_is_not(change, name, state):
    third = replace(GOOD, target="c")
    paths = (GOOD, replace(BACK, **change), third, replace(third, source="b"))
    nodes = replace(WELL, hosts=("a", "b", "c"), paths=paths)
    assert state_of(nodes, name) == state
    check = next(check for check in judge_nodes(nodes) if check.name == name)
    assert check.fix
    assert check.wanted


def test_a_fault_is_red():
    nodes = replace(WELL, faults={"c": Fault("c does not answer over ssh.", "See that it is up.")})
    assert state_of(nodes, "c") == "red"


def loopback_mtu():
    """As a connection has it: a packet has no more than 16 bits for its length."""
    return min(65535, int(File("/sys/class/net/lo/mtu").read_text()))


def test_another_program_on_the_port_is_no_agent():
    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(target=lambda: server.accept()[0].close(), daemon=True).start()
        with pytest.raises(OSError, match=r"another program answers|reset|Broken pipe"):
            measure("127.0.0.1", server.getsockname()[1], 0.05)
