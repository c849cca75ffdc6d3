"""What the routes share, and who may be served now."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dsdeploy.runner.server.generation import Generation, Mailbox
from dsdeploy.runner.server.intake import Asked, Intake
from dsdeploy.runner.server.metrics import Metrics
from dsdeploy.runner.server.refusal import RefusedError
from dsdeploy.runner.service import EngineService


@dataclass
class Endpoint:
    intake: Intake
    service: EngineService
    metrics: Metrics
    mailbox: Mailbox
    max_waiting: int
    facts: Mapping[str, Any]
    """For the chat page."""
    draining: bool = False

    def demand_open(self) -> None:
        if self.draining:
            sentence = "The server is shutting down."
            raise RefusedError(503, sentence, "shutting_down", retry_after=30)

    def generate(self, asked: Asked) -> Generation:
        """Begun: whoever asks must `close` it. Raises RefusedError when too many wait already."""
        self.demand_open()
        waiting, choices = self.service.waiting, len(asked.prompts)
        if choices > self.max_waiting:
            sentence = f"{choices} choices are more than the {self.max_waiting} that may wait."
            raise RefusedError(400, sentence, param="n")
        if waiting + choices > self.max_waiting:
            sentence = f"{waiting} requests are waiting already; try again later."
            raise RefusedError(429, sentence, "queue_full", retry_after=5)
        return Generation(self.service, self.mailbox, asked.prompts, asked.settings)
