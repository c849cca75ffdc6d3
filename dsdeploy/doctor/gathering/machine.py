"""All facts of this machine."""

from __future__ import annotations

from pathlib import Path

from dsdeploy.doctor.facts import Facts
from dsdeploy.doctor.gathering.accelerators import accelerators
from dsdeploy.doctor.gathering.disk import measured
from dsdeploy.doctor.gathering.host import host
from dsdeploy.doctor.gathering.network import network
from dsdeploy.doctor.gathering.software import software


def gather(folder: Path, backend: str | None, python: Path | None) -> Facts:
    """One after the other, so that nothing disturbs what is measured; about four seconds. Raises
    UsageError where there is no such folder."""
    return Facts(
        storage=measured(folder),
        accelerators=accelerators(folder),
        software=software(backend, python),
        host=host(),
        network=network(),
    )
