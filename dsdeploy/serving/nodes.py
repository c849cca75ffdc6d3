"""The script of one node, running: here, or on another machine over ssh."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from dsdeploy.serving.deployment import Deployment, NodeScript
from dsdeploy.serving.environment import given_environment, local_environment
from dsdeploy.serving.log import LineSplitter
from dsdeploy.serving.processes import marked
from dsdeploy.serving.remote import start_remote

_PIECE = 2**16
_LOOKED_EVERY = 0.1


class RunningNode:
    def __init__(
        self,
        process: subprocess.Popen[bytes],
        host: str,
        hear: Callable[[list[bytes]], None],
    ) -> None:
        self._process, self._host = process, host
        self._pump = asyncio.create_task(self._listen(hear))

    @property
    def pid(self) -> int:
        return self._process.pid

    async def ended(self) -> str:
        """A sentence on how."""
        while (status := self._process.poll()) is None:
            await asyncio.sleep(_LOOKED_EVERY)
        where = f" on {self._host}" if self._host else ""
        return f"The engine ended{where}: {_meaning(status)}."

    def kill(self) -> None:
        self._process.kill()

    async def release(self, seconds: float) -> None:
        """One on another machine ends when nobody holds it."""
        if self._process.stdin is None:
            return
        with contextlib.suppress(OSError):
            self._process.stdin.close()
        deadline = time.monotonic() + seconds
        while self._process.poll() is None and time.monotonic() < deadline:
            await asyncio.sleep(_LOOKED_EVERY)

    async def drain(self, seconds: float) -> None:
        """Hear what it has still said."""
        await asyncio.wait({self._pump}, timeout=seconds)

    async def _listen(self, hear: Callable[[list[bytes]], None]) -> None:
        stream, splitter = await _reader(self._process), LineSplitter()
        prefix = f"[{self._host}] ".encode() if self._host else b""
        while piece := await stream.read(_PIECE):
            hear([prefix + line for line in splitter.feed(piece)])
        hear([prefix + line for line in splitter.end()])


def start_node(
    folder: Path,
    deployment: Deployment,
    script: NodeScript,
    marker: str,
) -> subprocess.Popen[bytes]:
    """Raises DeployError where ssh fails."""
    path = folder / script.file
    if not script.host:
        return _start_here(path, marked(local_environment(deployment, os.environ), marker))
    given = given_environment(deployment, os.environ)
    text = path.read_text(encoding="utf-8")
    return start_remote(deployment, script, text, given, marker)


def _start_here(path: Path, environment: dict[str, str]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        ["bash", path],
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )


async def _reader(process: subprocess.Popen[bytes]) -> asyncio.StreamReader:
    """Apart from asyncio's own processes: those count as running until every grandchild has closed
    the pipe, and an engine's workers outlive it."""
    reader = asyncio.StreamReader(limit=4 * _PIECE)
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), process.stdout)
    return reader


def _meaning(status: int) -> str:
    """Of an exit status, the shell's way of telling a signal included."""
    number = -status if status < 0 else status - 128
    if 0 < number < signal.NSIG:
        with contextlib.suppress(ValueError):
            name = signal.Signals(number).name
            why = ", perhaps for want of memory" if name == "SIGKILL" else ""
            return f"killed by {name}{why}"
    return f"exit status {status}"
