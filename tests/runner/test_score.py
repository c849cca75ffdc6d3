"""Scores, a layer of the model at a time: those of the engine, to the last bit of the logits."""

import json
import math
import os
import subprocess
import sys

import pytest

from dsdeploy.checkpoint.reader import open_checkpoint
from dsdeploy.runner.load import Loader, LoadOptions
from dsdeploy.runner.parallel import Group
from dsdeploy.runner.score import score
from dsdeploy.runner.weights import WeightSource

from .asking import Bench
from .driver import random_tokens

PROMPTS = [random_tokens(count, seed=count).tolist() for count in (2, 63, 64, 65, 600)]


def scores(folder, prompts, **options):
    source = WeightSource(open_checkpoint(folder), Group())
    options = LoadOptions(**options)
    return score(Loader(source, options, Group()), prompts)


@pytest.mark.parametrize("precision", ["fp8", "bf16"])
def test_scores_are_the_engines_log_probabilities_of_a_prompt(request, precision):
    folder = request.getfixturevalue(precision)
    bench = Bench(folder, mtp=False)
    for prompt, found in zip(PROMPTS, scores(folder, PROMPTS), strict=True):
        answer = bench.alone(prompt, max_tokens=0, prompt_logprobs=0)
        expected = [entry.logprob for entry in answer.prompt_logprobs]
        # Both take float32 logits to float64, and add up in another order there.
        assert found == pytest.approx(expected, rel=1e-13, abs=1e-13)
        assert len(found) == len(prompt) - 1


def test_a_prompt_scores_the_same_alone_and_among_others(bf16):
    together = scores(bf16, PROMPTS)
    assert [scores(bf16, [prompt])[0] for prompt in PROMPTS] == together


@pytest.mark.parametrize("precision", ["fp8", "bf16"])
def test_experts_streamed_from_the_disk_score_the_same(request, precision):
    folder = request.getfixturevalue(precision)
    expected = scores(folder, PROMPTS)
    for memory in (1 << 19, 1 << 24):
        assert scores(folder, PROMPTS, expert_memory=memory) == expected


# The command.


@pytest.fixture
def command(dsdeploy, bf16):
    return lambda *arguments: dsdeploy("score", bf16, *arguments)


def test_texts_and_tokens_get_the_same_numbers(command, bf16, tmp_path):
    tokens = Bench(bf16).tokenizer.encode("a\u2028b")
    source = tmp_path / "prompts"
    lines = [{"prompt": "a\u2028b"}, {"prompt": tokens}]
    source.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))
    by_file = json.loads(command("--input", source, "--json").stdout)["prompts"]
    (by_argument,) = json.loads(command("a\u2028b", "--json").stdout)["prompts"]
    assert by_file == [by_argument] * 2
    assert by_argument["tokens"] == tokens
    assert by_argument["logprobs"][0] is None
    assert by_argument["logprobs"][1:] == scores(bf16, [tokens])[0]


def test_several_ranks_share_the_work_and_one_speaks(dsdeploy, splittable):
    folder = splittable["bf16"]
    alone = json.loads(dsdeploy("score", folder, "a text", "--dtype", "float32", "--json").output)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    words = ["-m", "dsdeploy", "score", folder, "a text", "--dtype", "float32", "--json"]
    done = subprocess.run(
        [*torchrun, *words], capture_output=True, text=True, timeout=120,
        env=os.environ | {"GLOO_SOCKET_IFNAME": "lo"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (found,), (expected,) = json.loads(done.stdout)["prompts"], alone["prompts"]
    assert found["logprobs"][1:] == pytest.approx(expected["logprobs"][1:], abs=1e-4)


def test_people_get_a_table(command):
    title, heads, row = command("Hello").stdout.splitlines()
    assert "3 layers" in title
    assert heads.split() == ["prompt", "tokens", "log-probability", "negative", "mean"]
    number, tokens, total, mean = row.split()
    assert (number, tokens) == ("1", "5")
    assert math.isclose(float(total), -5 * float(mean), abs_tol=1e-3)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "is empty"),
        ('{"prompt": "ab"}\nnonsense\n', "line 2 holds no prompt"),
        ('{"prompt": [-1, 2]}\n', "line 1 holds no prompt"),
        ('{"prompt": "\\ud800"}\n', "line 1 holds no prompt"),
        ('{"text": "ab"}\n', "line 1 holds no prompt"),
        ('{"prompt": [1]}\n', "two tokens or more"),
        ('{"prompt": ""}\n', "two tokens or more"),
        ('{"prompt": [1, 264]}\n', "of the model's vocabulary"),
    ],
)
def test_a_file_without_prompts_is_refused_in_a_sentence(command, tmp_path, content, said):
    (tmp_path / "prompts").write_text(content)
    result = command("--input", tmp_path / "prompts")
    assert result.exit_code == 2
    assert said in result.stderr
    assert "fault of dsdeploy" not in result.stderr


def test_texts_or_a_file_must_be_given(command, tmp_path):
    (tmp_path / "prompts").write_text('{"prompt": "ab"}\n')
    for arguments in ((), ("a", "--input", tmp_path / "prompts")):
        result = command(*arguments)
        assert result.exit_code == 2
        assert "Give texts, or --input with a file of them." in result.stderr
