"""Bodies that nobody would write, by the thousand, against every route that takes one: the answer is
JSON in OpenAI's shape, never a 5xx, and the server lives on."""

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ..waiting import until
from .tools import events, is_error, strictly

pytestmark = pytest.mark.usefixtures("alive_after")

wild = settings(
    max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None
)

# All of JSON, with the odd numbers and texts that parsers and templates trip over.
odd_texts = st.one_of(
    st.text(max_size=20),
    st.sampled_from(
        [
            "",
            "\0",
            "\ud800",
            "\u2028",
            "é€😀",
            "{{ 1 }}",
            "{% for",
            "<｜User｜>",
            "'\"\\",
            "a" * 5000,
        ]
    ),
)
odd_numbers = st.one_of(
    st.integers(-3, 300),
    st.sampled_from(
        [2**31, 2**63, -(2**63), 2**64, 10**400, 1e-320, 5e-324, 1e308, 1e999, 0.5, -0.0]
    ),
    st.floats(allow_nan=False, allow_infinity=False),
)
scalars = st.one_of(st.none(), st.booleans(), odd_numbers, odd_texts)
anything = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(odd_texts, inner, max_size=5),
    max_leaves=12,
)


def often(strategy):
    """Mostly what is expected, so that what is not comes deeper."""
    return st.one_of(strategy, strategy, strategy, anything)


token = st.one_of(*[st.integers(0, 263)] * 5, st.sampled_from([264, 999_999, 2**31 - 1]))
small = st.integers(0, 8)
sampling = {
    "model": often(st.sampled_from(["tiny", None])),
    "n": often(st.integers(1, 3)),
    "stream": often(st.booleans()),
    "stream_options": often(st.fixed_dictionaries({"include_usage": st.booleans()})),
    "temperature": often(st.floats(0, 100)),
    "top_p": often(st.floats(0, 1)),
    "top_k": often(st.integers(-1, 300)),
    "min_p": often(st.floats(0, 1)),
    "presence_penalty": often(st.floats(-2, 2)),
    "frequency_penalty": often(st.floats(-2, 2)),
    "repetition_penalty": often(st.floats(0, 100)),
    "logit_bias": often(st.dictionaries(token.map(str), st.floats(-100, 100), max_size=5)),
    "seed": often(st.integers(-(2**63), 2**64)),
    "stop": often(odd_texts | st.lists(odd_texts, max_size=4)),
    "stop_token_ids": often(st.lists(token, max_size=4)),
    "min_tokens": often(small),
    "ignore_eos": often(st.booleans()),
    "skip_special_tokens": often(st.booleans()),
    "prompt_logprobs": often(small),
    "return_token_ids": often(st.booleans()),
    "user": anything,
    "tools": anything,
}
# Few tokens, or a limit would be reached by patience alone.
most = often(small).map(lambda value: 8 if value is None else value)
completions = st.fixed_dictionaries(
    {
        "prompt": often(
            odd_texts
            | st.lists(token, max_size=5)
            | st.lists(odd_texts, max_size=3)
            | st.lists(st.lists(token, max_size=3), max_size=3)
        ),
    },
    optional=sampling
    | {
        "max_tokens": most,
        "echo": often(st.booleans()),
        "logprobs": often(small),
        "best_of": often(st.integers(1, 2)),
        "suffix": anything,
        "add_special_tokens": often(st.booleans()),
    },
)
messages = often(
    st.lists(
        often(
            st.fixed_dictionaries(
                {
                    "role": often(st.sampled_from(["user", "system", "assistant"])),
                    "content": often(
                        odd_texts
                        | st.lists(
                            st.fixed_dictionaries({"type": st.just("text"), "text": odd_texts})
                        )
                    ),
                },
                optional={"name": anything, "tool_calls": anything, "x": anything},
            )
        ),
        max_size=4,
    )
)
chats = st.fixed_dictionaries(
    {"messages": messages, "max_tokens": most},
    optional=sampling
    | {
        "max_completion_tokens": most,
        "logprobs": often(st.booleans()),
        "top_logprobs": often(small),
        "chat_template_kwargs": often(
            st.dictionaries(st.sampled_from(["bos_token", "messages", "x", "self"]), anything)
        ),
        "add_generation_prompt": often(st.booleans()),
        "response_format": anything,
    },
)
BODIES = {
    "/v1/completions": completions,
    "/v1/chat/completions": chats,
    "/tokenize": st.fixed_dictionaries(
        {},
        optional={"prompt": often(odd_texts), "messages": messages, "add_special_tokens": anything},
    ),
    "/detokenize": st.fixed_dictionaries({"tokens": often(st.lists(often(st.integers(0, 2**31))))}),
}


@pytest.fixture
def alive_after(server):
    yield
    assert server.process.poll() is None
    until(server.is_idle)
    assert len(server.complete("a", max_tokens=3, ignore_eos=True)["text"]) >= 0


def send(server, path, body):
    """As JSON, with numbers beyond a float's range as they are written by hand."""
    content = json.dumps(body).replace("Infinity", "1e999")
    headers = {"content-type": "application/json"}
    return server.client.post(path, content=content, headers=headers)


def check(answer, path, body):
    if answer.status_code >= 400:
        assert answer.status_code in (400, 404, 429), answer.text
        is_error(answer, answer.status_code, answer.json()["error"]["code"])
        return
    assert answer.status_code == 200
    if path.startswith("/v1") and body.get("stream"):
        assert all(piece["choices"] or piece["usage"] for piece in events(answer))
        return
    document = answer.json()
    if path.startswith("/v1"):
        strictly(path, document)
        for choice in document["choices"]:
            assert choice["finish_reason"] in ("stop", "length")
    elif path == "/tokenize":
        assert document["count"] == len(document["tokens"])
    else:
        assert isinstance(document["prompt"], str)


@pytest.mark.parametrize("path", BODIES)
@wild
@given(data=st.data())
def test_a_body_with_hostile_fields_is_answered_or_refused(server, path, data):
    body = data.draw(BODIES[path])
    check(send(server, path, body), path, body)


@pytest.mark.parametrize("path", BODIES)
@wild
@given(body=anything)
def test_any_json_is_refused_in_the_same_shape(server, path, body):
    answer = send(server, path, body)
    if answer.status_code != 200:
        is_error(answer, 400, answer.json()["error"]["code"])


@pytest.mark.parametrize("path", BODIES)
@wild
@given(content=st.binary(max_size=100))
def test_any_bytes_are_refused_in_the_same_shape(server, path, content):
    headers = {"content-type": "application/json"}
    answer = server.client.post(path, content=content, headers=headers)
    is_error(answer, 400, answer.json()["error"]["code"])
