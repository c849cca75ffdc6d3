"""Words that are reckoned from a node's number are the same in every target, on every node."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dsdeploy.deploy.launch import Devices, Joined, Node, RankTimes, Symbol
from dsdeploy.deploy.render import Place, render
from dsdeploy.strict_yaml import load_yaml

from .conftest import launch, ranks, server
from .hostile import FIXED
from .test_quoting import expanded, uncomposed

DUMP = str(Path(__file__).with_name("dump.py"))
TEXTS = st.sampled_from([text for text in FIXED if text.isprintable()])
NODES = st.integers(2, 5)
FACTORS = st.integers(1, 64)
FEW = settings(
    max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def reckoning(nodes, factor, before, after, out="/out"):
    mixed = Joined((before, RankTimes(factor), after, Symbol.RANK))
    process = server(
        argv=(sys.executable, DUMP, out, before, RankTimes(factor), mixed, after),
        environment={"START": RankTimes(factor), "MIXED": mixed, "PLAIN": before},
        files=(),
        probes=None,
    )
    return launch(*[Node((process,), Devices("none", 0), 2**20)] * nodes)


def expected(rank, factor, before, after):
    mixed = f"{before}{rank * factor}{after}{rank}"
    environment = {"START": str(rank * factor), "MIXED": mixed, "PLAIN": before}
    return [before, str(rank * factor), mixed, after], environment


def files_of(made, target):
    addresses = tuple(f"10.0.0.{rank + 1}" for rank in range(len(made.nodes)))
    return {file.path: file.content for file in render(made, target, Place(addresses), ())}


def dumped(out, argv, **variables):
    """What a command gives to the program that writes it down."""
    environment = {"PATH": os.environ["PATH"]} | variables
    subprocess.run(argv, env=environment, check=True, capture_output=True)
    found = json.loads(out.read_text())
    out.unlink()
    wanted = ("START", "MIXED", "PLAIN")
    return found["argv"], {name: found["environment"][name] for name in wanted}


@FEW
@given(NODES, FACTORS, TEXTS, TEXTS)
def test_in_scripts_of_bash(tmp_path, nodes, factor, before, after):
    out = tmp_path / "out.json"
    made = reckoning(nodes, factor, before, after, str(out))
    scripts = files_of(made, "shell")
    for rank in (0, nodes - 1):
        script = tmp_path / f"{rank}.sh"
        script.write_text(scripts[f"start-node-{rank}.sh"])
        assert dumped(out, ["bash", script]) == expected(rank, factor, before, after)


@FEW
@given(NODES, FACTORS, TEXTS, TEXTS)
def test_in_a_job_of_slurm(tmp_path, nodes, factor, before, after):
    """Each node's step, as srun would run it."""
    out, script = tmp_path / "out.json", tmp_path / "job.sh"
    script.write_text(
        files_of(reckoning(nodes, factor, before, after, str(out)), "slurm")["job.sbatch"]
    )
    for rank in (0, nodes - 1):
        variables = {"SLURM_NODEID": str(rank), "SLURM_JOB_ID": "1", "API_KEY": "x"}
        variables["SLURM_SUBMIT_DIR"] = str(tmp_path)
        found = dumped(out, ["bash", script, "node"], **variables)
        assert found == expected(rank, factor, before, after)


@FEW
@given(NODES, FACTORS, TEXTS, TEXTS)
def test_in_kubernetes(tmp_path, nodes, factor, before, after):
    """As the kubelet expands the command and bash reckons; the pod's number is LWS's."""
    out = tmp_path / "out.json"
    text = files_of(reckoning(nodes, factor, before, after, str(out)), "kubernetes")[
        "kubernetes.yaml"
    ]
    manifests = (load_yaml(part, "kubernetes.yaml") for part in text.split("\n---\n"))
    group = next(m for m in manifests if m["kind"] == "LeaderWorkerSet")
    template = group["spec"]["leaderWorkerTemplate"]
    for rank in (0, nodes - 1):
        pod = template["workerTemplate" if rank else "leaderTemplate"]
        (container,) = pod["spec"]["containers"]
        known = {"LWS_WORKER_INDEX": str(rank), "LWS_LEADER_ADDRESS": "a", "DSDEPLOY_HERE": "b"}
        variables = {
            e["name"]: expanded(e["value"], known) for e in container["env"] if "value" in e
        }
        argv = [expanded(word, known) for word in container["command"]]
        found = dumped(out, argv, **known | variables)
        assert found == expected(rank, factor, before, after)


@given(NODES, FACTORS, TEXTS, TEXTS)
def test_in_compose_and_docker(nodes, factor, before, after):
    made = reckoning(nodes, factor, before, after)
    composed, docker = files_of(made, "compose"), files_of(made, "docker")
    for rank in range(nodes):
        words, environment = expected(rank, factor, before, after)
        project = load_yaml(composed[f"node-{rank}/compose.yaml"], "compose.yaml")
        service = project["services"]["server"]
        assert [uncomposed(word) for word in service["entrypoint"]][3:] == words
        found = {name: uncomposed(value) for name, value in service["environment"].items()}
        assert found == environment
        script = docker[f"docker-node-{rank}.sh"]
        assert f"dsdeploy_rank={rank}\n" in script
        assert f'-e START="$((dsdeploy_rank * {factor}))"' in script


@given(NODES, FACTORS)
def test_in_units_of_systemd(nodes, factor):
    units = files_of(reckoning(nodes, factor, "a", "b"), "systemd")
    for rank in range(nodes):
        (service,) = (
            text for path, text in units.items() if re.match(f"node-{rank}/.*service", path)
        )
        assert f'"a" "{rank * factor}" "a{rank * factor}b{rank}" "b"\n' in service
        assert f'Environment="MIXED=a{rank * factor}b{rank}"\n' in service


def test_a_node_alone_needs_no_reckoning():
    text = files_of(reckoning(1, 8, "a", "b"), "kubernetes")["kubernetes.yaml"]
    assert "bash" not in text


def test_mpirun_cannot_reckon():
    made = ranks(2)
    words = server(argv=("a", RankTimes(8)), copies=8)
    with pytest.raises(Exception, match="name the node itself"):
        files_of(launch(*[Node((words,), made.head.devices, 1)] * 2, launcher="mpi"), "shell")
