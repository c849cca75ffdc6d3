"""What every request passes: a name, a key, limits on size and patience, errors in one shape."""

from __future__ import annotations

import asyncio
import hmac
import logging
import uuid
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from typing import Any, NoReturn

from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse

from dsdeploy.runner.server.refusal import RefusedError

log = logging.getLogger(__name__)

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

OPEN_PATHS = frozenset({"/", "/health"})
"""Answered without a key; every other path wants it, known or not."""


@dataclass(frozen=True)
class Limits:
    body_bytes: int = 8 << 20
    body_seconds: float = 30.0
    """For the whole body to arrive."""
    write_seconds: float = 60.0
    """For a client to take a piece of the answer."""


class Guard:
    """ASGI middleware around the whole application."""

    def __init__(self, app: Any, api_key: str | None, limits: Limits) -> None:
        self._app, self._limits = app, limits
        self._key = None if api_key is None else api_key.encode()

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        scope["app"] = self  # so that the router raises its refusals instead of answering itself
        request = _Exchange(scope, receive, send, self._limits)
        try:
            self._demand_key(scope)
            await self._app(scope, request.receive, request.send)
        except RefusedError as refusal:
            await request.refuse(refusal)
        except HTTPException as error:  # of the router: no such method
            unfit = RefusedError(error.status_code, f"{error.detail}.")
            unfit.headers |= error.headers or {}
            await request.refuse(unfit)
        except (TimeoutError, ConnectionError):
            # The client does not take its answer: nothing can be said to it.
            log.info("%s: a client was too slow and was let go", request.name)
        except Exception:
            log.exception("%s has failed", request.name)
            await request.refuse(RefusedError(500, "The server has failed.", "internal_error"))

    def _demand_key(self, scope: Message) -> None:
        if self._key is None or scope["path"] in OPEN_PATHS:
            return
        given = dict(scope["headers"]).get(b"authorization", b"")
        if not hmac.compare_digest(given, b"Bearer " + self._key):
            message = "The API key is missing or wrong: send it as `Authorization: Bearer KEY`."
            raise RefusedError(401, message, "invalid_api_key")


class _Exchange:
    """One request and its answer, with the limits kept."""

    def __init__(self, scope: Message, receive: Receive, send: Send, limits: Limits) -> None:
        self.name = f"req-{uuid.uuid4().hex}"
        self._scope, self._receive, self._send, self._limits = scope, receive, send, limits
        self._taken, self._complete, self._begun = 0, False, False
        self._deadline = asyncio.get_running_loop().time() + limits.body_seconds

    async def receive(self) -> Message:
        if self._complete:  # what follows the body is the client's leaving, for which all may wait
            return await self._receive()
        if int(dict(self._scope["headers"]).get(b"content-length", 0)) > self._limits.body_bytes:
            self._refuse_the_size()  # before a client that waits to be asked sends it
        left = self._deadline - asyncio.get_running_loop().time()
        try:
            async with asyncio.timeout(left):
                message = await self._receive()
        except TimeoutError:
            raise RefusedError(408, "The body took too long to arrive.", "timeout") from None
        if message["type"] == "http.request":
            self._taken += len(message.get("body", b""))
            self._complete = not message.get("more_body", False)
            if self._taken > self._limits.body_bytes:
                self._refuse_the_size()
        return message

    def _refuse_the_size(self) -> NoReturn:
        sentence = f"The body is larger than {self._limits.body_bytes} bytes."
        raise RefusedError(413, sentence, "request_too_large")

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._begun = True
            message["headers"] = [*message["headers"], (b"x-request-id", self.name.encode())]
        async with asyncio.timeout(self._limits.write_seconds):
            await self._send(message)

    async def refuse(self, refusal: RefusedError) -> None:
        if self._begun:
            return
        response = JSONResponse(refusal.body, refusal.status, refusal.headers)
        if not self._complete:  # what is left of the body is not read
            response.headers["connection"] = "close"
        await response(self._scope, self._receive, self.send)
