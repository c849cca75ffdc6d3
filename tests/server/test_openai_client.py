"""OpenAI's own client, sync and async, against the server: what it reads, and what it raises."""

import asyncio

import httpx
import openai
import pytest
from openai import AsyncOpenAI, OpenAI

from ..waiting import until
from .tools import BABBLE, strictly

CHAT = [{"role": "user", "content": "Hello"}]
BABBLING = {
    "temperature": BABBLE["temperature"],
    "logit_bias": BABBLE["logit_bias"],
    "extra_body": {"ignore_eos": True},
    "max_tokens": 20,
    "seed": 3,
}


@pytest.fixture(scope="module")
def client(server):
    with OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
        yield client


@pytest.fixture
def run(server):
    """Run a coroutine that is given an asynchronous client."""

    def within(function):
        async def main():
            url = f"{server.url}/v1"
            async with AsyncOpenAI(base_url=url, api_key="none", max_retries=0) as client:
                return await function(client)

        return asyncio.run(main())

    return within


def test_models(client):
    (model,) = client.models.list()
    strictly(type(model), model.model_dump())
    assert (model.id, model.object) == ("tiny", "model")


def test_a_model_by_its_name(client):
    assert client.models.retrieve("tiny") == next(iter(client.models.list()))
    with pytest.raises(openai.NotFoundError) as error:
        client.models.retrieve("gpt-4")
    assert error.value.code == "model_not_found"


def test_a_completion(client):
    found = client.completions.create(model="tiny", prompt="a", logprobs=2, n=2, **BABBLING)
    strictly(type(found), found.model_dump())
    assert [choice.index for choice in found.choices] == [0, 1]
    for choice in found.choices:
        assert len(choice.text) == 20
        assert choice.text == "".join(choice.logprobs.tokens)
        assert choice.finish_reason == "length"
    assert found.usage.completion_tokens == 40
    assert found.usage.total_tokens == found.usage.prompt_tokens + 40


def test_a_chat(client):
    found = client.chat.completions.create(
        model="tiny", messages=CHAT, logprobs=True, top_logprobs=2, **BABBLING
    )
    strictly(type(found), found.model_dump())
    (choice,) = found.choices
    assert choice.message.role == "assistant"
    assert choice.message.content == "".join(e.token for e in choice.logprobs.content)
    assert {len(entry.top_logprobs) for entry in choice.logprobs.content} == {2}


@pytest.mark.parametrize("n", [1, 3])
def test_streams_give_the_same_text(client, n):
    asked = {"model": "tiny", "n": n, **BABBLING}
    usage = {"stream": True, "stream_options": {"include_usage": True}}
    whole = client.completions.create(prompt="a", **asked)
    texts = [""] * n
    *pieces, last = client.completions.create(prompt="a", **asked, **usage)
    for piece in pieces:
        texts[piece.choices[0].index] += piece.choices[0].text
    assert texts == [choice.text for choice in whole.choices]
    assert last.usage == whole.usage or last.usage.completion_tokens == 20 * n
    whole = client.chat.completions.create(messages=CHAT, **asked)
    texts = [""] * n
    *pieces, last = client.chat.completions.create(messages=CHAT, **asked, **usage)
    for piece in pieces:
        texts[piece.choices[0].index] += piece.choices[0].delta.content or ""
    assert texts == [choice.message.content for choice in whole.choices]
    assert last.usage.completion_tokens == 20 * n


def test_the_client_s_own_accumulator_puts_a_chat_together(client):
    """It takes only answers that have ended by themselves, or at a stop string."""
    asked = {"model": "tiny", "messages": CHAT, "stop": list("abcd"), **BABBLING}
    whole = client.chat.completions.create(**asked).choices[0]
    assert whole.finish_reason == "stop"
    with client.chat.completions.stream(**asked) as stream:
        found = stream.get_final_completion().choices[0]
    assert found.message.content == whole.message.content
    assert found.finish_reason == whole.finish_reason


def test_a_stop_string_and_a_seed(client):
    whole = client.completions.create(model="tiny", prompt="a", **BABBLING).choices[0].text
    stopped = client.completions.create(model="tiny", prompt="a", stop=whole[9:11], **BABBLING)
    assert stopped.choices[0].text == whole[: whole.index(whole[9:11])]
    assert stopped.choices[0].finish_reason == "stop"
    again = client.completions.create(model="tiny", prompt="a", **BABBLING).choices[0].text
    other = client.completions.create(model="tiny", prompt="a", **(BABBLING | {"seed": 4}))
    assert again == whole != other.choices[0].text


ERRORS = {
    "a wrong field": (openai.BadRequestError, {"temperature": -1}, None, "temperature"),
    "an unknown model": (openai.NotFoundError, {"model": "gpt-4"}, "model_not_found", "model"),
    "too long": (
        openai.BadRequestError,
        {"max_tokens": 9999},
        "context_length_exceeded",
        "messages",
    ),
}


@pytest.mark.parametrize(("kind", "fields", "code", "param"), ERRORS.values(), ids=ERRORS)
@pytest.mark.parametrize("stream", [False, True])
def test_errors_have_the_clients_classes(client, kind, fields, code, param, stream):
    """Those that show before an answer begins have a status, also when it was to be a stream."""
    with pytest.raises(kind) as error:
        client.chat.completions.create(
            **{"model": "tiny", "messages": CHAT, "stream": stream, **fields}
        )
    assert error.value.type == "invalid_request_error"
    assert error.value.code == code
    assert error.value.param == param
    assert error.value.request_id.startswith("req-")


def test_a_wrong_key_and_a_full_queue_have_theirs(locked):
    with OpenAI(base_url=f"{locked.url}/v1", api_key="wrong", max_retries=0) as client:
        with pytest.raises(openai.AuthenticationError) as error:
            client.models.list()
        assert error.value.code == "invalid_api_key"
        known = client.with_options(api_key=locked.key)
        assert [model.id for model in known.models.list()] == ["tiny"]
        two = {"model": "tiny", "prompt": ["a", "b"]}
        long = BABBLING | {"max_tokens": 4000}
        with known.completions.create(**two, **long, stream=True) as running:
            next(iter(running))
            with pytest.raises(openai.RateLimitError) as error:
                known.completions.create(**two, **BABBLING)
        assert error.value.code == "queue_full"


def test_many_at_once_of_an_asynchronous_client_are_each_answered_their_own(run):
    async def ask_all(client):
        one = client.completions.create
        asked = [BABBLING | {"seed": seed} for seed in range(24)]
        whole = await asyncio.gather(*(one(model="tiny", prompt="a", **a) for a in asked))
        alone = [await one(model="tiny", prompt="a", **a) for a in asked]
        return whole, alone

    whole, alone = run(ask_all)
    assert [answer.choices[0].text for answer in whole] == [a.choices[0].text for a in alone]


def test_asynchronous_streams_side_by_side(run):
    async def read(client, seed):
        stream = await client.chat.completions.create(
            model="tiny", messages=CHAT, stream=True, **(BABBLING | {"seed": seed})
        )
        return "".join([p.choices[0].delta.content or "" async for p in stream])

    async def read_all(client):
        together = await asyncio.gather(*(read(client, seed) for seed in range(12)))
        return together, [await read(client, seed) for seed in range(12)]

    together, alone = run(read_all)
    assert together == alone
    assert len(set(together)) == 12


LONG = {"model": "tiny", "max_tokens": 1000, "temperature": 0, "extra_body": {"ignore_eos": True}}


def test_leaving_a_stream_frees_its_place(client, server):
    before = server.metrics()["generation_tokens_total"]
    with client.completions.create(prompt="a", stream=True, n=8, **LONG) as stream:
        next(iter(stream))
        assert server.metrics()["num_requests_running"] == 8
    until(server.is_idle, seconds=5)
    assert server.metrics()["generation_tokens_total"] < before + 8000


def test_leaving_a_stream_of_an_asynchronous_client_frees_its_place(run, server):
    async def leave(client):
        stream = await client.completions.create(prompt="a", stream=True, n=3, **LONG)
        await anext(aiter(stream))
        await stream.close()

    run(leave)
    until(server.is_idle, seconds=5)


def test_leaving_before_a_whole_answer_frees_its_place(server):
    before = server.metrics()["generation_tokens_total"]
    body = {"prompt": "a", "n": 8, "max_tokens": 1000, "temperature": 0, "ignore_eos": True}
    with pytest.raises(httpx.ReadTimeout):
        server.post("/v1/completions", body, timeout=0.1)
    until(server.is_idle, seconds=5)
    assert server.metrics()["generation_tokens_total"] < before + 8000
