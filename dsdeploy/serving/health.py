"""Whether an engine is ready, right, and alive; asked over HTTP, never of its process."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import urlsplit

from dsdeploy.client.endpoint import Endpoint, complete, get
from dsdeploy.client.failures import StatusError
from dsdeploy.errors import DeployError
from dsdeploy.serving.deployment import Deployment, HealthCheck
from dsdeploy.serving.metrics import Figures, read_figures
from dsdeploy.serving.smoke import PROMPT, Answer, smoke
from dsdeploy.units import format_seconds

_READY_PERIOD = 0.5


@dataclass(frozen=True)
class Failure:
    reason: str
    fix: str = ""


class Health:
    def __init__(self, endpoint: Endpoint, deployment: Deployment) -> None:
        self._endpoint, self._deployment = endpoint, deployment
        self._figures = Figures(None, None)
        self._moved = self._sampled = time.monotonic()
        self._deep_failures = 0

    async def until_ready(self) -> None:
        """Raises DeployError when patience is at its end."""
        patience = self._deployment.patience.startup
        try:
            async with asyncio.timeout(patience):
                while not await self._answers(self._deployment.ready):
                    await asyncio.sleep(_READY_PERIOD)
        except TimeoutError:
            raise DeployError(
                f"The engine is not ready after {format_seconds(patience)}.",
                "Where it still loads, --startup-seconds gives it more.",
            ) from None

    async def smoke(self) -> Answer:
        return await asyncio.to_thread(
            smoke, self._endpoint, self._deployment.model, self._deployment.patience.answer
        )

    async def until_it_fails(self, tell: Callable[[dict[str, Any]], None]) -> Failure:
        """`tell` is given the engine's figures whenever they were looked at."""
        self._moved = self._sampled = time.monotonic()
        alive, missed = self._deployment.alive, 0
        while True:
            await asyncio.sleep(alive.period)
            if not await self._answers(alive):
                missed += 1
                if missed >= alive.failures:
                    return Failure(f"The engine does not answer {alive.path} any more.")
                continue
            missed = 0
            tell(await self._look())
            if failure := await self._ask_deeply():
                return failure

    async def _answers(self, check: HealthCheck) -> bool:
        """An engine may be asked at another port than clients ask at."""
        address = urlsplit(self._endpoint.address)
        host = f"[{address.hostname}]" if ":" in (address.hostname or "") else address.hostname
        at = replace(self._endpoint, address=f"{address.scheme}://{host}:{check.port}")
        try:
            await asyncio.to_thread(get, at, check.path, check.timeout)
        except DeployError:
            return False
        return True

    async def _look(self) -> dict[str, Any]:
        """Of the metrics; an engine without them is said nothing of."""
        try:
            answer = await asyncio.to_thread(get, self._endpoint, "/metrics", 5.0)
        except DeployError:
            return {}
        before, self._figures = self._figures, read_figures(answer.text)
        now = time.monotonic()
        seconds, self._sampled = now - self._sampled, now
        rate = None
        if before.generated is not None and self._figures.generated is not None:
            rate = max(0, self._figures.generated - before.generated) / max(seconds, 1e-3)
        if before.generated != self._figures.generated:
            self._moved, self._deep_failures = now, 0
        return {
            "requests": self._figures.running,
            "generated": self._figures.generated,
            "tokens_per_second": rate,
        }

    async def _ask_deeply(self) -> Failure | None:
        """For a token, when none was made for a while: a port may be open and nobody behind it."""
        patience = self._deployment.patience
        if time.monotonic() - self._moved < patience.deep_period:
            return None
        if await asyncio.to_thread(self._gives_a_token):
            self._moved, self._deep_failures = time.monotonic(), 0
            return None
        self._deep_failures += 1
        if self._deep_failures < patience.deep_failures:
            return None
        return Failure("The engine's port is open, but it answers no question any more: it hangs.")

    def _gives_a_token(self) -> bool:
        """One that is too busy to take a question is not hanging."""
        timeout = self._deployment.patience.deep_timeout
        try:
            complete(self._endpoint, self._deployment.model, PROMPT, max_tokens=1, timeout=timeout)
        except StatusError as error:
            return error.status < 500 or error.status == 503
        except DeployError:
            return False
        return True
