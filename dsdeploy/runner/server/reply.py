"""Answers on their way to a client, whole or streamed; both end early when the client leaves."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse

from dsdeploy.runner.request import Output
from dsdeploy.runner.server.answers import END_OF_STREAM, event
from dsdeploy.runner.server.endpoint import Endpoint
from dsdeploy.runner.server.intake import Asked
from dsdeploy.runner.server.refusal import RefusedError, error_body


class Reply:
    """The choices of one request as they grow."""

    def __init__(self, endpoint: Endpoint, asked: Asked) -> None:
        self._metrics, self._shape = endpoint.metrics, asked.shape
        self._generation = endpoint.generate(asked)
        self._choices = asked.choices()
        self._begun = time.monotonic()
        self._latest: list[float | None] = [None] * len(self._choices)

    async def whole(self, request: Request) -> Response:
        growing = asyncio.ensure_future(self._grow())
        leaving = asyncio.ensure_future(_left(request))
        try:
            await asyncio.wait({growing, leaving}, return_when=asyncio.FIRST_COMPLETED)
            if not growing.done():
                raise ConnectionError("the client has left")
            await growing
        finally:
            self._generation.close()
            growing.cancel()
            leaving.cancel()
        return JSONResponse(self._shape.whole(self._choices))

    async def _grow(self) -> None:
        async for _ in self._outputs():
            pass

    async def _outputs(self) -> AsyncIterator[tuple[int, Output]]:
        async for index, output in self._generation.outputs():
            self._choices[index].add(output)
            self._measure(index, output)
            if output.error is not None:
                raise RefusedError(503, output.error, "engine_error", retry_after=30)
            yield index, output

    def stream(self, include_usage: bool) -> Response:
        return _EventStream(self._events(include_usage), self._generation.close)

    async def _events(self, include_usage: bool) -> AsyncIterator[bytes]:
        usage: dict[str, Any] = {"usage": None} if include_usage else {}
        try:
            for index in range(len(self._choices)):
                if (opening := self._shape.opening(index)) is not None:
                    yield event({**opening, **usage})
            async for index, output in self._outputs():
                yield event({**self._shape.piece(index, output), **usage})
            if include_usage:
                yield event(self._shape.closing(self._choices))
            yield END_OF_STREAM
        except RefusedError as refusal:  # too late for a status
            yield event(refusal.body)
        except Exception:
            yield event(error_body("The server has failed.", 500, "internal_error"))
            raise

    def _measure(self, index: int, output: Output) -> None:
        now = time.monotonic()
        latest, self._latest[index] = self._latest[index], now
        if latest is None:
            self._metrics.first_token(now - self._begun)
        elif output.tokens:
            self._metrics.next_token((now - latest) / len(output.tokens))
        if output.finish_reason is not None:
            self._metrics.ended(output.finish_reason, now - self._begun)


class _EventStream(StreamingResponse):
    def __init__(self, events: AsyncIterator[bytes], end: Callable[[], None]) -> None:
        headers = {"cache-control": "no-cache", "x-accel-buffering": "no"}
        super().__init__(events, media_type="text/event-stream", headers=headers)
        self._end = end

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Ends the generation however the stream ends, even where no event was ever wanted."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._end()


async def _left(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
