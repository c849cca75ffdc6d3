"""Requests on their way through the engine, from the server's event loop."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import suppress

from dsdeploy.runner.request import Output, Request, Sampling
from dsdeploy.runner.service import EngineService


class Mailbox:
    """Carries outputs from the engine's thread to the loop, many at a time: waking the loop costs
    more than an output does."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._letters: deque[tuple[Callable[[Output], None], Output]] = deque()
        self._ringing = False

    def post(self, receive: Callable[[Output], None], output: Output) -> None:
        self._letters.append((receive, output))
        if not self._ringing:
            self._ringing = True
            with suppress(RuntimeError):  # the loop has ended: nobody waits any more
                self._loop.call_soon_threadsafe(self._deliver)

    def _deliver(self) -> None:
        self._ringing = False
        while self._letters:
            receive, output = self._letters.popleft()
            receive(output)


class Generation:
    """Several choices of one HTTP request, in one stream of (choice, output)."""

    def __init__(
        self,
        service: EngineService,
        mailbox: Mailbox,
        prompts: Sequence[Sequence[int]],
        settings: Sequence[Sampling],
    ) -> None:
        self._arrived: asyncio.Queue[tuple[int, Output]] = asyncio.Queue()
        self._open = len(prompts)
        requests = [
            Request(tuple(prompt), sampling, self._emitter(mailbox, index))
            for index, (prompt, sampling) in enumerate(zip(prompts, settings, strict=True))
        ]
        self._cancel = service.submit(requests)

    def _emitter(self, mailbox: Mailbox, index: int) -> Callable[[Output], None]:
        def receive(output: Output) -> None:
            self._arrived.put_nowait((index, output))

        return lambda output: mailbox.post(receive, output)

    async def outputs(self) -> AsyncIterator[tuple[int, Output]]:
        """Until all choices have ended. Whoever stops listening must `close`."""
        while self._open:
            index, output = await self._arrived.get()
            self._open -= output.finish_reason is not None
            yield index, output

    def close(self) -> None:
        """Cancel what has not ended."""
        if self._open:
            self._cancel()
