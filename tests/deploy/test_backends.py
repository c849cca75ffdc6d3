"""What backends make of plans: every flag is one that the release knows, on every machine."""

import json
from pathlib import Path

import pytest

from dsdeploy.deploy.backend import backend_names
from dsdeploy.deploy.doubts import called_command, doubts
from dsdeploy.deploy.flags import load_catalogue, order
from dsdeploy.deploy.launch import Secret
from dsdeploy.deploy.render import TARGETS, Place, render
from dsdeploy.errors import UsageError
from dsdeploy.planning.planner import Sizes

from .launches import SHOWN, launched, planned, releases, shown

GOLDEN = Path(__file__).parent / "golden"


def as_text(launch):
    """A Launch as people read it."""
    lines = [f"{launch.backend} {launch.release}, {launch.container.image}"]
    lines += [f"note: {note}" for note in launch.notes]
    lines += ["before: " + " ".join(map(shown, command)) for command in launch.prepare]
    for rank, node in enumerate(launch.nodes[:2]):
        title = "first node" if rank == 0 else f"each of the {len(launch.nodes) - 1} others"
        lines += ["", f"== {title}: {node.devices.count} devices"]
        for process in node.processes:
            lines += [f"{name}={shown(value)}" for name, value in process.environment.items()]
            copies = f"({process.copies} copies, started by MPI) " if process.copies > 1 else ""
            lines += [copies + " ".join(map(shown, process.argv))]
            lines += [f"{port.name} on {port.number}" for port in process.ports]
            for file in process.files:
                lines += [f"-- {file.path} ({file.mode:o})", file.content.rstrip("\n")]
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize(("backend", "machine", "wish"), SHOWN)
def test_what_is_run_is_written_down(backend, machine, wish):
    """Golden files: to renew one, delete it and run this test twice."""
    words = [f"dp{v.data}" if isinstance(v, Sizes) else v for v in wish.values()]
    file = GOLDEN / f"{'-'.join([backend, machine, *words])}.txt"
    text = as_text(launched(backend, machine, **wish))
    if not file.exists():
        file.write_text(text)
        pytest.fail(f"{file.name} has been written: read it")
    assert text == file.read_text()


def combinations():
    for backend, machine, wish in SHOWN:
        for release in releases(backend):
            for feature in ({}, {"mtp": True}):
                if not (backend == "mindie" and feature):
                    yield backend, machine, release, wish | feature


def test_every_flag_of_every_combination_is_known_to_its_release():
    checked, refused, problems = 0, [], {}
    everything = {"tools": True, "reasoning": True, "key": True, "host": "0.0.0.0"}
    for backend, machine, release, wish in combinations():
        try:
            launch = launched(backend, machine, release, everything, **wish)
        except UsageError as error:
            refused.append((backend, release, error.hint))
            continue
        found = [problem.message for problem in doubts(launch) if problem.kind != "deprecated"]
        problems |= dict.fromkeys(found, (backend, machine, wish))
        checked += 1
    assert problems == {}
    assert checked >= 150
    # Only old releases lack something.
    for backend, release, hint in refused:
        assert "needs" in hint
        assert order(release) < order(releases(backend)[-1])


@pytest.mark.parametrize("target", TARGETS)
def test_everything_shown_is_rendered_for_every_target(target):
    for backend, machine, wish in SHOWN:
        launch = launched(backend, machine, **wish)
        place = Place(tuple(f"10.0.0.{rank + 1}" for rank in range(len(launch.nodes))))
        if launch.launcher == "mpi" and target not in ("shell", "slurm"):
            with pytest.raises(UsageError, match="Ranks of MPI on 2 nodes"):
                render(launch, target, place, ("",))
        else:
            assert render(launch, target, place, ("",))


def test_the_newest_releases_are_asked_nothing_deprecated():
    for backend, machine, wish in SHOWN:
        assert doubts(launched(backend, machine, **wish)) == []


@pytest.mark.parametrize("release", ["0.8.5", "0.11.0", "0.11.2"])
def test_vllm_joins_nodes_over_ray_until_it_can_itself(release):
    head, follower = launched("vllm", "2x8xh100", release, sizes=Sizes(tensor=16)).nodes
    over_ray = "ray" in head.processes[0].argv
    assert over_ray == (release != "0.11.2")
    assert ("--nnodes" in head.processes[0].argv) != over_ray
    assert follower.processes[0].name == ("ray" if over_ray else "vllm")
    assert follower.processes[0].probes is None


def test_replicas_of_vllm_over_nodes_need_a_release_that_has_them():
    with pytest.raises(UsageError) as error:
        launched("vllm", "2x8xh100", "0.8.5", sizes=Sizes(data=16, expert=16))
    assert "needs vLLM >= 0.9" in error.value.hint


@pytest.mark.parametrize("sizes", [Sizes(data=2), Sizes(data=8, pipeline=4)])
def test_a_replica_of_vllm_is_not_spread_over_nodes(sizes):
    with pytest.raises(UsageError, match="keeps a replica without stages on one node"):
        launched("vllm", "4x8xh100", sizes=sizes, precision="bf16")


@pytest.mark.parametrize(("concurrency", "total"), [(8, 32), (33, 64)])
def test_every_replica_of_sglang_may_have_a_request(concurrency, total):
    wish = {"precision": "bf16", "sizes": Sizes(data=32, expert=32), "context": 1024}
    launch = launched("sglang", "4x8xa100", concurrency=concurrency, **wish)
    argv = launch.head.processes[0].argv
    assert argv[argv.index("--max-running-requests") + 1] == str(total)


def test_amds_vllm_and_ascends_need_releases_that_have_this_model():
    with pytest.raises(UsageError) as error:
        launched("rocm-vllm", "8xmi300x", "0.12.0")
    assert "needs vLLM >= 0.15.1" in error.value.hint
    with pytest.raises(UsageError) as error:
        launched("vllm-ascend", "2xatlas-800i-a2", "0.9.1", precision="int8")
    assert "needs vLLM Ascend >= 0.11.0" in error.value.hint


def test_calls_of_tools_are_parsed_by_tensorrt_llm_since_a_release():
    with pytest.raises(UsageError) as error:
        launched("tensorrt-llm", "8xh200", "1.1.0", {"tools": True})
    assert "needs TensorRT-LLM >= 1.2.0" in error.value.hint
    argv = launched("tensorrt-llm", "8xh200", "1.2.0", {"tools": True}).head.processes[0].argv
    assert argv[argv.index("--tool_parser") + 1] == "deepseek_v3"


def test_ascends_vllm_is_named_by_its_own_release_and_takes_vllms_flags():
    launch = launched("vllm-ascend", "1xatlas-a3", "0.22.1rc1", precision="int8")
    assert launch.container.image == "quay.io/ascend/vllm-ascend:v0.22.1rc1-a3"
    assert not any("not known" in note for note in launch.notes)
    old = launched("vllm-ascend", "1xatlas-a3", "0.11.0", precision="int8").head.processes[0].argv
    assert "torchair_graph_config" in old[old.index("--additional-config") + 1]


def test_ascends_driver_comes_into_the_container():
    launch = launched("vllm-ascend", "4xatlas-800i-a2", precision="bf16")
    for node in launch.nodes:
        driver = [m for m in node.mounts if m.target == "/usr/local/Ascend/driver"]
        assert [mount.read_only for mount in driver] == [True]
    assert "--quantization" not in launch.head.processes[0].argv


def test_a_release_between_two_known_ones_says_so():
    launch = launched("vllm", "8xh200", "0.10.1")
    assert any("0.10.1 are not known" in note for note in launch.notes)


@pytest.mark.parametrize("backend", ["vllm", "sglang", "lmdeploy", "tensorrt-llm"])
def test_a_key_is_a_reference_or_a_note(backend):
    launch = launched(backend, "8xh200", wanted={"key": True, "host": "0.0.0.0"})
    assert launch.secrets == ((Secret("api-key"),) if backend == "vllm" else ())
    assert backend == "vllm" or any("key" in note for note in launch.notes)


@pytest.mark.parametrize(("backend", "machine", "precision"), [
    ("native", "cpu-server", "fp8"), ("mindie", "2xatlas-800i-a2", "int8"),
])  # fmt: skip
def test_engines_that_do_not_download_want_a_folder(backend, machine, precision):
    with pytest.raises(UsageError) as error:
        launched(
            backend, machine, wanted={"weights": "deepseek-ai/DeepSeek-V3"}, precision=precision
        )
    assert "--weights" in error.value.hint


def test_followers_differ_from_each_other_by_their_rank_alone():
    for backend, machine, wish in SHOWN:
        launch = launched(backend, machine, **wish)
        assert len(set(map(repr, launch.nodes[1:]))) <= 1


def test_starting_may_take_twice_the_slowest_load():
    found = planned("vllm", "8xh200")
    launch = launched("vllm", "8xh200")
    (process,) = launch.head.processes
    assert process.probes.startup.seconds >= 2 * found.load_seconds


def test_only_the_first_node_is_asked_whether_it_is_well():
    launch = launched("sglang", "2x8xh100")
    assert [process.probes is not None for node in launch.nodes for process in node.processes] == [
        True,
        False,
    ]


def test_replicas_of_sglang_are_spelled_as_the_release_does():
    new = launched("sglang", "8xh200", sizes=Sizes(data=8)).head.processes[0].argv
    assert "--attn-dp-size" in new
    old = launched("sglang", "8xh200", "0.4.6", sizes=Sizes(data=8)).head.processes[0].argv
    assert "--enable-dp-attention" in old


def test_mindies_files_keep_its_rules():
    launch = launched("mindie", "2xatlas-800i-a2", precision="int8")
    config, table = (json.loads(file.content) for file in launch.head.processes[0].files)
    assert [file.mode for file in launch.head.processes[0].files] == [0o640, 0o640]
    deploy = config["BackendConfig"]["ModelDeployConfig"]
    schedule = config["BackendConfig"]["ScheduleConfig"]
    model = deploy["ModelConfig"][0]
    assert schedule["maxPrefillTokens"] >= deploy["maxInputTokenLen"]
    assert schedule["maxIterTimes"] <= deploy["maxSeqLen"]
    assert model["dp"] * model["tp"] == model["moe_tp"] * model["moe_ep"] == 16
    ranks = [device["rank_id"] for server in table["server_list"] for device in server["device"]]
    assert ranks == [str(rank) for rank in range(16)]


def test_trtllms_options_follow_the_release():
    def drafts(release):
        launch = launched("tensorrt-llm", "8xh200", release, mtp=True)
        return launch.head.processes[0].files[0].content

    known = releases("tensorrt-llm")
    assert "num_nextn_predict_layers: 1" in drafts(known[0])
    assert "max_draft_len: 1" in drafts(known[-1])


def test_every_backend_names_the_commands_that_it_calls():
    for backend, machine, wish in SHOWN:
        if backend in ("native", "mindie"):
            continue
        argv = [shown(word) for word in launched(backend, machine, **wish).head.processes[0].argv]
        command, _ = called_command(argv)
        assert load_catalogue(command.package, None, command.command)


def test_backends_are_shown(dsdeploy):
    result = dsdeploy("backends", "list")
    assert all(name in result.stdout for name in backend_names())
    result = dsdeploy("backends", "show", "vllm")
    assert "--gpu-memory-utilization" in result.stdout
    assert dsdeploy("backends", "show", "vlm").exit_code == 2
