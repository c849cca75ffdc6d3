"""A chat whose answer comes piece by piece."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import httpx

from dsdeploy.client.endpoint import Endpoint, refused, session
from dsdeploy.client.events import EventParser
from dsdeploy.client.failures import broken_off, of_transport, sentence
from dsdeploy.errors import DeployError, ExitCode

END = b"[DONE]"


@dataclass(frozen=True)
class Piece:
    content: str = ""
    reasoning: str = ""
    finish_reason: str | None = None
    usage: Mapping[str, Any] | None = None
    """With the last piece, where the engine counts."""


def stream_chat(
    endpoint: Endpoint,
    model: str,
    messages: Sequence[Mapping[str, str]],
    *,
    max_tokens: int | None = None,
    temperature: float | None = None,
    seed: int | None = None,
    timeout: float | None = None,
) -> Iterator[Piece]:
    """Closing the iterator ends the request. Without `timeout` it waits for as long as it takes.

    Raises DeployError where nothing answers, for an error, also one in mid-stream, and for an answer
    that breaks off.
    """
    body = {
        "model": model,
        "messages": list(messages),
        "stream": True,
        "stream_options": {"include_usage": True},
        "max_tokens": max_tokens,
        "temperature": temperature,
        "seed": seed,
    }
    body = {name: value for name, value in body.items() if value is not None}
    url = f"{endpoint.address}/v1/chat/completions"
    try:
        with session(endpoint, timeout) as client, client.stream("POST", url, json=body) as answer:
            if not answer.is_success:
                answer.read()
                raise refused(endpoint, answer)
            yield from _pieces(endpoint.address, answer)
    except httpx.RequestError as error:
        raise of_transport(endpoint.address, error, timeout) from error


def _pieces(address: str, answer: httpx.Response) -> Iterator[Piece]:
    parser, finished = EventParser(), False
    for received in answer.iter_bytes():
        for data in parser.feed(received):
            if data == END:
                return
            piece = read_piece(address, data)
            finished = finished or piece.finish_reason is not None
            yield piece
    if not finished:
        raise broken_off(address, "the stream ended without its last event")


def read_piece(address: str, data: bytes) -> Piece:
    """Of a chat or of a completion. Raises DeployError for an event that is an error, or no JSON."""
    try:
        event = json.loads(data)
        if "error" in event:
            said = sentence(data) or "no reason given."
            raise DeployError(
                f"{address} has failed in mid-answer: {said}",
                "Look into the engine's log.",
                ExitCode.ENGINE,
            )
        choice = event["choices"][0] if event.get("choices") else {}
        delta = choice.get("delta") or {}
        return Piece(
            content=delta.get("content") or choice.get("text") or "",
            reasoning=delta.get("reasoning_content") or delta.get("reasoning") or "",
            finish_reason=choice.get("finish_reason"),
            usage=event.get("usage"),
        )
    except (ValueError, TypeError, KeyError, AttributeError):
        raise broken_off(address, "an event is not as OpenAI writes it") from None
