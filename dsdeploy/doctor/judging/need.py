"""What facts are judged for."""

from __future__ import annotations

from dataclasses import dataclass

from dsdeploy.hardware.profile import Accelerator, Machine
from dsdeploy.planning.rules import Rules


@dataclass(frozen=True)
class Engine:
    backend: str
    distribution: str | None
    """The Python package that it is installed as, where it is one."""
    rules: Rules

    def formats(self, chip: Accelerator) -> list[str]:
        """Of weights, that it takes on this chip."""
        return [
            name
            for name, support in self.rules.precisions.items()
            if chip.architecture in (*support.architectures, *support.weight_only)
        ]


@dataclass(frozen=True)
class Need:
    engine: Engine | None = None
    """None: whatever may come."""
    machine: Machine | None = None
    """As a profile has it."""
