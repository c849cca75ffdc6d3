"""The HTTP protocol with a time limit on a request's head, which uvicorn has none for."""

from __future__ import annotations

import asyncio
import json
import socket
import uuid
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from dsdeploy.runner.server.refusal import error_body

HEAD_SECONDS = 10.0
STUCK_SECONDS = 60.0
"""How long a client may take nothing of what it has been sent."""
HEAD_BYTES = 32 << 10


class PatientProtocol(H11Protocol):
    """Closes a connection whose request line and headers do not arrive in time."""

    _waiting: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        if hasattr(socket, "TCP_USER_TIMEOUT"):  # else a closed connection waits for its reader
            option = socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, round(1000 * STUCK_SECONDS)
            transport.get_extra_info("socket").setsockopt(*option)
        self._wait()

    def data_received(self, data: bytes) -> None:
        if self._waiting is None and self.conn.their_state is h11.IDLE:
            self._wait()
        super().data_received(data)
        if self.conn.their_state is not h11.IDLE:
            self._stop_waiting()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_waiting()
        super().connection_lost(exc)

    def send_400_response(self, msg: str) -> None:
        """For what is no HTTP, in the shape that all errors have."""
        body = json.dumps(error_body(msg, 400)).encode()
        headers = [
            ("content-type", "application/json"),
            ("content-length", str(len(body))),
            ("connection", "close"),
            ("x-request-id", f"req-{uuid.uuid4().hex}"),
        ]
        head = h11.Response(status_code=400, headers=headers, reason=b"Bad Request")
        for event in (head, h11.Data(data=body), h11.EndOfMessage()):
            self.transport.write(self.conn.send(event))
        self.transport.close()

    def _wait(self) -> None:
        self._waiting = self.loop.call_later(HEAD_SECONDS, self.transport.close)

    def _stop_waiting(self) -> None:
        if self._waiting is not None:
            self._waiting.cancel()
            self._waiting = None
