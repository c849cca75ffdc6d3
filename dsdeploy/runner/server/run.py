"""The server's life: bind, serve, drain, end."""

from __future__ import annotations

import asyncio
import resource
import signal
import socket
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field

import uvicorn

from dsdeploy.errors import DeployError, ExitCode
from dsdeploy.runner.request import Output
from dsdeploy.runner.server.app import build_app
from dsdeploy.runner.server.endpoint import Endpoint
from dsdeploy.runner.server.guard import Guard, Limits
from dsdeploy.runner.server.transport import HEAD_BYTES, PatientProtocol


@dataclass(frozen=True)
class ServerOptions:
    host: str = "127.0.0.1"
    port: int = 8000
    """0 takes any free one."""
    api_key: str | None = None
    drain_seconds: float = 30.0
    """How long answers may go on when the server is told to end."""
    limits: Limits = field(default_factory=Limits)


def bind(options: ServerOptions) -> socket.socket:
    """Before the model is loaded, so that a taken port shows at once."""
    family = socket.AF_INET6 if ":" in options.host else socket.AF_INET
    # The protocol is named, or asyncio leaves Nagle's algorithm on: 40 ms for each answer.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((options.host, options.port))
    except (OSError, OverflowError) as error:
        listener.close()
        raise DeployError(
            f"{options.host}:{options.port} cannot be bound: {error}.",
            "Give another --port, or 0 for any free one.",
            ExitCode.ENGINE,
        ) from None
    return listener


def serve(
    listener: socket.socket,
    make_endpoint: Callable[[asyncio.AbstractEventLoop], Endpoint],
    options: ServerOptions,
    ready: Callable[[], None],
) -> None:
    """Until SIGTERM or SIGINT; answers that run then have `drain_seconds`, what is left of them
    is told so."""
    _raise_file_limit()
    asyncio.run(_serve(listener, make_endpoint, options, ready))


async def _serve(
    listener: socket.socket,
    make_endpoint: Callable[[asyncio.AbstractEventLoop], Endpoint],
    options: ServerOptions,
    ready: Callable[[], None],
) -> None:
    loop = asyncio.get_running_loop()
    endpoint = make_endpoint(loop)
    config = uvicorn.Config(
        Guard(build_app(endpoint), options.api_key, options.limits),
        http=PatientProtocol,
        ws="none",
        lifespan="off",
        access_log=False,
        log_config=None,
        server_header=False,
        h11_max_incomplete_event_size=HEAD_BYTES,
        timeout_keep_alive=30,
        timeout_graceful_shutdown=5,
        backlog=2048,
    )
    server = _Server(config)
    told = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, _second_time_at_once(told, server))
    serving = asyncio.ensure_future(server.serve([listener]))
    while not server.started and not serving.done():
        await asyncio.sleep(0.01)
    if server.started:
        ready()
    waiting = asyncio.ensure_future(told.wait())
    await asyncio.wait({serving, waiting}, return_when=asyncio.FIRST_COMPLETED)
    await _drain(endpoint, options.drain_seconds, server)
    server.should_exit = True
    await serving
    endpoint.service.close()
    endpoint.intake.template.close()


class _Server(uvicorn.Server):
    def capture_signals(self):  # type: ignore[no-untyped-def]
        """Signals are ours to handle."""
        return nullcontext()


def _second_time_at_once(told: asyncio.Event, server: uvicorn.Server) -> Callable[[], None]:
    def handle() -> None:
        if told.is_set():
            server.should_exit = server.force_exit = True
        told.set()

    return handle


async def _drain(endpoint: Endpoint, seconds: float, server: uvicorn.Server) -> None:
    endpoint.draining = True
    loop = asyncio.get_running_loop()
    deadline = loop.time() + seconds
    while endpoint.service.busy and loop.time() < deadline and not server.should_exit:
        await asyncio.sleep(0.05)
    if endpoint.service.busy:
        endpoint.service.end_all(
            Output(finish_reason="error", error="The server is shutting down.")
        )
        await asyncio.sleep(0.2)  # for the last events to be written


def _raise_file_limit() -> None:
    """A client is a file."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
