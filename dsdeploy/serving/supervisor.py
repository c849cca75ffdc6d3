"""Keeps one deployment running: python -m dsdeploy.serving.supervisor FOLDER.

It is started with the folder's lock in its hands, in a session of its own. With `--lifeline`, the
end of its standard input is the end of who asked for it, and so its own. TERM ends the engine in
good order, a second TERM at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import time
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

from dsdeploy.client.endpoint import Endpoint
from dsdeploy.deploy.diagnose import diagnose
from dsdeploy.errors import DeployError
from dsdeploy.serving import processes
from dsdeploy.serving.deployment import Deployment, address_in, read_deployment
from dsdeploy.serving.environment import key_of, local_environment
from dsdeploy.serving.health import Failure, Health
from dsdeploy.serving.log import ATTEMPT, FAILED, LogFile, Redactor, last_attempt, secrets_in
from dsdeploy.serving.nodes import RunningNode, start_node
from dsdeploy.serving.phases import PhaseTracker
from dsdeploy.serving.status import Status, write_status
from dsdeploy.units import format_seconds

_TOLD_EVERY = 0.5
"""Seconds between two looks at how far a start has come."""
_MAPPED_EVERY = 60.0
_DIAGNOSED_LINES = 20_000
_LAST_WORDS = 0.5
_REMOTE_REST = 10.0
"""Seconds beyond the grace for what is left on other nodes to be killed."""
_DRAINED = 10.0
"""Seconds for the last words of processes that have ended."""


class Supervisor:
    def __init__(self, folder: Path, deployment: Deployment) -> None:
        self._folder, self._deployment = folder, deployment
        self._log = LogFile(folder / "log")
        self._redact = Redactor(secrets_in(local_environment(deployment, os.environ)))
        self._told = asyncio.Event()
        self._grace = deployment.patience.grace
        self._status = Status("starting", os.getpid(), uuid.uuid4().hex, time.time())
        self._tracker = PhaseTracker(deployment.phases)
        self._nodes: list[RunningNode] = []
        self._was_ready = False

    async def run(self) -> None:
        """Until it is told to end, or the engine cannot be kept running."""
        while failure := await self._attempt():
            if not self._may_restart():
                self._say(state="failed", reason=failure.reason, fix=failure.fix)
                return
            await self._wait(failure)
            if self._told.is_set():
                break
        self._say(state="stopped", reason="", fix="")

    def tell(self) -> None:
        """To end; told twice, at once."""
        if self._told.is_set():
            self._grace = 0.0
            for node in self._nodes:
                node.kill()
        self._told.set()

    async def _attempt(self) -> Failure | None:
        """None when it was told to end."""
        self._tracker = PhaseTracker(self._deployment.phases)
        self._say(
            state="starting", phase=self._tracker.name, detail="", phases=(), ready_since=None
        )
        self._write([f"{_now()} {ATTEMPT} {self._status.attempt} begins".encode()])
        try:
            failure = await self._until_failure()
            return await self._explained(failure) if failure else None
        finally:
            await self._end()

    async def _until_failure(self) -> Failure | None:
        try:
            await self._start()
            ends = (self._ended(node) for node in self._nodes)
            return await _first(
                self._until_told(), *ends, self._keep(), self._follow_shared_memory()
            )
        except DeployError as error:
            return Failure(error.message, error.hint)

    async def _start(self) -> None:
        """All nodes at once. Those that have started stand in `_nodes`, whatever became of others."""
        scripts, marker = self._deployment.nodes, self._status.marker
        started = await asyncio.gather(
            *(
                asyncio.to_thread(start_node, self._folder, self._deployment, script, marker)
                for script in scripts
            ),
            return_exceptions=True,
        )
        for script, process in zip(scripts, started, strict=True):
            if not isinstance(process, BaseException):
                self._nodes.append(RunningNode(process, script.host, self._hear))
        for process in started:
            if isinstance(process, BaseException):
                raise process

    async def _until_told(self) -> None:
        await self._told.wait()

    async def _ended(self, node: RunningNode) -> Failure:
        return Failure(await node.ended())

    async def _keep(self) -> Failure:
        reporting = asyncio.create_task(self._report_phases())
        try:
            address = await self._address()
            key = key_of(self._deployment, os.environ)
            health = Health(Endpoint(address, key), self._deployment)
            await health.until_ready()
            self._tracker.leave_the_log("first answer")
            answer = await health.smoke()
        finally:
            reporting.cancel()
        self._tracker.leave_the_log("")
        self._was_ready = True
        self._say(
            state="ready", phase="", detail="", phases=tuple(self._tracker.over),
            ready_since=time.time(), smoke=str(answer), reason="", fix="",
        )  # fmt: skip
        self._note(f"ready: {answer}")
        return await health.until_it_fails(lambda figures: self._say(**figures))

    async def _address(self) -> str:
        """A job may wait in its queue for as long as it takes."""
        while not (address := address_in(self._folder, self._deployment)):
            await asyncio.sleep(_TOLD_EVERY)
        return address

    async def _follow_shared_memory(self) -> NoReturn:
        """So that it can be removed after processes that end without a chance to do it. While an
        engine starts, some of it is mapped for a moment only."""
        while True:
            await self._see_shared_memory()
            since = self._status.ready_since
            await asyncio.sleep(_MAPPED_EVERY if since else _TOLD_EVERY)

    async def _see_shared_memory(self) -> None:
        seen = await asyncio.to_thread(self._mapped)
        self._say(shared_memory=tuple(sorted({*self._status.shared_memory, *seen})))

    async def _report_phases(self) -> None:
        while True:
            await asyncio.sleep(_TOLD_EVERY)
            tracker = self._tracker
            self._say(phase=tracker.name, detail=tracker.detail, phases=tuple(tracker.over))

    async def _end(self) -> None:
        """Whatever is left of the engine, here and on other nodes."""
        if self._told.is_set():
            self._say(state="stopping")
        await self._see_shared_memory()
        await asyncio.gather(*(node.release(self._grace + _REMOTE_REST) for node in self._nodes))
        leaders = [node.pid for node in self._nodes]
        await asyncio.to_thread(processes.end, self._status.marker, leaders, self._grace)
        for node in self._nodes:
            await node.drain(_DRAINED)
        self._nodes.clear()
        removed = await asyncio.to_thread(
            processes.remove_shared_memory, self._status.shared_memory
        )
        if removed:
            self._note(f"shared memory left behind is removed: {', '.join(removed)}")
        self._say(shared_memory=())

    def _mapped(self) -> tuple[str, ...]:
        return processes.shared_memory(processes.members(self._status.marker))

    async def _explained(self, failure: Failure) -> Failure:
        """By what the engine's log says of it."""
        for node in self._nodes:
            await node.drain(_LAST_WORDS)
        self._write([f"{_now()} {FAILED} {failure.reason}".encode()])
        lines = last_attempt(self._folder / "log", _DIAGNOSED_LINES)
        found = diagnose(lines, self._deployment.backend, self._deployment.release)
        if not found:
            return failure
        cause = found[0]
        return replace(failure, reason=f"{failure.reason} {cause.diagnosis.meaning}", fix=cause.fix)

    def _may_restart(self) -> bool:
        """What has never been ready would end the same way again."""
        since = self._status.ready_since
        if since is not None and time.time() - since >= self._deployment.patience.steady:
            self._say(restarts=0)
        return self._was_ready and self._status.restarts < self._deployment.patience.restarts

    async def _wait(self, failure: Failure) -> None:
        patience, before = self._deployment.patience, self._status.restarts
        pause = min(patience.backoff * 2**before, patience.backoff_most)
        self._say(
            state="waiting", reason=failure.reason, fix=failure.fix,
            restarts=before + 1, attempt=self._status.attempt + 1,
        )  # fmt: skip
        self._note(f"starts again in {format_seconds(pause)}")
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._told.wait(), pause)

    def _hear(self, lines: list[bytes]) -> None:
        """What a node's processes print."""
        if self._status.state == "starting":
            for line in lines:
                self._tracker.read(line)
        self._write(lines)

    def _note(self, text: str) -> None:
        self._write([f"{_now()} [dsdeploy] {text}".encode()])

    def _write(self, lines: list[bytes]) -> None:
        self._log.write(self._redact(b"\n".join(lines)).split(b"\n") if lines else [])

    def _say(self, **changes: Any) -> None:
        new = replace(self._status, **changes, lost_lines=self._log.lost)
        if new != self._status:
            self._status = new
            with contextlib.suppress(OSError):  # a full disk ends no engine
                write_status(self._folder, new)


def _now() -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S")


async def _first(*awaited: Awaitable[Failure | None]) -> Failure | None:
    """What the first to end gives; the others are given up."""
    tasks = [asyncio.ensure_future(each) for each in awaited]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        return next(task for task in tasks if task in done).result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _supervise(folder: Path, lifeline: bool) -> None:
    supervisor = Supervisor(folder, read_deployment(folder))
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, supervisor.tell)
    if lifeline:
        loop.add_reader(sys.stdin.fileno(), _on_end(loop, supervisor.tell))
    await supervisor.run()


def _on_end(loop: asyncio.AbstractEventLoop, tell: Callable[[], None]) -> Callable[[], None]:
    def read() -> None:
        if not os.read(sys.stdin.fileno(), 1):
            loop.remove_reader(sys.stdin.fileno())
            tell()

    return read


def main() -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    asyncio.run(_supervise(Path(sys.argv[1]), "--lifeline" in sys.argv[2:]))
    os._exit(0)  # a probe in a thread may wait for an answer that nobody needs any more


if __name__ == "__main__":
    main()
