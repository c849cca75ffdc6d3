"""What the engine asks of the model, as messages: so that every rank of a group does the same.

T tokens of a step   N rows whose logits are wanted   W vocabulary   D hidden
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from dsdeploy.runner.graphs import DecodingGraphs, Recording
from dsdeploy.runner.logits import Logits
from dsdeploy.runner.model import Model
from dsdeploy.runner.parallel import leave
from dsdeploy.runner.step import Step


@dataclass(frozen=True)
class Forward:
    """A step of the main model."""

    step: Step
    wanted: Tensor
    """[N] int64: rows of the step"""


@dataclass(frozen=True)
class Draft:
    """The MTP layer's turn after a Forward: `step.tokens` are those that follow its `rows`."""

    step: Step
    rows: Tensor
    """[T] int64: rows of the Forward"""
    wanted: Tensor


@dataclass(frozen=True)
class DraftAgain:
    """The MTP layer once more, from its own state: `rows` are of the last draft's wanted ones."""

    step: Step
    rows: Tensor


Command = Forward | Draft | DraftAgain


class Executor:
    """The model with its cache. Rank 0's engine calls `run`; the other ranks `follow`."""

    def __init__(
        self, model: Model, pages: int, choose_ahead: bool | None = None,
        recording: Recording | None = None,
    ) -> None:  # fmt: skip
        """`choose_ahead`: see `Logits`; None: on a GPU."""
        self.model, self.pages = model, pages
        on_gpu = model.device.type != "cpu"
        self._choose_ahead = on_gpu if choose_ahead is None else choose_ahead
        self._cache = model.new_cache(pages + (recording is not None))
        self._graphs = recording and DecodingGraphs(model, self._cache, recording)
        self._hidden_TD = torch.empty(0)
        self._drafted_ND = torch.empty(0)

    def run(self, command: Command) -> Logits:
        """Of the wanted rows."""
        self.model.group.broadcast(command)
        return Logits(self._execute(command), self._choose_ahead)

    def close(self) -> None:
        """Let the other ranks go."""
        if self.model.group.size > 1:
            self.model.group.broadcast(None)
            leave()

    def follow(self) -> None:
        """Do what rank 0 does, until it closes."""
        while (command := self.model.group.receive()) is not None:
            self._execute(command)

    def _execute(self, command: Command) -> Tensor:
        if self._graphs and isinstance(command, Forward):
            results = self._graphs.take(command.step)
            if results is not None:
                self._hidden_TD, logits_TW = results
                return logits_TW[command.wanted]
        command = replace(command, step=command.step.to(self.model.device))
        if isinstance(command, Forward):
            self._hidden_TD = self.model.hidden(command.step, self._cache)
            return self.model.logits(self._hidden_TD[command.wanted])
        if isinstance(command, Draft):
            state_TD = self.model.draft(command.step, self._hidden_TD[command.rows], self._cache)
            self._drafted_ND = state_TD[command.wanted]
        else:
            before_ND = self._drafted_ND[command.rows]
            self._drafted_ND = self.model.draft(command.step, before_ND, self._cache)
        return self.model.logits(self._drafted_ND)
