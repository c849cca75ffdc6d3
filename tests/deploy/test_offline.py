"""LMDeploy's pipeline: a file of requests, answered without a server.

The real engine needs CUDA. Here the rendered script runs with a stand-in that has the same names and
arguments; tests/engines/test_pipeline.py holds these against the real one's code.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from dsdeploy.deploy.flags import load_catalogue
from dsdeploy.deploy.render import Place, render
from dsdeploy.errors import UsageError
from dsdeploy.planning.planner import Sizes

from .launches import launched, releases

STANDINS = Path(__file__).parent / "standins"
OFFLINE = ("render", "DeepSeek-V3", "--profile", "8xh200", "--offline")


def offline(machine="8xh200", release=None, wanted=None, **wish):
    return launched("lmdeploy", machine, release, {"offline": True} | (wanted or {}), **wish)


def chat(text, **fields):
    return {"messages": [{"role": "user", "content": text}], **fields}


def start(folder, *command):
    return subprocess.run(
        command or [sys.executable, "pipeline.py"], cwd=folder, capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": str(STANDINS)},
    )  # fmt: skip


@pytest.fixture
def run(tmp_path):
    """Writes requests, starts the rendered script, and gives its end and the answers."""
    for file in offline(mtp=True).head.processes[0].files:
        (tmp_path / file.path).write_text(file.content)

    def answered(*requests):
        lines = [line if isinstance(line, str) else json.dumps(line) for line in requests]
        (tmp_path / "prompts.jsonl").write_text("\n".join(lines) + "\n")
        ended = start(tmp_path)
        answers = tmp_path / "answers.jsonl"
        lines = answers.read_text().splitlines() if answers.exists() else []
        return ended, [json.loads(line) for line in lines]

    return answered


def test_every_request_has_one_answer(run):
    ended, answers = run(
        chat("hello", custom_id="a", temperature=0.7, stop="."), {"prompt": "once", "max_tokens": 4}
    )
    assert ended.returncode == 0, ended.stderr
    assert "2 answers, 0 of them errors" in ended.stderr
    assert answers == [
        {
            "line": 1, "custom_id": "a",
            "choices": [{"index": 0, "message": {"role": "assistant", "content": "HELLO"},
                         "finish_reason": "stop"}],
            "usage": {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5},
        },
        {
            "line": 2, "custom_id": None,
            "choices": [{"index": 0, "text": "ONCE", "finish_reason": "stop"}],
            "usage": {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5},
        },
    ]  # fmt: skip


def test_the_engine_is_made_as_planned(run):
    ended, _ = run(chat("hello"))
    assert "tp=8, session_len=8192, max_batch_size=8" in ended.stdout
    assert "method='deepseek_mtp', num_speculative_tokens=1" in ended.stdout


def test_after_a_kill_the_rest_is_answered(run, tmp_path):
    ended, answers = run(chat("first"), chat("die"), chat("last"))
    assert ended.returncode == -9
    assert [answer["line"] for answer in answers] == [3]
    with (tmp_path / "answers.jsonl").open("a") as cut_off:
        cut_off.write('{"line": 1, "custom')
    ended, answers = run(chat("first"), chat("second"), chat("last"))
    assert ended.returncode == 0, ended.stderr
    assert [answer["line"] for answer in answers] == [3, 2, 1]


def test_when_all_is_answered_nothing_is_loaded(run):
    run(chat("hello"))
    ended, answers = run(chat("hello"))
    assert ended.returncode == 0
    assert ended.stdout == ""
    assert len(answers) == 1


def test_an_error_is_an_answer_and_told(run):
    ended, answers = run(chat("fail"), chat("hello"))
    assert ended.returncode == 1
    assert "The first error is of line 1: too long" in ended.stderr
    assert answers[-1] == {"line": 1, "custom_id": None, "error": {"message": "too long"}}


def test_a_request_that_was_lost_is_told(run):
    ended, _ = run(chat("hello"), chat("vanish"))
    assert ended.returncode == 1
    assert "1 requests were not answered" in ended.stderr


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("{", "Line 2 is not a JSON object"),
        ("[]", "Line 2 is not a JSON object"),
        ("", "Line 2 is not a JSON object"),
        ({"messages": []}, "needs a list `messages` or a text `prompt`"),
        (chat("hi", prompt="hi"), "needs a list `messages` or a text `prompt`"),
        (chat("hi", n=2), "Line 2: n is not known here"),
        (chat("hi", temperature=3), "Line 2 cannot be sampled so"),
    ],
)
def test_a_bad_request_is_told_before_the_model_is_loaded(run, line, sentence):
    ended, answers = run(chat("hello"), line)
    assert ended.returncode == 1
    assert sentence in ended.stderr
    assert (ended.stdout, answers) == ("", [])


def test_a_file_of_something_else_is_kept(run, tmp_path):
    (tmp_path / "answers.jsonl").write_text('{"mine": 1}\n{"cut off')
    (tmp_path / "prompts.jsonl").write_text(json.dumps(chat("hello")))
    ended = start(tmp_path)
    assert "holds no answers of this script" in ended.stderr
    assert (tmp_path / "answers.jsonl").read_text() == '{"mine": 1}\n{"cut off'


def test_every_setting_is_a_flag_of_its_release_too():
    for release in releases("lmdeploy"):
        launch = offline("2x8xh100", release, sizes=Sizes(data=1))
        settings = json.loads(launch.head.processes[0].files[1].content)
        flags = load_catalogue("dsdeploy.backends.lmdeploy", release).catalogue.flags
        asked = {"--" + name.replace("_", "-") for name in settings["engine"]}
        assert asked <= set(flags), release


def test_the_other_nodes_end_with_the_first():
    launch = offline("2x8xh100")
    follower = launch.nodes[1].processes[0]
    assert "ray start --block" in follower.argv[2]
    assert "ray start --head" in launch.head.processes[0].argv[2]
    settings = json.loads(launch.head.processes[0].files[1].content)
    assert settings["engine"]["tp"] == 16


@pytest.mark.parametrize(
    ("wanted", "wish", "sentence"),
    [
        ({"tools": True}, {}, "neither calls of tools nor thoughts"),
        ({"extra_arguments": ("--tp", "4")}, {}, "takes no arguments"),
        ({}, {"sizes": Sizes(data=8)}, "no DP attention"),
    ],
)
def test_what_a_pipeline_cannot_do(wanted, wish, sentence):
    with pytest.raises(UsageError) as error:
        offline(wanted=wanted, **wish)
    assert sentence in str(error.value)


@pytest.mark.parametrize("target", ["shell", "docker", "slurm"])
def test_targets_that_run_to_an_end_have_the_script(target):
    files = render(offline(), target, Place(), ("",))
    assert any("stream_infer" in file.content for file in files)


@pytest.mark.parametrize("target", ["compose", "kubernetes", "systemd"])
def test_targets_that_start_anew_what_has_ended_refuse(dsdeploy, target):
    result = dsdeploy(*OFFLINE, "--backend", "lmdeploy", "--target", target, "--stdout")
    assert result.exit_code == 2
    assert f"the target {target} keeps servers running" in result.stderr


@pytest.mark.parametrize("backend", ["vllm", "sglang", "tensorrt-llm"])
def test_engines_that_only_serve_refuse(dsdeploy, backend):
    result = dsdeploy(*OFFLINE, "--backend", backend, "--target", "shell", "--stdout")
    assert result.exit_code == 2
    assert f"{backend} only serves" in result.stderr
    assert "--backend lmdeploy" in result.stderr


def test_rendered_and_run_by_its_own_shell_script(dsdeploy, tmp_path):
    """As a user does: render, put requests beside the script, start."""
    options = ("--backend", "lmdeploy", "--target", "shell", "--out", tmp_path)
    assert dsdeploy(*OFFLINE, *options).exit_code == 0
    folder = tmp_path / "node-0" / "pipeline"
    folder.mkdir(parents=True)
    (folder / "prompts.jsonl").write_text(json.dumps(chat("hello")) + "\n")
    ended = start(tmp_path, "bash", "start.sh")
    assert ended.returncode == 0, ended.stderr
    [answer] = (folder / "answers.jsonl").read_text().splitlines()
    assert '"HELLO"' in answer
