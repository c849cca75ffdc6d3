"""What a kept answer says: when its tokens came, how many, or how it failed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import h11

from dsdeploy.client.bench.exchange import NoConnectionError, Received
from dsdeploy.client.events import EventParser
from dsdeploy.client.failures import broken_off, nobody_there, of_status
from dsdeploy.client.stream import END, Piece, read_piece
from dsdeploy.errors import DeployError, ExitCode


@dataclass(frozen=True)
class Failure:
    kind: str
    """`HTTP 429`, `time-out`, `no connection`, `broken off`, `error in mid-answer`, `empty`."""
    error: DeployError


@dataclass(frozen=True)
class Sample:
    """One request. Times are monotonic seconds."""

    sent: float
    texts: tuple[float, ...] = ()
    """When each event with text came, thought or said."""
    ended: float = 0.0
    prompt_tokens: int | None = None
    """As the server counts; None where it does not. So `output_tokens`."""
    output_tokens: int | None = None
    failure: Failure | None = None


def read(address: str, received: Received) -> Sample:
    whole = received.trouble is None and received.times
    ended = received.times[-1] if whole else received.ended
    try:
        return _read(address, received, ended)
    except _FailedError as failed:
        return Sample(received.sent, ended=ended, failure=failed.failure)


class _FailedError(Exception):
    def __init__(self, kind: str, error: DeployError) -> None:
        super().__init__(kind)
        self.failure = Failure(kind, error)


def _read(address: str, received: Received, ended: float) -> Sample:
    texts: list[float] = []
    finished, usage = False, None
    for when, piece in _events(address, received):
        finished = finished or piece is None or piece.finish_reason is not None
        if piece is not None:
            usage = piece.usage or usage
            if piece.content or piece.reasoning:
                texts.append(when)
    if not finished:
        raise _cut(address, received)
    counted = usage or {}
    if not texts and not counted.get("completion_tokens"):
        raise _FailedError("empty", DeployError(f"{address} answers without a single token."))
    return Sample(
        received.sent,
        tuple(texts),
        ended,
        counted.get("prompt_tokens"),
        counted.get("completion_tokens"),
    )


def _events(address: str, received: Received) -> Iterator[tuple[float, Piece | None]]:
    """Each with the time at which its last byte came; None stands for [DONE]."""
    parser = EventParser()
    for when, content in _content(address, received):
        for data in parser.feed(content):
            try:
                yield when, None if data == END else read_piece(address, data)
            except DeployError as error:
                raise _FailedError("error in mid-answer", error) from None


def _content(address: str, received: Received) -> Iterator[tuple[float, bytes]]:
    """The body's bytes as they came. Raises _FailedError for any answer but a 200."""
    try:
        events = _http(received)
        for when, event in events:
            if isinstance(event, h11.Response) and event.status_code != 200:
                raise _refusal(address, event, (data for _, data in events))
            if isinstance(event, h11.Data):
                yield when, bytes(event.data)
    except h11.RemoteProtocolError:
        raise _cut(address, received) from None


def _http(received: Received) -> Iterator[tuple[float, Any]]:
    for when, piece in zip(received.times, received.pieces, strict=True):
        received.protocol.receive_data(piece)
        while (event := received.protocol.next_event()) is not h11.NEED_DATA:
            yield when, event
            if isinstance(event, h11.EndOfMessage):
                return


def _refusal(address: str, head: h11.Response, rest: Iterator[Any]) -> _FailedError:
    body = b"".join(bytes(event.data) for event in rest if isinstance(event, h11.Data))
    headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in head.headers}
    error = of_status(address, head.status_code, body, headers)
    return _FailedError(f"HTTP {head.status_code}", error)


def _cut(address: str, received: Received) -> _FailedError:
    trouble = received.trouble
    if isinstance(trouble, TimeoutError):
        sentence = f"{address} has not answered to the end in time."
        return _FailedError("time-out", DeployError(sentence, "", ExitCode.ENGINE))
    if isinstance(trouble, NoConnectionError):
        return _FailedError("no connection", nobody_there(address, _reason(trouble)))
    reason = _reason(trouble) if trouble else "the stream ended without its last event"
    return _FailedError("broken off", broken_off(address, reason))


def _reason(trouble: OSError) -> str:
    return trouble.strerror or str(trouble) or type(trouble).__name__
