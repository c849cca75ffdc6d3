"""The engine in a thread of its own, for callers in other threads."""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable, Sequence

from dsdeploy.errors import DeployError
from dsdeploy.runner.engine import Engine
from dsdeploy.runner.request import Output, Request
from dsdeploy.runner.sequence import Sequence as Running

log = logging.getLogger(__name__)

_FAILURES = 3
"""Steps that fail one after the other before the engine counts as broken; one alone may be the
fault of its requests."""


class EngineService:
    """Requests may be submitted and cancelled from any thread."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._submitted, self._failures = 0, 0
        self._counting = threading.Lock()
        self._calls: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """Requests that no step has taken up yet."""
        return self._submitted + len(self._engine.waiting)

    @property
    def busy(self) -> bool:
        return self._submitted > 0 or self._engine.busy

    @property
    def healthy(self) -> bool:
        return self._thread.is_alive() and self._failures < _FAILURES

    def submit(self, requests: Sequence[Request]) -> Callable[[], None]:
        """Begin them all; what it gives cancels those that have not ended."""
        running: list[Running] = []

        def begin() -> None:
            running.extend(self._engine.add(request) for request in requests)
            with self._counting:
                self._submitted -= len(requests)

        with self._counting:
            self._submitted += len(requests)
        self._calls.put(begin)

        def cancel() -> None:
            for sequence in running:
                sequence.cancelled = True

        return lambda: self._calls.put(cancel)

    def end_all(self, output: Output) -> None:
        self._calls.put(lambda: self._engine.end_all(output))

    def close(self) -> None:
        """End at once."""
        self._calls.put(None)
        self._thread.join()

    def _run(self) -> None:
        while True:
            try:
                call = self._calls.get(block=not self._engine.busy)
            except queue.Empty:
                self._step()
                continue
            if call is None:
                break
            call()
        self._engine.end_all(Output(finish_reason="error", error="The engine has ended."))
        self._engine.executor.close()

    def _step(self) -> None:
        try:
            self._engine.step()
            self._failures = 0
        except Exception as error:
            self._failures += 1
            log.exception("a step has failed")
            message = error.message if isinstance(error, DeployError) else "The engine has failed."
            self._engine.end_all(Output(finish_reason="error", error=message))
