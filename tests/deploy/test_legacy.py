"""TensorRT-LLM's engines of January 2025: steps that run once, and a server that reads their end."""

import os
import subprocess

import pytest

from dsdeploy.deploy.doubts import doubts
from dsdeploy.deploy.render import TARGETS, Place, render
from dsdeploy.errors import UsageError
from dsdeploy.planning.planner import Sizes

from .launches import launched, shown

BF16 = "/models/DeepSeek-V3-bf16"
PROGRAM = '#!/bin/sh\necho "$(basename "$0") $*" >>"$LOG"\nexit "${STATUS:-0}"\n'


def legacy(machine="8xh200", release=None, wanted=None, precision="int8", **wish):
    wanted = {"weights": BF16} | (wanted or {})
    return launched("tensorrt-llm", machine, release, wanted, precision=precision, **wish)


def words(command):
    return [shown(word) for word in command]


@pytest.mark.parametrize(
    ("machine", "precision", "quantised"),
    [
        ("4x8xh100", "bf16", []),
        ("8xh200", "int8", ["--use_weight_only", "--weight_only_precision", "int8"]),
        ("8xh100", "int4", ["--use_weight_only", "--weight_only_precision", "int4"]),
    ],
)
def test_a_checkpoint_is_converted_built_and_served(machine, precision, quantised):
    launch = legacy(machine, precision=precision)
    convert, build = map(words, launch.prepare)
    assert convert[convert.index("--model_dir") + 1] == BF16
    assert [word for word in convert if "only" in word or word == precision] == quantised
    checkpoint = convert[convert.index("--output_dir") + 1]
    assert build[build.index("--checkpoint_dir") + 1] == checkpoint
    engine = build[build.index("--output_dir") + 1]
    serve = words(launch.head.processes[0].argv)
    at = serve.index("trtllm-serve")
    assert serve[at + 1 : at + 4] == [engine, "--tokenizer", BF16]
    assert len({argv[argv.index("--tp_size") + 1] for argv in (convert, serve)}) == 1
    assert all(
        engine.startswith(f"{mount.target}/") for node in launch.nodes for mount in node.mounts
    )


def test_it_says_what_speaks_against_it():
    notes = " ".join(legacy(precision="bf16", machine="4x8xh100").notes)
    assert "Legacy" in notes
    assert "reported broken" not in notes
    assert "reported broken" in " ".join(legacy(precision="int4").notes)


def test_a_step_that_is_done_is_not_done_again(tmp_path):
    programs, weights = tmp_path / "bin", tmp_path / "models" / "weights"
    for folder in (programs, weights):
        folder.mkdir(parents=True)
    for name in ("python3", "trtllm-build"):
        (programs / name).write_text(PROGRAM)
        (programs / name).chmod(0o755)
    launch = legacy(wanted={"weights": str(weights)})
    engine = words(launch.prepare[0])[4].rpartition("/")[0]
    os.makedirs(engine)
    log = tmp_path / "log"
    path = f"{programs}:{os.environ['PATH']}"

    def prepare(status):
        environment = {"PATH": path, "LOG": str(log), "STATUS": status}
        return [subprocess.run(words(one), env=environment).returncode for one in launch.prepare]

    assert prepare("3") == [3, 3]
    assert prepare("0") == prepare("0") == [0, 0]
    called = [line.split()[0] for line in log.read_text().splitlines()]
    assert called == ["python3", "trtllm-build"] * 2


@pytest.mark.parametrize("target", TARGETS)
def test_every_target_runs_the_steps_first(target):
    text = "".join(file.content for file in render(legacy(), target, Place(), ("",)))
    assert 0 < text.index("convert_checkpoint.py") < text.index("trtllm-build")
    assert "trtllm-serve" in text


def test_no_catalogue_knows_its_flags():
    assert doubts(legacy()) == []


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"release": "1.2.0"}, "TensorRT-LLM 1.2.0 does not run DeepSeek-V3 in INT8"),
        ({"wanted": {"weights": "deepseek-ai/DeepSeek-V3"}}, "reads a folder"),
        ({"wanted": {"weights": "/weights"}}, "a folder deeper"),
        ({"wanted": {"tools": True}}, "neither calls of tools nor thoughts"),
        ({"mtp": True}, "neither MTP nor an FP8 cache"),
        ({"cache_format": "fp8"}, "neither MTP nor an FP8 cache"),
        ({"sizes": Sizes(data=8)}, "no DP attention"),
    ],
)
def test_what_it_cannot_do(given, sentence):
    with pytest.raises(UsageError) as error:
        legacy(**given)
    assert sentence in str(error.value)
