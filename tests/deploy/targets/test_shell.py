"""Scripts for machines without containers, run: their ends, their signals, what they ask for."""

import dataclasses
import os
import signal
import subprocess
import time

import pytest

from dsdeploy.deploy.launch import Symbol
from dsdeploy.deploy.render import Place
from dsdeploy.errors import UsageError

from .conftest import launch, node, place_for, ranks, rendered, server

PATH = {"PATH": os.environ["PATH"]}


def of(*commands, **changes):
    """Each a script of sh."""
    processes = [
        server(name=f"p{n}", argv=("sh", "-c", command), environment={}, files=())
        for n, command in enumerate(commands)
    ]
    return launch(node(*processes), **changes)


def started(tmp_path, made, place=None, **variables):
    script = tmp_path / "start.sh"
    script.write_text(next(iter(rendered(made, "shell", place).values())))
    return subprocess.Popen(
        ["bash", script],
        env=PATH | variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize(
    ("commands", "status"),
    [
        (["exit 0"], 0),
        (["exit 7"], 7),
        (["exit 0", "sleep 0.2"], 0),
        (["sleep 1000", "exit 3"], 3),
        (["sleep 0.5; exit 4", "exit 5"], 5),
        (["kill -KILL $$", "sleep 1000"], 137),
    ],
)
def test_the_first_that_fails_ends_all(tmp_path, commands, status):
    begun = time.monotonic()
    process = started(tmp_path, of(*commands))
    assert process.wait(20) == status
    assert time.monotonic() - begun < 10


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_reaches_all(tmp_path, number):
    if signal.getsignal(number) == signal.SIG_IGN:
        pytest.skip("whoever started the tests ignores this signal, and bash keeps to that")
    command = (
        f"trap 'echo ended >>{tmp_path}/log; exit 0' TERM; echo up; while :; do sleep 0.05; done"
    )
    process = started(tmp_path, of(command, command))
    assert [process.stdout.readline() for _ in range(2)] == ["up\n", "up\n"]
    process.send_signal(number)
    assert process.wait(10) == 128 + number
    assert (tmp_path / "log").read_text() == "ended\n" * 2


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_while_they_start_reaches_the_later_ones(tmp_path, number):
    if signal.getsignal(number) == signal.SIG_IGN:
        pytest.skip("whoever started the tests ignores this signal, and bash keeps to that")
    first = f"kill -{number} $PPID; exit 0"
    process = started(tmp_path, of(first, *["exec sleep 1000"] * 20))
    assert process.wait(20) == 128 + number


def test_a_signal_ends_preparation(tmp_path):
    made = of("echo no", prepare=(("sh", "-c", "echo up; exec sleep 1000"),))
    process = started(tmp_path, made)
    assert process.stdout.readline() == "up\n"
    process.send_signal(signal.SIGTERM)
    assert process.wait(10) == 143
    assert process.stdout.read() == ""


def test_preparation_comes_first_and_in_order(tmp_path):
    steps = (("sh", "-c", "sleep 0.2; echo 1"), ("echo", "2"))
    assert started(tmp_path, of("echo 3", prepare=steps)).communicate()[0] == "1\n2\n3\n"


def test_preparation_that_fails_is_the_end(tmp_path):
    process = started(tmp_path, of("echo no", prepare=(("sh", "-c", "exit 9"), ("echo", "no"))))
    assert process.communicate()[0] == ""
    assert process.returncode == 9


def test_what_is_not_set_is_asked_for(tmp_path):
    two = dataclasses.replace(of("true"), nodes=of("true").nodes * 2)
    words = server(argv=("echo", Symbol.HEAD), environment={}, files=())
    process = started(tmp_path, dataclasses.replace(two, nodes=(node(words),) * 2), Place())
    assert "Set DSDEPLOY_HEAD to the address of the first node." in process.communicate()[1]
    process = started(tmp_path, launch(node(server())))
    assert "Set API_KEY: the secret api-key is read from it." in process.communicate()[1]
    assert process.returncode == 1


def test_no_secret_is_in_a_script_or_a_command(tmp_path):
    show = "tr '\\0' '\\n' </proc/self/cmdline /proc/$PPID/cmdline; echo \"$VLLM_API_KEY\""
    made = launch(node(server(argv=("sh", "-c", show))))
    printed = started(tmp_path, made, API_KEY="hidden").communicate()[0]
    assert printed.count("hidden") == 1


def test_mpirun_is_told_hosts_and_names_of_variables():
    script = rendered(ranks(2), "shell")["start-node-0.sh"]
    assert "mpirun \\\n        --host 10.0.0.1:8,10.0.0.2:8 \\\n        -np 16 \\\n" in script
    assert "-x VLLM_API_KEY" in script
    assert rendered(ranks(2), "shell").keys() == {"start-node-0.sh"}


def test_mpirun_needs_hosts_and_cannot_number_nodes():
    with pytest.raises(UsageError, match="give the addresses of all"):
        rendered(ranks(2), "shell", Place())
    process = server(argv=("a", Symbol.RANK), copies=8)
    made = launch(*[node(process)] * 2, launcher="mpi")
    with pytest.raises(UsageError, match="name the node itself"):
        rendered(made, "shell")


def test_a_folder_may_be_given(tmp_path):
    made = of("pwd")
    place = place_for(made, folder=f"{tmp_path}/it's $HOME")
    assert started(tmp_path, made, place).communicate()[0] == f"{tmp_path}/it's $HOME/p0\n"
