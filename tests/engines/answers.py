"""The same questions to the runner and, over HTTP, to engines; the answers in one form."""

import json
from dataclasses import dataclass
from tempfile import NamedTemporaryFile

import pytest

from dsdeploy.runner.request import Request, Sampling
from dsdeploy.runner.server.answers import Choice
from dsdeploy.runner.start import Settings, start

from .servers import NAME

CONTINUATION = 24
"""Tokens after each prompt, greedily."""


@dataclass(frozen=True)
class Answer:
    """Log-probabilities of a prompt's tokens but the first, and what comes after it."""

    prompt: list[float]
    text: str
    logprobs: list[float]
    tokens: list[int] | None
    """None where the endpoint does not tell."""


def of_completions(server, prompts):
    """vLLM, and whoever speaks as it does. Both ways of asking for a prompt's log-probabilities."""
    common = {"model": NAME, "prompt": prompts, "temperature": 0, "logprobs": 0}
    asked = {"max_tokens": CONTINUATION, "ignore_eos": True, "prompt_logprobs": 0}
    answer = server.post("/v1/completions", **common, **asked, return_token_ids=True)
    echo = server.post("/v1/completions", **common, echo=True, max_tokens=0)
    pairs = zip(prompts, answer["choices"], echo["choices"], strict=True)
    return [_of_choices(*three) for three in pairs]


def prompts_of_vllm(server, prompts):
    """The log-probabilities of prompts alone, asked for once: a wrong engine may not agree with
    itself."""
    asked = {"max_tokens": 1, "temperature": 0, "prompt_logprobs": 0}
    answer = server.post("/v1/completions", model=NAME, prompt=prompts, **asked)
    return [_of_prompt(*pair) for pair in zip(prompts, answer["choices"], strict=True)]


def _of_prompt(prompt, choice):
    first, *others = choice["prompt_logprobs"]
    assert first is None
    return [at[str(token)]["logprob"] for token, at in zip(prompt[1:], others, strict=True)]


def _of_choices(prompt, choice, echoed):
    numbers = _of_prompt(prompt, choice)
    nothing, *again = echoed["logprobs"]["token_logprobs"]
    assert nothing is None
    # Another batch, whose products may be summed in another order.
    assert again == pytest.approx(numbers, abs=1e-4)
    logprobs = choice["logprobs"]["token_logprobs"]
    return Answer(numbers, choice["text"], logprobs, choice.get("token_ids"))


def of_sglang(server, prompts):
    sampling = {"temperature": 0, "max_new_tokens": CONTINUATION, "ignore_eos": True}
    asked = {"sampling_params": sampling, "return_logprob": True, "logprob_start_len": 0}
    found = []
    for answer in server.post("/generate", input_ids=prompts, **asked):
        (first, *_), *others = answer["meta_info"]["input_token_logprobs"]
        assert first is None
        prompt, (logprobs, tokens) = [at[0] for at in others], _columns(answer)
        found.append(Answer(prompt, answer["text"], logprobs, tokens))
    return found


def _columns(answer):
    logprobs, tokens, _ = zip(*answer["meta_info"]["output_token_logprobs"], strict=True)
    return list(logprobs), list(tokens)


def of_runner(dsdeploy, checkpoint, prompts):
    """The prompts by `dsdeploy score`, the rest by the engine that `generate` runs."""
    scores, choices = scored(dsdeploy, checkpoint, prompts), _continued(checkpoint, prompts)
    return [
        Answer(score, choice.text, [found.logprob for found in choice.logprobs], choice.tokens)
        for score, choice in zip(scores, choices, strict=True)
    ]


def scored(dsdeploy, checkpoint, prompts):
    with NamedTemporaryFile("w", suffix=".jsonl") as file:
        file.writelines(json.dumps({"prompt": prompt}) + "\n" for prompt in prompts)
        file.flush()
        asked = ("--input", file.name, "--dtype", "float32", "--json")
        result = dsdeploy("score", checkpoint, *asked)
    assert result.exit_code == 0, result.output
    return [entry["logprobs"][1:] for entry in json.loads(result.stdout)["prompts"]]


def _continued(checkpoint, prompts):
    runner = start(checkpoint, Settings(dtype="float32"), lambda nbytes: lambda *done: None)
    sampling = Sampling(max_tokens=CONTINUATION, temperature=0, ignore_eos=True, logprobs=0)
    choices = [Choice(prompt) for prompt in prompts]
    for choice in choices:
        runner.engine.add(Request(tuple(choice.prompt), sampling, choice.add))
    while runner.engine.busy:
        runner.engine.step()
    return choices
