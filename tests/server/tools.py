"""What several tests of the server share."""

import json
import sys
from pathlib import Path

import pydantic
from openai.types import Completion
from openai.types.chat import ChatCompletion

IMPATIENT = (sys.executable, Path(__file__).with_name("impatient.py"))
"""A program for `serving`."""

# What the server adds to OpenAI's answers, as vLLM does.
ADDED = {"stop_reason", "prompt_logprobs", "max_model_len", "token_ids", "prompt_token_ids"}

# A byte is a token, after five special ones (see dsdeploy/synth/tokenizer.py).
LETTERS = {str(5 + ord(letter)): 100 for letter in "abcdefgh"}
BABBLE = {"temperature": 10, "logit_bias": LETTERS, "ignore_eos": True}
"""Random letters: text that is one character a token, and that no random weights can spoil."""
END = "1"
"""The token that ends an answer."""


def is_error(answer, status, code=None, param=None):
    """An error in OpenAI's shape, and nothing else; its message."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["x-request-id"].startswith("req-")
    document = answer.json()
    assert document.keys() == {"error"}
    return is_error_body(document["error"], status, code, param)


def is_error_body(error, status, code=None, param=None):
    assert error.keys() == {"message", "type", "param", "code"}
    kinds = {429: "rate_limit_error"} | dict.fromkeys(range(500, 600), "server_error")
    assert error["type"] == kinds.get(status, "invalid_request_error")
    assert error["code"] == code
    if param is not None:
        assert error["param"] == param
    assert error["message"].endswith(".")
    return error["message"]


def events(answer):
    """The bodies of a stream, which is a whole one: it ends with [DONE]."""
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"].startswith("text/event-stream")
    *pieces, rest = answer.content.split(b"\n\n")
    assert rest == b""
    assert all(piece.startswith(b"data: ") for piece in pieces)
    assert pieces[-1] == b"data: [DONE]"
    return [json.loads(piece.removeprefix(b"data: ")) for piece in pieces[:-1]]


def strictly(kind, document):
    """A document as one of the openai package's types, or as that of a path: every field there with
    its type, and none besides but those that the server is known to add."""
    kinds = {"/v1/completions": Completion, "/v1/chat/completions": ChatCompletion}
    found = kinds.get(kind, kind).model_validate(document, strict=True)
    assert unknown(found) <= ADDED
    return found


def unknown(value):
    """Fields, at any depth, that OpenAI's types do not know."""
    if isinstance(value, list):
        return set().union(*map(unknown, value))
    if not isinstance(value, pydantic.BaseModel):
        return set()
    known = (getattr(value, name) for name in type(value).model_fields)
    return set(value.model_extra or ()).union(*map(unknown, known))
