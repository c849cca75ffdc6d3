"""The native runner, which other engines are checked against, against real ones: in float32.

Not part of the ordinary suite. An environment for each engine is made apart, and named so:

    DSDEPLOY_VLLM_PYTHON=venv/bin/python DSDEPLOY_SGLANG_PYTHON=... pytest tests/engines

Each engine takes a minute to start on two cores, and 3 GB of memory. With `-rP`, pytest shows the
differences.
"""

import pytest

from .answers import scored

SAME = 1e-4
"""Mean difference of two right float32 runs: about 5e-6. That of a wrong one: 0.07 and more."""
SAME_ONCE = 1e-3
"""Of one token: a fault at the end of a page, say, would not show in the mean."""
WRONG = 0.05


def differences(ours, theirs):
    """Of the log-probability of each token, prompt after prompt."""
    return [
        abs(one - other)
        for prompt, same_prompt in zip(ours, theirs, strict=True)
        for one, other in zip(prompt, same_prompt, strict=True)
    ]


def mean(values):
    return sum(values) / len(values)


def of_prompts(answers):
    return [answer.prompt for answer in answers]


def all_logprobs(answers):
    return [answer.prompt + answer.logprobs for answer in answers]


# Engines stand first among the arguments: where they are missing, nothing else is made.


def test_an_engine_says_what_the_runner_says(engine_answers, runner_answers):
    found = differences(of_prompts(engine_answers), of_prompts(runner_answers))
    print(f"{len(found)} tokens of prompts: mean {mean(found):.1e}, max {max(found):.1e}")
    assert len(found) >= 500
    assert mean(found) < SAME
    assert max(found) < SAME_ONCE


def test_an_engine_goes_on_as_the_runner_does(engine_answers, runner_answers):
    for theirs, ours in zip(engine_answers, runner_answers, strict=True):
        assert len(theirs.tokens) == 24
        assert theirs.tokens == ours.tokens
        assert theirs.text == ours.text
    found = differences(all_logprobs(engine_answers), all_logprobs(runner_answers))
    print(f"with what follows: mean {mean(found):.1e}, max {max(found):.1e}")
    assert max(found) < SAME_ONCE


def test_our_server_answers_as_vllm_does(vllm_answers, server_answers):
    """One client reads both."""
    found = differences(all_logprobs(server_answers), all_logprobs(vllm_answers))
    print(f"server and vLLM: {len(found)} tokens, mean {mean(found):.1e}, max {max(found):.1e}")
    assert mean(found) < SAME
    assert max(found) < SAME_ONCE
    assert [answer.text for answer in server_answers] == [answer.text for answer in vllm_answers]


def test_an_engine_with_a_wrong_config_is_found_out(ask_vllm, altered, runner_answers):
    """It starts, says that it is healthy, and answers."""
    wrong = ask_vllm(altered(routed_scaling_factor=1.0))
    found = differences(of_prompts(runner_answers), of_prompts(wrong))
    print(f"vLLM, scaled wrongly: mean {mean(found):.2f}, max {max(found):.2f}")
    assert mean(found) > WRONG


YARN = {
    "type": "yarn",
    "factor": 40,
    "original_max_position_embeddings": 4096,
    "beta_fast": 32,
    "beta_slow": 1,
    "mscale": 1.0,
    "mscale_all_dim": 1.0,
}


@pytest.mark.parametrize(
    "fields",
    [
        {"routed_scaling_factor": 2.0},
        {"norm_topk_prob": False},
        {"num_experts_per_tok": 3},
        {"n_group": 8},
        {"topk_group": 4},
        {"rms_norm_eps": 1e-2},
        {"rope_theta": 50000},
        {"rope_scaling": None},
        {"rope_scaling": YARN | {"factor": 4}},
        {"rope_scaling": YARN | {"original_max_position_embeddings": 256}},
        {"rope_scaling": YARN | {"beta_fast": 4}},
        {"rope_scaling": YARN | {"mscale_all_dim": 0}},
    ],
    ids=str,
)
def test_every_part_of_the_config_shows(vllm_answers, dsdeploy, altered, prompts, fields):
    """The other way round, which needs no start of an engine: the runner has the wrong config."""
    wrong = scored(dsdeploy, altered(**fields), prompts)
    found = differences(wrong, of_prompts(vllm_answers))
    print(f"mean {mean(found):.2f}")
    assert mean(found) > WRONG
