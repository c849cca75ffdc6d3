"""Jobs, run by a real Slurm: its controller and two nodes, all on this machine."""

import dataclasses
import json
import sys
from ctypes.util import find_library
from pathlib import Path

import pytest

from dsdeploy.deploy.launch import Devices, File, Mount, Node, Secret, Symbol
from dsdeploy.errors import UsageError

from ...ports import free_port
from .conftest import launch, node, place_for, ranks, rendered, server
from .hostile import strings

ENGINE = str(Path(__file__).with_name("engine.py"))
DUMP = str(Path(__file__).with_name("dump.py"))
JOB = """
job=$(sbatch --parsable job.sbatch) || exit
until scontrol show job "$job" | grep -Eq 'JobState=(COMPLETED|FAILED|CANCELLED|NODE_FAIL)'; do
    sleep 0.1
done
exit "$(scontrol show job "$job" | sed -n 's/.*ExitCode=\\([0-9]*\\):.*/\\1/p')"
"""


@pytest.fixture
def submit(slurm, tmp_path):
    """`submit(launch, **place)`: its exit status, and what it printed."""

    def run(made, **place):
        script = rendered(made, "slurm", place_for(made, **place))["job.sbatch"]
        (tmp_path / "job.sbatch").write_text(script)
        done = slurm(JOB, tmp_path, {"API_KEY": "s'e\"c $HOME"})
        logs = "".join(path.read_text() for path in tmp_path.glob("*-*.log"))
        return done.returncode, done.stderr + logs

    return run


def on_nodes(made_nodes, process, follower=None):
    def on(each):
        return Node((each,), Devices("none", 0), 2**20)

    return launch(on(process), *[on(follower or process)] * (made_nodes - 1))


def test_a_job_of_two_nodes_runs_to_its_end(submit, tmp_path):
    port, out = str(free_port()), str(tmp_path / "out")
    words = strings(300, 6)
    values = {f"V{n}": text for n, text in enumerate(strings(150, 7))}
    process = server(
        argv=(sys.executable, ENGINE, Symbol.HEAD, Symbol.RANK, "2", port, out, *words),
        environment=values | {"HERE_IS": Symbol.HERE, "TOKEN": Secret("api-key")},
        files=(File("a $file", "it's $HOME\n", 0o640),),
    )
    made = on_nodes(2, process, dataclasses.replace(process, argv=(*process.argv, "--headless")))
    table = tmp_path / "table"
    made = dataclasses.replace(made, prepare=(("cp", "a $file", str(table)),))
    status, log = submit(made)
    assert status == 0, log
    assert table.read_text() == "it's $HOME\n"
    for rank, name, more in ((0, "one", []), (1, "two", ["--headless"])):
        found = json.loads(Path(f"{out}-{rank}").read_text())
        assert found["argv"] == ["one", str(rank), "2", port, out, *words, *more]
        variables = found["environment"]
        assert {key: variables[key] for key in values} == values
        assert (variables["HERE_IS"], variables["TOKEN"]) == (name, "s'e\"c $HOME")
        file = Path(found["folder"], "a $file")
        assert (file.read_text(), file.stat().st_mode & 0o777) == ("it's $HOME\n", 0o640)


@pytest.mark.skipif(not find_library("pmix"), reason="libpmix2 is not installed")
def test_ranks_of_mpi_are_tasks(submit, tmp_path):
    """Of one node: two nodes on one machine would share the folder of PMIx."""
    script = 'echo "$SLURM_PROCID of $SLURM_NTASKS" >"$1-$SLURM_PROCID"; cat f >>"$1-$SLURM_PROCID"'
    process = server(
        argv=("sh", "-c", script, "sh", str(tmp_path / "out")),
        files=(File("f", "here\n"),),
        copies=3,
    )
    made = dataclasses.replace(on_nodes(1, process), launcher="mpi")
    status, log = submit(made)
    assert status == 0, log
    found = [(tmp_path / f"out-{rank}").read_text() for rank in range(3)]
    assert found == [f"{rank} of 3\nhere\n" for rank in range(3)]


def test_ranks_on_several_nodes():
    job = rendered(ranks(2), "slurm")["job.sbatch"]
    assert "#SBATCH --nodes=2\n#SBATCH --ntasks-per-node=8\n" in job
    assert "--ntasks=16 \\\n        --ntasks-per-node=8 \\\n        --mpi=pmix \\\n" in job


def test_a_process_that_fails_fails_the_job(submit, tmp_path):
    fails = server(argv=("sh", "-c", "exit 7"))
    status, _ = submit(on_nodes(2, server(argv=("sleep", "1000")), fails))
    assert status != 0


@pytest.mark.parametrize("runtime", ["pyxis", "apptainer"])
def test_containers_are_asked_for(runtime):
    made = launch(node(server()))
    job = rendered(made, "slurm", place_for(made, container_runtime=runtime))["job.sbatch"]
    wanted = {
        "pyxis": ["--container-image=vllm/vllm-openai:v0.33.0", "--container-mounts=/models:/models:ro,"],
        "apptainer": ["apptainer exec", "--nv", "--bind /models:/models:ro", "docker://vllm/vllm-openai"],
    }  # fmt: skip
    assert all(words in job for words in wanted[runtime])


def test_registries_are_written_as_enroot_reads_them():
    image = dataclasses.replace(
        ranks().container, image="nvcr.io/nvidia/tensorrt-llm/release:1.2.0"
    )
    made = dataclasses.replace(ranks(2), container=image)
    job = rendered(made, "slurm", place_for(made, container_runtime="pyxis"))["job.sbatch"]
    assert "--container-image='nvcr.io#nvidia/tensorrt-llm/release:1.2.0'" in job


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("partition", "gpu\n#SBATCH --uid=0"),
        ("partition", "-x"),
        ("partition", "a b"),
        ("account", "it's"),
        ("account", "$HOME"),
        ("time_limit", "1:00:00\n"),
        ("time_limit", "soon"),
    ],
)
def test_directives_have_no_quoting(setting, value):
    made = launch(node(server()))
    with pytest.raises(UsageError):
        rendered(made, "slurm", place_for(made, **{setting: value}))


def test_directives():
    made = launch(node(server()))
    place = place_for(made, partition="gpu", account="us", time_limit="1-00:00:00")
    lines = rendered(made, "slurm", place)["job.sbatch"].splitlines()
    wanted = "nodes=1 ntasks-per-node=1 gpus-per-node=8 partition=gpu account=us time=1-00:00:00 exclusive"
    assert {f"#SBATCH --{each}" for each in wanted.split()} <= set(lines)


def test_a_path_with_a_colon_cannot_be_mounted():
    strange = dataclasses.replace(node(server()), mounts=(Mount("/a:b", "/a:b"),))
    made = launch(strange)
    with pytest.raises(UsageError, match="colon"):
        rendered(made, "slurm", place_for(made, container_runtime="pyxis"))
