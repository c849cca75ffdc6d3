"""Real engines through `dsdeploy serve` and `render`: in parts, on two nodes, with drafts, and wrong.

All in float32, where an engine that is right differs from the runner by 1e-5 at most.
"""

import json
import os
import time
from contextlib import ExitStack, contextmanager

import pytest

from ..ports import free_port
from .answers import of_completions, of_sglang, prompts_of_vllm, scored
from .conftest import TWO_DEVICES
from .nodes import started, wait
from .servers import NAME, Server, compiled_vllm, native, on_two, served, sglang, vllm
from .test_judge import SAME, SAME_ONCE, WRONG, differences, mean, of_prompts

TWO_NODES = (
    TWO_DEVICES.replace("two-devices", "two-nodes")
    .replace("nodes: 1", "nodes: 2")
    .replace("accelerators_per_node: 2", "accelerators_per_node: 1")
    .replace("intra_node", "inter_node")
    + "network_interface: lo\n"
)


def same(engine, runner):
    found = differences(of_prompts(engine), of_prompts(runner))
    print(f"{len(found)} tokens: mean {mean(found):.1e}, max {max(found):.1e}")
    assert len(found) >= 500
    assert mean(found) < SAME
    assert max(found) < SAME_ONCE
    assert [answer.text for answer in engine] == [answer.text for answer in runner]


def talked_to_and_measured(commands):
    """By the name of the deployment, as people do it."""
    words = ("chat", NAME, "--json", "--max-tokens", 8)
    answers = commands.run(*words, input="Hi\nAnd again?\n", merged=False).stdout.splitlines()
    assert len(answers) == 2
    load = ("--sweep", "1,4", "--requests", 8, "--input-tokens", 16, "--output-tokens", 8)
    found = json.loads(commands.run("bench", NAME, "--json", *load, merged=False).stdout)
    assert len(found["points"]) == 2
    for point in found["points"]:
        (result,) = point["results"]
        assert (result["succeeded"], result["output_tokens"], result["counted"]) == (8, 64, True)


def test_what_serve_says_of_vllm(vllm_python, commands, checkpoint):
    with served(commands, checkpoint, vllm(vllm_python)) as server:
        assert set(server.phases) == {"spawn", "engine", "load", "cache", "server", "first answer"}
        assert "log-probabilities finite" in server.said
        found = commands.deployment()
        assert (found["state"], found["deployment"]["release"]) == ("ready", "0.32.0")
        asked = {"model": "tiny", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 4}
        server.post("/v1/chat/completions", **asked)
        while (found := commands.deployment()["status"])["generated"] in (None, 16):
            time.sleep(1)
        assert found["generated"] >= 20
        talked_to_and_measured(commands)


def test_what_serve_says_of_sglang(sglang_python, commands, checkpoint):
    with served(commands, checkpoint, sglang(sglang_python)) as server:
        assert {"spawn", "load", "warm-up", "first answer"} <= set(server.phases)
        assert commands.deployment()["deployment"]["release"] == "0.5.23"
        talked_to_and_measured(commands)


@pytest.mark.parametrize("size", ["tp", "pp"])
def test_vllm_on_two_devices(vllm_python, ask, checkpoint, two_devices, runner_answers, size):
    """Stages need the compiled form: eagerly, vLLM's CPU worker loses their tensors."""
    options = compiled_vllm(vllm_python) if size == "pp" else vllm(vllm_python)
    same(
        ask(checkpoint, [*options, *on_two(two_devices, **{size: 2})], of_completions),
        runner_answers,
    )


@pytest.mark.parametrize("size", ["tp", "pp"])
def test_sglang_on_two_devices(ask_sglang, checkpoint, two_devices, runner_answers, size):
    same(ask_sglang(checkpoint, *on_two(two_devices, **{size: 2})), runner_answers)


def test_vllm_with_drafts(ask_vllm, checkpoint, runner_answers):
    same(ask_vllm(checkpoint, "--mtp"), runner_answers)


def test_the_native_runner_on_two_ranks(ask, checkpoint, two_devices, runner_answers):
    same(ask(checkpoint, [*native(), *on_two(two_devices, tp=2)], of_completions), runner_answers)


def test_an_engine_that_is_healthy_and_fails_is_caught(
    vllm_python, commands, checkpoint, two_devices
):
    options = [*vllm(vllm_python), *on_two(two_devices, pp=2)]
    words = ["serve", checkpoint, *options, "--port", 0, "--context", "2K", "--name", "stages"]
    result = commands.run(*words, check=False)
    assert result.returncode == 7
    assert "EngineCore encountered an issue" in result.stdout
    assert commands.deployment("stages")["state"] == "failed"


def test_an_engine_that_is_healthy_and_wrong_is_caught_by_log_probabilities(
    vllm_python, commands, altered, prompts, dsdeploy
):
    """Plain rotary: vLLM's CPU kernels answer fluently, and wrongly."""
    checkpoint = altered(rope_scaling=None)
    with served(commands, checkpoint, vllm(vllm_python)) as server:
        wrong = prompts_of_vllm(server, prompts)
    found = differences(wrong, scored(dsdeploy, checkpoint, prompts))
    print(f"vLLM with plain rotary: mean {mean(found):.2f}")
    assert mean(found) > WRONG


@pytest.mark.parametrize("size", ["tp", "pp"])
def test_vllm_on_two_nodes(vllm_python, rendered, prompts, runner_answers, size):
    options = compiled_vllm(vllm_python) if size == "pp" else vllm(vllm_python)
    with rendered(options, size, "VLLM_CPU_OMP_THREADS_BIND") as server:
        same(of_completions(server, prompts), runner_answers)


def test_sglang_on_two_nodes(sglang_python, rendered, prompts, runner_answers):
    with rendered(sglang(sglang_python), "tp", "SGLANG_CPU_OMP_THREADS_BIND") as server:
        same(of_sglang(server, prompts), runner_answers)


@pytest.fixture
def rendered(commands, checkpoint, tmp_path):
    """What `render` writes for two nodes, run on this machine as two."""

    @contextmanager
    def run(options, size, cores):
        (tmp_path / "two.yaml").write_text(TWO_NODES)
        at = options.index("--engine-python")
        python, options = options[at + 1], options[:at] + options[at + 2 :]
        port = free_port()
        commands.run(
            "render", checkpoint, *options, "--profile", tmp_path / "two.yaml", f"--{size}", 2,
            "--target", "shell", "--address", "127.0.0.1", "--address", "127.0.0.1",
            "--out", tmp_path / "made", "--port", port, "--context", "2K", "--name", "tiny",
            "--engine-version", "0.32.0" if "vllm" in options else "0.5.23",
        )  # fmt: skip
        path = f"{os.path.dirname(python)}:{os.environ['PATH']}"
        _move_port(tmp_path / "made" / "start-node-1.sh", port)
        with ExitStack() as stack:
            nodes = [
                stack.enter_context(
                    started(
                        tmp_path / "made" / f"start-node-{rank}.sh",
                        tmp_path / "log",
                        {"PATH": path, cores: str(rank)},
                    )
                )
                for rank in range(2)
            ]
            url = f"http://127.0.0.1:{port}"
            wait(url, nodes, [tmp_path / "log"])
            yield Server(url, tmp_path, "", ())

    return run


def _move_port(script, port):
    """Every node of SGLang answers at the port; on one machine only one can have it."""
    script.write_text(script.read_text().replace(f"--port {port}", f"--port {free_port()}"))
