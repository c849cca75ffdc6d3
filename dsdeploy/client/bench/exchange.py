"""One request on a connection of its own, with the time at which each piece of its answer came.

While others are measured, nothing is understood: pieces are kept as they arrive and read afterwards
(`reading.py`), so that the reading of one answer never delays the clock of another. The times are the
kernel's (`stamped_socket.py`), so that no other process does either.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import ssl
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import h11

from dsdeploy.client.bench.stamped_socket import StampedSocket
from dsdeploy.client.endpoint import CONNECT_SECONDS, Endpoint

_DONE = b"\ndata: [DONE]"
"""An answer's own line ends are escaped in JSON, so only the last event looks so."""


@dataclass(frozen=True)
class Received:
    """All times are of one monotonic clock, in seconds."""

    sent: float
    """The request, after the connection stood."""
    times: list[float]
    """Of `pieces`. Lists of plain numbers and bytes are nothing to the garbage collector."""
    pieces: list[bytes]
    protocol: h11.Connection
    """Has sent the request and waits for the answer."""
    ended: float
    """When nothing more was waited for."""
    trouble: OSError | None = None
    """What ended it before its end: NoConnectionError, TimeoutError, ConnectionError and the like."""


class NoConnectionError(OSError):
    pass


async def exchange(
    endpoint: Endpoint,
    context: ssl.SSLContext | None,
    path: str,
    body: Mapping[str, Any],
    timeout: float,
    due: float = 0.0,
) -> Received:
    """Connect, then send at `due` or, where that is past, at once. `context` is `tls(address)`, made
    once, for that takes long."""
    protocol = h11.Connection(h11.CLIENT, max_incomplete_event_size=2**20)
    request = _composed(protocol, endpoint, path, body)
    try:
        transport, arrivals = await _connected(endpoint, context)
    except NoConnectionError as error:
        now = time.monotonic()
        return Received(now, [], [], protocol, now, error)
    try:
        while (early := due - time.monotonic()) > 0:
            await asyncio.sleep(early)
        sent = time.monotonic()
        transport.write(request)
        trouble = await arrivals.until_over(timeout)
    finally:
        transport.abort()
    return Received(sent, arrivals.times, arrivals.pieces, protocol, time.monotonic(), trouble)


class _Arrivals(asyncio.Protocol):
    def __init__(self, source: StampedSocket) -> None:
        self._source = source
        self.times: list[float] = []
        self.pieces: list[bytes] = []
        self._over: asyncio.Future[OSError | None] = asyncio.get_running_loop().create_future()

    def data_received(self, data: bytes) -> None:
        self.times.append(self._source.arrived)
        self.pieces.append(data)
        if _DONE in data:
            self._end(None)

    def connection_lost(self, error: Exception | None) -> None:
        """The server's end closes the connection, which counts as an answer's end too."""
        self._end(error if isinstance(error, OSError) else None)

    async def until_over(self, timeout: float) -> OSError | None:
        try:
            return await asyncio.wait_for(self._over, timeout)
        except TimeoutError as error:
            return error

    def _end(self, error: OSError | None) -> None:
        if not self._over.done():
            self._over.set_result(error)


async def _connected(
    endpoint: Endpoint, context: ssl.SSLContext | None
) -> tuple[asyncio.Transport, _Arrivals]:
    try:
        return await asyncio.wait_for(_connect(endpoint.address, context), CONNECT_SECONDS)
    except TimeoutError:
        raise NoConnectionError("no answer to the connection") from None
    except OSError as error:
        raise NoConnectionError(error.strerror or str(error)) from error


async def _connect(
    address: str, context: ssl.SSLContext | None
) -> tuple[asyncio.Transport, _Arrivals]:
    parts = urlsplit(address)
    host = parts.hostname or ""
    source = await _opened(host, parts.port or {"http": 80, "https": 443}[parts.scheme])
    try:
        return await asyncio.get_running_loop().create_connection(
            lambda: _Arrivals(source),
            sock=source,
            ssl=context,
            server_hostname=host if context else None,
        )
    except BaseException:
        source.close()
        raise


async def _opened(host: str, port: int) -> StampedSocket:
    """To the first of the host's addresses that answers."""
    places = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    reason = ""
    for family, kind, protocol, _, place in places:
        try:
            return await _dialled(StampedSocket(family, kind, protocol), place)
        except OSError as error:
            reason = os.strerror(error.errno or 0)
    raise NoConnectionError(reason)


async def _dialled(source: StampedSocket, place: tuple[Any, ...]) -> StampedSocket:
    try:
        source.setblocking(False)
        await asyncio.get_running_loop().sock_connect(source, place)
    except BaseException:
        source.close()
        raise
    return source


def _composed(
    protocol: h11.Connection, endpoint: Endpoint, path: str, body: Mapping[str, Any]
) -> bytes:
    parts = urlsplit(endpoint.address)
    content = json.dumps(body).encode()
    headers = {
        "host": parts.netloc,
        "connection": "close",
        "content-type": "application/json",
        "content-length": str(len(content)),
        **endpoint.headers,
    }
    head = h11.Request(method="POST", target=parts.path + path, headers=list(headers.items()))
    events = (head, h11.Data(data=content), h11.EndOfMessage())
    return b"".join(protocol.send(event) or b"" for event in events)
