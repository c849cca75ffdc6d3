"""Every route, every kind of error, and every field that changes an answer."""

import http.client
import json
import math
import re
import socket
import statistics
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import pytest
from openai.types import Completion, Model
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from ..waiting import until
from .tools import BABBLE, END, LETTERS, events, is_error, is_error_body, strictly

GREEDY = {"temperature": 0, "ignore_eos": True}
CHAT = [{"role": "user", "content": "Hello"}]


def chat(server, messages=CHAT, **fields):
    answer = server.post("/v1/chat/completions", {"messages": messages, **fields})
    assert answer.status_code == 200, answer.text
    return answer.json()


# Routes.


def test_the_page_may_load_nothing_from_elsewhere(server):
    answer = server.client.get("/")
    assert answer.status_code == 200
    assert "<html" in answer.text
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "connect-src 'self'" in policy
    assert "frame-ancestors 'none'" in policy
    assert answer.headers["x-content-type-options"] == "nosniff"


def test_what_is_served_here(server):
    (entry,) = server.client.get("/v1/models").json()["data"]
    assert strictly(Model, entry).id == "tiny"
    assert entry["max_model_len"] == 1024
    assert server.client.get("/v1/models/tiny").json() == entry
    for name in ("", "other", "a/b", "tiny/"):
        is_error(server.client.get(f"/v1/models/{name}"), 404, "model_not_found", "model")
    facts = server.client.get("/facts.json").json()
    assert (facts["layers"], facts["experts"], facts["context"]) == (2, 4, 1024)
    assert server.client.get("/version").json() == {"version": facts["version"]}
    assert server.client.get("/health").content == b""


@pytest.mark.parametrize("path", ["/", "/health", "/metrics", "/version", "/v1/models"])
def test_head_is_get_without_a_body(server, path):
    answer, whole = server.client.head(path), server.client.get(path)
    assert answer.status_code == whole.status_code == 200
    assert answer.content == b""
    assert answer.headers.get("content-type") == whole.headers.get("content-type")


def test_every_answer_has_a_name_of_its_own(server):
    body = {"prompt": "a", "max_tokens": 2}
    answers = [
        server.client.get("/health"),
        server.client.get("/nowhere"),
        server.client.put("/health"),
        server.post("/v1/completions", body),
        server.post("/v1/completions", {**body, "stream": True}),
        server.post("/v1/completions", {}),
        server.post("/v1/completions", {**body, "model": "other"}),
    ]
    assert [answer.status_code for answer in answers] == [200, 404, 405, 200, 200, 400, 404]
    names = {answer.headers["x-request-id"] for answer in answers}
    assert len(names) == len(answers)


def test_small_answers_on_one_connection_come_at_once(server):
    """Nagle's algorithm would hold back each body until its head is acknowledged: for 40 ms."""
    seconds = [server.client.get("/v1/models").elapsed.total_seconds() for _ in range(40)]
    assert statistics.median(seconds) < 0.03


# Errors.


@pytest.mark.parametrize(
    "path", ["/v1", "/v1/", "//v1/models", "/V1/models", "/v1/embeddings", "/..%2f", "/health/"]
)
def test_there_is_nothing_elsewhere(server, path):
    assert "There is nothing at" in is_error(server.client.get(path), 404, "not_found")
    is_error(server.client.post(path, json={}), 404, "not_found")


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("GET", "/v1/completions", "POST"),
        ("DELETE", "/v1/chat/completions", "POST"),
        ("OPTIONS", "/v1/completions", "POST"),
        ("POST", "/v1/models", "GET, HEAD"),
        ("PUT", "/", "GET, HEAD"),
    ],
)
def test_a_method_that_a_route_has_not_is_told_with_those_it_has(server, method, path, allowed):
    answer = server.client.request(method, path)
    is_error(answer, 405)
    assert sorted(answer.headers["allow"].split(", ")) == allowed.split(", ")


POSTS = ["/v1/completions", "/v1/chat/completions", "/tokenize", "/detokenize"]


@pytest.mark.parametrize("path", POSTS)
@pytest.mark.parametrize("kind", [None, "text/plain", "application/x-www-form-urlencoded"])
def test_a_body_must_be_called_json(server, path, kind):
    """A page of another origin can send the last two without asking, but not JSON."""
    headers = {} if kind is None else {"content-type": kind}
    answer = server.client.post(path, content=b'{"prompt": "a"}', headers=headers)
    assert "Content-Type: application/json" in is_error(answer, 415)


@pytest.mark.parametrize(
    "kind", ["application/json", "application/json; charset=utf-8", "Application/JSON"]
)
def test_json_may_be_called_so(server, kind):
    answer = server.client.post(
        "/tokenize", content=b'{"prompt": "a"}', headers={"content-type": kind}
    )
    assert answer.status_code == 200, answer.text


@pytest.mark.parametrize("path", POSTS)
@pytest.mark.parametrize(
    "content",
    [
        *(b"", b"{", b"\xff", b'{"prompt": NaN}', b'{"prompt": "\xff"}', b"[" * 100_000),
        *(
            b'{"prompt": "\\ud800"}',
            b'{"max_tokens": Infinity}',
            b'{"seed": 1' + b"0" * 9999 + b"}",
        ),
        '{"prompt": "a"}'.encode("utf-16"),
    ],
    ids=lambda content: content[:20],
)
def test_a_body_that_is_no_json_is_refused(server, path, content):
    headers = {"content-type": "application/json"}
    answer = server.client.post(path, content=content, headers=headers)
    assert "not JSON" in is_error(answer, 400, "invalid_json")


REFUSED = {
    "no prompt": ({"max_tokens": 5}, "prompt"),
    "an empty prompt of tokens": ({"prompt": []}, "prompt"),
    "no tokens at all": ({"prompt": "", "add_special_tokens": False}, "prompt"),
    "a prompt of something else": ({"prompt": {"text": "a"}}, "prompt"),
    "tokens that are no numbers": ({"prompt": [1, 2.5]}, "prompt"),
    "a token that the model has not": ({"prompt": [264]}, "prompt"),
    "a negative token": ({"prompt": [-1]}, "prompt"),
    "too many prompts": ({"prompt": ["a"] * 129}, "prompt"),
    "too many answers": ({"prompt": "a", "n": 129}, "n"),
    "no answers": ({"prompt": "a", "n": 0}, "n"),
    "too many log-probabilities": ({"prompt": "a", "logprobs": 21}, "logprobs"),
    "log-probabilities by yes": ({"prompt": "a", "logprobs": True}, "logprobs"),
    "of the prompt as well": ({"prompt": "a", "prompt_logprobs": 21}, "prompt_logprobs"),
    "cold": ({"prompt": "a", "temperature": -0.1}, "temperature"),
    "hot": ({"prompt": "a", "temperature": 101}, "temperature"),
    "infinitely hot": ({"prompt": "a", "temperature": 1e999}, None),
    "a word for a number": ({"prompt": "a", "temperature": "1"}, "temperature"),
    "no nucleus": ({"prompt": "a", "top_p": 0}, "top_p"),
    "more than all": ({"prompt": "a", "top_p": 1.01}, "top_p"),
    "a wrong top-k": ({"prompt": "a", "top_k": -2}, "top_k"),
    "a wrong min-p": ({"prompt": "a", "min_p": 1.5}, "min_p"),
    "penalties": ({"prompt": "a", "presence_penalty": 2.1}, "presence_penalty"),
    "more penalties": ({"prompt": "a", "frequency_penalty": -2.1}, "frequency_penalty"),
    "no repetition": ({"prompt": "a", "repetition_penalty": 0}, "repetition_penalty"),
    "hardly a repetition": ({"prompt": "a", "repetition_penalty": 1e-300}, "repetition_penalty"),
    "a huge bias": ({"prompt": "a", "logit_bias": {"5": 101}}, "logit_bias"),
    "a bias on a word": ({"prompt": "a", "logit_bias": {"a": 1}}, "logit_bias"),
    "a bias beyond the vocabulary": ({"prompt": "a", "logit_bias": {"264": 1}}, "logit_bias"),
    "a stop beyond the vocabulary": ({"prompt": "a", "stop_token_ids": [264]}, "stop_token_ids"),
    "an empty stop string": ({"prompt": "a", "stop": ""}, "stop"),
    "an empty one of several": ({"prompt": "a", "stop": ["a", ""]}, "stop"),
    "too many stop strings": ({"prompt": "a", "stop": ["a"] * 17}, "stop"),
    "too long a stop string": ({"prompt": "a", "stop": "a" * 1001}, "stop"),
    "half a token": ({"prompt": "a", "max_tokens": 1.5}, "max_tokens"),
    "less than nothing": ({"prompt": "a", "max_tokens": -1}, "max_tokens"),
    "nothing at all": ({"prompt": "a", "max_tokens": 0}, None),
    "a stream by name": ({"prompt": "a", "stream": "yes"}, "stream"),
    "a seed by name": ({"prompt": "a", "seed": "x"}, "seed"),
    "the best of many": ({"prompt": "a", "best_of": 2}, None),
    "an echo in a stream": ({"prompt": "a", "echo": True, "stream": True}, None),
    "a suffix": ({"prompt": "a", "suffix": "b"}, None),
    "a grammar": ({"prompt": "a", "guided_regex": "a*"}, None),
    "a list": ([], None),
    "a text": ("text", None),
    "null": (None, None),
}


@pytest.mark.parametrize(("body", "param"), REFUSED.values(), ids=REFUSED)
def test_what_a_completion_cannot_be_asked(server, body, param):
    content = json.dumps(body).replace("Infinity", "1e999")
    answer = server.client.post(
        "/v1/completions", content=content, headers={"content-type": "application/json"}
    )
    is_error(answer, 400, None, param)


REFUSED_CHATS = {
    "no messages": ({}, "messages"),
    "an empty conversation": ({"messages": []}, "messages"),
    "nobody speaks": ({"messages": [{"content": "a"}]}, "messages"),
    "a picture": (
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]},
        "messages",
    ),
    "a number": ({"messages": [{"role": "user", "content": 5}]}, "messages"),
    "alternatives without log-probabilities": ({"messages": CHAT, "top_logprobs": 2}, None),
    "too many alternatives": (
        {"messages": CHAT, "logprobs": True, "top_logprobs": 21},
        "top_logprobs",
    ),
    "nothing at all": ({"messages": CHAT, "max_tokens": 0}, "max_tokens"),
    "a tool": (
        {"messages": CHAT, "tools": [{"type": "function", "function": {"name": "f"}}]},
        None,
    ),
    "JSON": ({"messages": CHAT, "response_format": {"type": "json_object"}}, None),
    "a template of their own": ({"messages": CHAT, "chat_template": "{{ 1 }}"}, None),
}


@pytest.mark.parametrize(("body", "param"), REFUSED_CHATS.values(), ids=REFUSED_CHATS)
def test_what_a_chat_cannot_be_asked(server, body, param):
    is_error(server.post("/v1/chat/completions", body), 400, None, param)


def test_another_model_is_not_found(server):
    for path, fields in (
        ("/v1/completions", {"prompt": "a"}),
        ("/v1/chat/completions", {"messages": CHAT}),
    ):
        answer = server.post(path, {**fields, "model": "gpt-4"})
        message = is_error(answer, 404, "model_not_found", "model")
        assert "'gpt-4' is not served here; 'tiny' is" in message


def test_what_does_not_fit_the_context_is_refused_and_the_rest_taken(server):
    full = list(range(5, 205)) * 5  # 1000 of 1024 tokens
    assert len(server.complete(full, max_tokens=24, **GREEDY)["text"]) > 0
    for prompt, most in ((full, 25), (full + full, 1)):
        answer = server.post("/v1/completions", {"prompt": prompt, "max_tokens": most})
        assert "1024 tokens" in is_error(answer, 400, "context_length_exceeded", "prompt")
    long = [{"role": "user", "content": "x" * 2000}]
    answer = server.post("/v1/chat/completions", {"messages": long})
    is_error(answer, 400, "context_length_exceeded", "messages")


def test_null_is_the_default_as_openai_has_it(server):
    """Clients in typed languages send every field that they know."""
    names = (
        *("model", "n", "stream", "stream_options", "temperature", "top_p", "presence_penalty"),
        *("frequency_penalty", "logit_bias", "seed", "stop", "user", "logprobs"),
    )
    nothing = dict.fromkeys(names)
    more = dict.fromkeys(("max_tokens", "best_of", "echo", "suffix"))
    answer = server.post("/v1/completions", {"prompt": "a", **nothing, **more})
    assert answer.status_code == 200, answer.text
    assert answer.json()["usage"]["completion_tokens"] <= 16
    more = dict.fromkeys(("max_completion_tokens", "top_logprobs", "tools", "response_format"))
    answer = server.post(
        "/v1/chat/completions", {"messages": CHAT, "max_tokens": 3, **nothing, **more}
    )
    assert answer.status_code == 200, answer.text


def test_fields_that_nobody_knows_change_nothing(server):
    plain = server.complete("a", **GREEDY)
    assert server.complete("a", **GREEDY, user="me", wishes=["a pony"], store=False) == plain


@pytest.mark.parametrize(
    "request_line", [b"nonsense", b"GET / HTTP/x", b"GET  / HTTP/1.1", b"G\x00T / HTTP/1.1"]
)
def test_what_is_no_http_gets_an_error_in_the_same_shape(server, request_line):
    with socket.create_connection(("127.0.0.1", server.port), 30) as connection:
        connection.sendall(request_line + b"\r\nhost: x\r\n\r\n")
        head, _, body = b"".join(iter(lambda: connection.recv(9999), b"")).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400 ")
    assert b"application/json" in head
    is_error_body(json.loads(body[body.index(b"{") : body.rindex(b"}") + 1])["error"], 400)


def test_requests_sent_at_once_on_one_connection_are_answered_in_their_order(server):
    requests = [
        f"GET {path} HTTP/1.1\r\nhost: x\r\n" for path in ("/health", "/version", "/nowhere")
    ]
    with socket.create_connection(("127.0.0.1", server.port), 30) as connection:
        connection.sendall("\r\n".join([*requests, ""]).encode())
        received = b"".join(iter(lambda: connection.recv(9999), b""))  # the last closes it
    assert re.findall(rb"HTTP/1.1 (\d+)", received) == [b"200", b"200", b"404"]


# Completions.


def test_a_prompt_may_be_text_or_tokens_or_several_of_either(server):
    tokens = [server.post("/tokenize", {"prompt": text}).json()["tokens"] for text in ("ab", "c")]
    expected = [server.complete(text, **GREEDY)["text"] for text in ("ab", "c")]
    assert [server.complete(prompt, **GREEDY)["text"] for prompt in tokens] == expected
    for prompts in (["ab", "c"], tokens):
        document = server.post("/v1/completions", {"prompt": prompts, **GREEDY}).json()
        assert [choice["text"] for choice in document["choices"]] == expected
        assert [choice["index"] for choice in document["choices"]] == [0, 1]
        assert document["usage"]["prompt_tokens"] == sum(map(len, tokens))
        assert document["usage"]["completion_tokens"] == 32


def test_several_answers_are_those_of_the_seeds_that_follow(server):
    body = {"prompt": ["ab", "cd"], "n": 3, "seed": 11, "max_tokens": 20, **BABBLE}
    document = server.post("/v1/completions", body).json()
    texts = [choice["text"] for choice in document["choices"]]
    singles = [
        server.complete(**{**body, "n": 1, "seed": seed, "prompt": prompt})["text"]
        for prompt in ("ab", "cd")
        for seed in (11, 12, 13)
    ]
    assert texts == singles
    assert len(set(texts)) > 3
    assert document["usage"]["prompt_tokens"] == 6, "a prompt counts once"
    assert document["usage"]["completion_tokens"] == 120


def test_a_seed_gives_the_same_answer_and_none_another(server):
    seeded = {server.complete("a", seed=5, **BABBLE)["text"] for _ in range(3)}
    free = {server.complete("a", **BABBLE)["text"] for _ in range(3)}
    assert len(seeded) == 1
    assert len(free) == 3


def test_the_model_s_own_settings_are_the_defaults(server, checkpoint):
    """Its generation_config.json says so."""
    advice = json.loads((checkpoint / "generation_config.json").read_text())
    explicit = {field: advice[field] for field in ("temperature", "top_p")}
    assert explicit == {"temperature": 0.6, "top_p": 0.95}
    assert server.complete("a", seed=3) == server.complete("a", seed=3, **explicit)
    assert server.complete("a", seed=3) != server.complete("a", seed=3, temperature=1, top_p=1)


def test_a_stop_string_ends_the_text_before_it(server):
    whole = server.complete("a", seed=1, max_tokens=40, **BABBLE)
    assert whole["finish_reason"] == "length"
    assert whole["stop_reason"] is None
    assert len(whole["text"]) == 40
    for stop in (whole["text"][20:23], [whole["text"][20:23], "zz"]):
        found = server.complete("a", seed=1, max_tokens=40, stop=stop, **BABBLE)
        assert found["text"] == whole["text"][: whole["text"].index(whole["text"][20:23])]
        assert found["finish_reason"] == "stop"
        assert found["stop_reason"] == whole["text"][20:23]


def test_stop_tokens_the_end_token_and_the_fewest_tokens(server):
    wants_end = {"temperature": 0, "logit_bias": {END: 100}}
    document = server.post("/v1/completions", {"prompt": "a", **wants_end}).json()
    assert document["choices"][0]["text"] == ""
    assert document["choices"][0]["finish_reason"] == "stop"
    assert document["choices"][0]["stop_reason"] is None
    assert document["usage"]["completion_tokens"] == 1
    body = {"prompt": "a", **wants_end, "min_tokens": 6}
    assert server.post("/v1/completions", body).json()["usage"]["completion_tokens"] == 7
    body = {"prompt": "a", **wants_end, "ignore_eos": True}
    assert server.post("/v1/completions", body).json()["usage"]["completion_tokens"] == 16
    letter = next(iter(LETTERS))
    found = server.complete(
        "a", temperature=0, logit_bias={letter: 100}, stop_token_ids=[int(letter)]
    )
    assert (found["text"], found["finish_reason"], found["stop_reason"]) == (
        "",
        "stop",
        int(letter),
    )


def test_special_tokens_are_shown_when_wanted(server):
    wishes = {**GREEDY, "logit_bias": {END: 100}, "max_tokens": 2}
    assert server.complete("a", **wishes)["text"] == ""
    shown = server.complete("a", **wishes, skip_special_tokens=False)["text"]
    assert shown == "<｜end▁of▁sentence｜>" * 2


def test_log_probabilities_of_a_completion(server):
    fields = {"seed": 1, "max_tokens": 12, **BABBLE}
    found = server.complete("a", logprobs=3, **fields)
    columns = found["logprobs"]
    assert "".join(columns["tokens"]) == found["text"]
    assert columns["text_offset"] == list(range(12))
    for token, logprob, top in zip(
        columns["tokens"], columns["token_logprobs"], columns["top_logprobs"], strict=True
    ):
        assert top[token] == logprob <= 0
        assert 3 <= len(top) <= 4, "the chosen one is always among them"
    only = server.complete("a", logprobs=0, **fields)["logprobs"]
    assert only["token_logprobs"] == columns["token_logprobs"]
    assert [list(top) for top in only["top_logprobs"]] == [[token] for token in only["tokens"]]
    assert server.complete("a", **fields)["logprobs"] is None


def test_an_echo_begins_with_the_prompt_and_its_log_probabilities(server):
    fields = {"seed": 1, "max_tokens": 5, "echo": True, **BABBLE}
    plain = server.complete("Hello", **{**fields, "echo": False}, logprobs=1)
    echoed = server.complete("Hello", **fields)
    assert echoed["text"] == "Hello" + plain["text"]
    assert echoed["logprobs"] is None
    columns = server.complete("Hello", **fields, logprobs=1, add_special_tokens=False)["logprobs"]
    assert columns["tokens"] == [*"Hello", *columns["tokens"][5:]]
    assert columns["token_logprobs"][0] is None
    assert columns["top_logprobs"][0] is None
    assert all(logprob <= 0 for logprob in columns["token_logprobs"][1:])
    assert columns["text_offset"] == list(range(10))


def test_a_prompt_is_scored_without_an_answer(server):
    found = server.complete("Hello", max_tokens=0, echo=True, logprobs=2)
    assert found["text"] == "Hello"
    assert found["finish_reason"] == "length"
    assert len(found["logprobs"]["token_logprobs"]) == 6
    scored = server.complete("Hello", max_tokens=0, prompt_logprobs=2)
    assert scored["text"] == ""
    logprobs = [
        None if entry is None else next(iter_chosen(entry, token))
        for entry, token in zip(scored["prompt_logprobs"], found["logprobs"]["tokens"], strict=True)
    ]
    assert logprobs == found["logprobs"]["token_logprobs"]


def iter_chosen(entry, text):
    return (value["logprob"] for value in entry.values() if value["decoded_token"] == text)


@pytest.mark.parametrize("count", [0, 2, 20])
def test_log_probabilities_of_a_prompt_have_vllms_shape(server, count):
    tokens = server.post("/tokenize", {"prompt": "Hello"}).json()["tokens"]
    first, *others = server.complete(tokens, max_tokens=1, prompt_logprobs=count)["prompt_logprobs"]
    assert first is None
    for token, entry in zip(tokens[1:], others, strict=True):
        assert str(token) in entry
        assert count <= len(entry) <= count + 1
        ranks = {value["rank"] for value in entry.values()}
        assert set(range(1, count + 1)) <= ranks
        for value in entry.values():
            assert value.keys() == {"logprob", "rank", "decoded_token"}
        by_rank = sorted(entry.values(), key=lambda value: value["rank"])
        falling = [value["logprob"] for value in by_rank]
        assert falling == sorted(falling, reverse=True)
        assert sum(map(math.exp, falling)) <= 1 + 1e-9


@pytest.mark.parametrize("stream", [False, True])
def test_token_numbers_are_told_when_wanted(server, stream):
    asked = {"max_tokens": 12, "seed": 2, "temperature": 3, "ignore_eos": True, "stream": stream}
    for path, prompt in (
        ("/v1/completions", {"prompt": "Hello"}),
        ("/v1/chat/completions", {"messages": CHAT}),
    ):
        answer = server.post(path, {**asked, **prompt, "return_token_ids": True})
        pieces = events(answer) if stream else [answer.json()]
        tokens = [t for piece in pieces for t in piece["choices"][0].get("token_ids", [])]
        assert len(tokens) == 12
        text = server.post("/detokenize", {"tokens": tokens}).json()["prompt"]
        shown = "".join(
            choice.get("text")
            or (choice.get("message") or choice.get("delta") or {}).get("content", "")
            for piece in pieces
            for choice in piece["choices"]
        )
        assert text.startswith(shown)
        if not stream:
            (document,), (choice,) = pieces, pieces[0]["choices"]
            given = document.get("prompt_token_ids") or choice["prompt_token_ids"]
            assert given == server.post("/tokenize", prompt).json()["tokens"]
        plain = server.post(path, {**asked, **prompt}).text
        assert "token_ids" not in plain


# Chat.


def test_a_chat_is_the_completion_of_its_template(server):
    messages = [
        {"role": "system", "content": "Be brief."},
        {
            "role": "user",
            "content": [{"type": "text", "text": "Hel"}, {"type": "text", "text": "lo"}],
        },
        {"role": "assistant", "content": "Yes?"},
        {"role": "user", "content": "Go on."},
    ]
    tokens = server.post("/tokenize", {"messages": messages}).json()["tokens"]
    text = server.post("/detokenize", {"tokens": tokens}).json()["prompt"]
    assert text == (
        "<｜begin▁of▁sentence｜>Be brief.<｜User｜>Hello<｜Assistant｜>Yes?<｜end▁of▁sentence｜>"
        "<｜User｜>Go on.<｜Assistant｜>"
    )
    document = chat(server, messages, max_tokens=9, **GREEDY)
    assert document["choices"][0]["message"] == {
        "role": "assistant",
        "content": server.complete(tokens, max_tokens=9, **GREEDY)["text"],
    }
    assert document["usage"]["prompt_tokens"] == len(tokens)


def test_the_prompt_need_not_end_where_the_assistant_begins(server):
    def tokens_in(**fields):
        return chat(server, **fields, max_tokens=1)["usage"]["prompt_tokens"]

    assert tokens_in(add_generation_prompt=False) == tokens_in() - 1


def test_a_template_takes_variables_of_the_request(server):
    longer = chat(server, chat_template_kwargs={"bos_token": "abcdef"}, max_tokens=1)
    assert (
        longer["usage"]["prompt_tokens"] == chat(server, max_tokens=1)["usage"]["prompt_tokens"] + 5
    )


def test_a_chat_without_a_limit_goes_on_to_the_end_of_the_context(server):
    messages = [{"role": "user", "content": "x" * 1000}]
    document = chat(server, messages, **GREEDY)
    assert document["choices"][0]["finish_reason"] == "length"
    assert document["usage"]["total_tokens"] == 1024


@pytest.mark.parametrize("field", ["max_tokens", "max_completion_tokens"])
def test_a_chat_is_limited_by_either_name(server, field):
    assert chat(server, **{field: 4}, **GREEDY)["usage"]["completion_tokens"] == 4


def test_log_probabilities_of_a_chat(server):
    fields = {"seed": 1, "max_tokens": 10, **BABBLE}
    choice = chat(server, logprobs=True, top_logprobs=2, **fields)["choices"][0]
    content = choice["logprobs"]["content"]
    assert "".join(entry["token"] for entry in content) == choice["message"]["content"]
    for entry in content:
        assert bytes(entry["bytes"]).decode() == entry["token"]
        assert len(entry["top_logprobs"]) == 2
        assert entry["logprob"] <= max(other["logprob"] for other in entry["top_logprobs"])
    alone = chat(server, logprobs=True, **fields)["choices"][0]["logprobs"]["content"]
    assert [entry["top_logprobs"] for entry in alone] == [[]] * 10
    assert chat(server, **fields)["choices"][0]["logprobs"] is None


def test_a_prompt_of_a_chat_can_be_scored(server):
    document = chat(server, max_tokens=1, prompt_logprobs=1)
    assert len(document["prompt_logprobs"]) == document["usage"]["prompt_tokens"]
    assert document["prompt_logprobs"][0] is None


# Answers whole, and in pieces.


def joined(pieces, index):
    """The choice of a whole answer, from its pieces; it ends once."""
    choices = [c for piece in pieces for c in piece["choices"] if c["index"] == index]
    assert [choice["finish_reason"] for choice in choices[:-1]] == [None] * (len(choices) - 1)
    return {
        "text": "".join(c.get("text") or c.get("delta", {}).get("content", "") for c in choices),
        "logprobs": [c["logprobs"] for c in choices if c.get("logprobs")],
        "finish_reason": choices[-1]["finish_reason"],
        "stop_reason": choices[-1]["stop_reason"],
    }


FIELDS = {
    "greedy": GREEDY,
    "babble": {**BABBLE, "seed": 4, "max_tokens": 30},
    "two": {"seed": 4, "n": 2, "temperature": 1, "max_tokens": 20},
    "stopped": {**BABBLE, "seed": 4, "max_tokens": 60, "stop": ["ab", "cd", "efgh"]},
    "held back": {**BABBLE, "seed": 4, "max_tokens": 30, "stop": "abcdefghabcdefgh"},
    "ended": {"temperature": 0, "logit_bias": {END: 100}},
    "multi-byte": {"seed": 9, "temperature": 5, "logit_bias": {"200": 30, "174": 30}},
}


@pytest.mark.parametrize("fields", FIELDS.values(), ids=FIELDS)
def test_a_streamed_completion_is_the_whole_one_in_pieces(server, fields):
    body = {"prompt": "Hello", **fields, "logprobs": 1}
    whole = server.post("/v1/completions", body).json()
    strictly(Completion, whole)
    options = {"stream": True, "stream_options": {"include_usage": True}}
    *pieces, last = events(server.post("/v1/completions", {**body, **options}))
    assert last["choices"] == []
    assert last["usage"]["completion_tokens"] == whole["usage"]["completion_tokens"]
    assert all(piece["usage"] is None for piece in pieces)
    assert len({(piece["id"], piece["created"], piece["object"]) for piece in [*pieces, last]}) == 1
    for choice in whole["choices"]:
        found = joined(pieces, choice["index"])
        assert found["text"] == choice["text"]
        assert found["finish_reason"] == choice["finish_reason"]
        assert found["stop_reason"] == choice["stop_reason"]
        for column, values in choice["logprobs"].items():
            assert [v for part in found["logprobs"] for v in part[column]] == values, column


@pytest.mark.parametrize("fields", FIELDS.values(), ids=FIELDS)
def test_a_streamed_chat_is_the_whole_one_in_pieces(server, fields):
    body = {"messages": CHAT, "max_tokens": 16, **fields, "logprobs": True, "top_logprobs": 1}
    whole = server.post("/v1/chat/completions", body).json()
    strictly(ChatCompletion, whole)
    pieces = events(server.post("/v1/chat/completions", {**body, "stream": True}))
    for piece in pieces:
        strictly(ChatCompletionChunk, piece)
        assert "usage" not in piece
    for choice in whole["choices"]:
        index = choice["index"]
        first = next(c for piece in pieces for c in piece["choices"] if c["index"] == index)
        assert first["delta"] == {"role": "assistant", "content": ""}
        found = joined(pieces, index)
        assert found["text"] == choice["message"]["content"]
        assert found["finish_reason"] == choice["finish_reason"]
        entries = [entry for part in found["logprobs"] for entry in part["content"]]
        assert entries == choice["logprobs"]["content"]


def test_a_stream_is_not_held_up_on_its_way(server):
    """A proxy must pass each piece on, and keep none."""
    body = {"prompt": "a", "max_tokens": 3, "stream": True}
    answer = server.post("/v1/completions", body)
    assert answer.headers["cache-control"] == "no-cache"
    assert answer.headers["x-accel-buffering"] == "no"


def test_what_others_have_left_in_the_cache_is_told_in_the_usage(server):
    prompt = [7] * 300
    first, second = (
        server.post("/v1/completions", {"prompt": prompt, "max_tokens": 1}).json() for _ in range(2)
    )
    assert first["usage"]["prompt_tokens_details"] == {"cached_tokens": 0}
    assert second["usage"]["prompt_tokens_details"] == {"cached_tokens": 256}


# Tokens and text.


@pytest.mark.parametrize("text", ["", "Hello", "é€😀\n\t\0", "<｜User｜>", "a\u2028b", "x" * 5000])
def test_text_to_tokens_and_back(server, text):
    answer = server.post("/tokenize", {"prompt": text, "add_special_tokens": False}).json()
    assert answer["count"] == len(answer["tokens"])
    assert answer["max_model_len"] == 1024
    assert server.post("/detokenize", {"tokens": answer["tokens"]}).json() == {"prompt": text}
    with_begin = server.post("/tokenize", {"prompt": text}).json()["tokens"]
    assert with_begin == [0, *answer["tokens"]]


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/tokenize", {}),
        ("/tokenize", {"prompt": "a", "messages": CHAT}),
        ("/tokenize", {"prompt": ["a"]}),
        ("/detokenize", {}),
        ("/detokenize", {"tokens": "a"}),
        ("/detokenize", {"tokens": [-1]}),
        ("/detokenize", {"tokens": [2**31]}),
    ],
)
def test_what_cannot_be_tokenized_or_detokenized(server, path, body):
    is_error(server.post(path, body), 400)


# Metrics.


def test_metrics_count_what_has_happened(server):
    until(server.is_idle)
    before = server.metrics()
    prompt = [9] * 100
    body = {"prompt": prompt, "max_tokens": 20, **GREEDY}
    server.post("/v1/completions", body)
    list(events(server.post("/v1/completions", {**body, "stream": True})))
    server.post("/v1/completions", {"prompt": "a", "temperature": 0, "logit_bias": {END: 100}})
    server.post("/v1/completions", {"prompt": "a", "max_tokens": -1})
    after = server.metrics()

    def grown(name):
        return after[name] - before.get(name, 0)

    assert grown("generation_tokens_total") == 20 + 20 + 1
    assert grown("prompt_tokens_total") == 100 + (100 - 64) + 2
    assert grown("prefix_cache_hits_total") == 64
    assert grown("request_success_total{length}") == 2
    assert grown("request_success_total{stop}") == 1
    assert grown("time_to_first_token_seconds_count") == 3
    assert grown("inter_token_latency_seconds_count") == 19 + 19
    assert grown("e2e_request_latency_seconds_count") == 3
    assert 0 < grown("time_to_first_token_seconds_sum") < grown("e2e_request_latency_seconds_sum")
    for name in ("num_requests_running", "num_requests_waiting", "kv_cache_usage_perc"):
        assert after[name] == 0
    assert grown("num_preemptions_total") == 0


def test_metrics_name_the_model_and_never_a_prompt(server):
    server.complete("a very secret prompt", max_tokens=1)
    text = server.client.get("/metrics").text
    assert 'vllm:num_requests_running{model_name="tiny"}' in text
    assert "secret" not in text
    assert server.client.get("/metrics").headers["content-type"].startswith("text/plain")


# The key, and those who wait.

PATHS = [
    *("/v1/models", "/v1/completions", "/v1/chat/completions", "/tokenize", "/detokenize"),
    *("/metrics", "/version", "/facts.json", "/nowhere", "/v1/models/", "//v1/models"),
    *("/V1/models", "/health/", "//health", "/./health", "//", "/%2f", "/health%2f", "/health%00"),
    *("/?/v1/models", "/health?x=1"),
]
OPEN = {"/?/v1/models", "/health?x=1"}


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("method", ["GET", "POST", "HEAD", "OPTIONS"])
def test_every_path_but_the_page_and_health_wants_the_key(locked, path, method):
    connection = http.client.HTTPConnection("127.0.0.1", locked.port)  # sends a path as it is
    connection.request(method, path)
    with closing(connection), connection.getresponse() as answer:
        if path in OPEN:
            assert answer.status == (200 if method in ("GET", "HEAD") else 405)
            return
        assert answer.status == 401
        assert answer.headers["www-authenticate"] == "Bearer"
        if method != "HEAD":
            is_error_body(json.load(answer)["error"], 401, "invalid_api_key")


@pytest.mark.parametrize("path", ["/v1/models", "/metrics", "/version", "/facts.json"])
def test_whoever_has_the_key_comes_in(locked, path):
    assert locked.client.get(path, headers=locked.headers).status_code == 200


@pytest.mark.parametrize(
    "given",
    [
        "",
        "Bearer",
        "Bearer ",
        "Bearer wrong",
        "{key}",
        "Basic {key}",
        "Bearer {key}x",
        "Bearer  {key}",
    ],
)
def test_a_key_must_be_the_key(locked, given):
    headers = {"authorization": given.format(key=locked.key).strip()}
    is_error(locked.client.get("/v1/models", headers=headers), 401, "invalid_api_key")
    assert locked.client.get("/v1/models", headers=locked.headers).status_code == 200


def test_nobody_sees_the_key(locked):
    """Not whoever lists the processes, nor whoever reads the output, nor a template."""
    locked.post("/v1/chat/completions", {"messages": CHAT, "max_tokens": 1}, headers=locked.headers)
    locked.client.get("/v1/models", headers={"authorization": "Bearer wrong"})
    (worker,) = locked.inside.children(recursive=True)
    for process in (locked.inside, worker):
        assert locked.key not in " ".join(process.cmdline())
    assert locked.key not in str(worker.environ())
    assert locked.key not in locked.said()
    for path in ("/metrics", "/facts.json", "/"):
        assert locked.key not in locked.client.get(path, headers=locked.headers).text


def test_whoever_comes_when_too_many_wait_is_told_when_to_come_again(locked):
    """One runs, two wait."""
    body = {"prompt": "a", "max_tokens": 4000, "stream": True, **GREEDY}
    options = {"json": body, "headers": locked.headers}

    def ask():
        return locked.client.stream("POST", "/v1/completions", **options)

    def waiting():
        return locked.metrics(headers=locked.headers)["num_requests_waiting"]

    with ask() as running:
        lines = running.iter_lines()
        assert next(lines).startswith("data: ")
        with ask(), ask():
            until(lambda: waiting() == 2)
            answer = locked.client.post("/v1/completions", **options)
            assert "2 requests are waiting already" in is_error(answer, 429, "queue_full")
            assert int(answer.headers["retry-after"]) > 0
            assert waiting() == 2
    until(lambda: locked.is_idle(headers=locked.headers))
    answer = locked.post(
        "/v1/completions", {"prompt": "a", "max_tokens": 1}, headers=locked.headers
    )
    assert answer.status_code == 200


# Who may start a server, and where.


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "", "example.org", "127.1"])
def test_no_network_without_a_key(dsdeploy, checkpoint, host):
    result = dsdeploy("native", checkpoint, "--host", host, "--port", 0)
    assert result.exit_code == 2
    assert "there is no API key" in result.stderr
    assert "DSDEPLOY_API_KEY" in result.stderr


def test_a_taken_port_is_told_before_the_model_is_loaded(dsdeploy, checkpoint):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        result = dsdeploy("native", checkpoint, "--port", port)
    assert result.exit_code == 7
    assert f"127.0.0.1:{port} cannot be bound" in result.stderr
    assert "load" not in result.stderr


@pytest.mark.parametrize("content", ["", "\n", "ключ", "two\nlines", "a\x00b"])
def test_a_file_without_a_usable_key_is_refused(dsdeploy, checkpoint, tmp_path, content):
    (tmp_path / "key").write_text(content, encoding="utf-8")
    result = dsdeploy("native", checkpoint, "--port", 0, "--api-key-file", tmp_path / "key")
    assert result.exit_code == 2
    assert "holds no usable API key" in result.stderr
    assert content.strip() not in result.stderr or not content.strip()


def test_an_empty_key_in_the_environment_is_no_key(dsdeploy, checkpoint, monkeypatch):
    monkeypatch.setenv("DSDEPLOY_API_KEY", "")
    result = dsdeploy("native", checkpoint, "--port", 0)
    assert result.exit_code == 2
    assert "DSDEPLOY_API_KEY holds no usable API key" in result.stderr


def test_places_are_given_once_however_many_come_at_the_same_moment(locked):
    """One runs, two wait: the others of a crowd are sent away."""
    body = {"prompt": "a", "max_tokens": 300, "stream": True, **GREEDY}
    with ThreadPoolExecutor(24) as crowd:
        answers = list(
            crowd.map(
                lambda _: locked.post("/v1/completions", body, headers=locked.headers), range(24)
            )
        )
    statuses = [answer.status_code for answer in answers]
    assert set(statuses) == {200, 429}
    # Those that are served make room, so more than three are, but never more than three at once.
    assert statuses.count(200) < 12
    until(lambda: locked.is_idle(headers=locked.headers))


def test_more_choices_than_may_ever_wait_are_no_matter_of_time(locked):
    body = {"prompt": "a", "n": 3, "max_tokens": 1}
    answer = locked.post("/v1/completions", body, headers=locked.headers)
    assert "more than the 2 that may wait" in is_error(answer, 400, param="n")


@pytest.mark.parametrize("path", ["/v1/completions", "/v1/chat/completions"])
def test_log_probabilities_of_a_prompt_cannot_be_streamed(server, path):
    body = {"prompt": "a", "messages": [{"role": "user", "content": "a"}], "stream": True}
    assert "prompt_logprobs" in is_error(server.post(path, body | {"prompt_logprobs": 1}), 400)
