"""What backends make of plans: every flag is one that the release knows, on every machine."""

import json
from pathlib import Path

import pytest

from dsdeploy.deploy.backend import backend_names
from dsdeploy.deploy.doubts import called_command, doubts
from dsdeploy.deploy.flags import load_catalogue, order
from dsdeploy.deploy.launch import Secret
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
    file = GOLDEN / f"{backend}-{machine}{''.join('-' + str(v) for v in wish.values())}.txt"
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


def test_the_newest_releases_are_asked_nothing_deprecated():
    for backend, machine, wish in SHOWN:
        assert doubts(launched(backend, machine, **wish)) == []


def test_several_nodes_of_vllm_need_a_release_that_has_them():
    with pytest.raises(UsageError) as error:
        launched("vllm", "2x8xh100", "0.10.0", sizes=Sizes(tensor=16))
    assert "needs vLLM >= 0.11" in error.value.hint


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
