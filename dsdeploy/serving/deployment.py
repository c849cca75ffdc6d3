"""What is to be kept running, as the folder of a deployment keeps it. No secret is ever in it.

NAME/deployment.json   this, written once
NAME/status.json       what the supervisor says of it, again and again
NAME/lock              held as long as a supervisor lives, however it dies
NAME/*.sh              what `dsdeploy render` makes for a shell, one a node
NAME/log, log.1, ...   what the engine prints, secrets removed
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from dsdeploy.deploy.launch import Phase
from dsdeploy.errors import DeployError, UsageError
from dsdeploy.whole_files import replace_file

STATE_VARIABLE = "DSDEPLOY_STATE"
_NAME = re.compile(r"[a-z0-9](?:[a-z0-9._-]{0,61}[a-z0-9])?", re.IGNORECASE)


@dataclass(frozen=True)
class Patience:
    """Seconds, and counts in a row."""

    startup: float
    """Until the engine must be ready."""
    answer: float = 300
    """For the first answer: an engine may compile for it."""
    deep_period: float = 60
    """Between two questions to an engine whose counters do not move."""
    deep_timeout: float = 120
    deep_failures: int = 3
    grace: float = 60
    """From the request to end until what is left is killed."""
    restarts: int = 5
    """In a row, of an engine that has once been ready."""
    backoff: float = 2
    """Before the first of them; doubled each time, up to `backoff_most`."""
    backoff_most: float = 120
    steady: float = 600
    """Ready for so long, an engine has all its restarts again."""


@dataclass(frozen=True)
class HealthCheck:
    """A GET that answers 200 when all is well."""

    path: str
    port: int
    period: float = 5
    timeout: float = 10
    failures: int = 6
    """In a row, until it counts."""


@dataclass(frozen=True)
class NodeScript:
    file: str
    """In the deployment's folder."""
    host: str = ""
    """Reached over ssh; empty: this machine."""


@dataclass(frozen=True)
class Deployment:
    name: str
    backend: str
    release: str
    model: str
    """What clients call it."""
    weights: str
    address: str
    """For clients: `http://127.0.0.1:8000`. Empty where a scheduler chooses the node."""
    nodes: tuple[NodeScript, ...]
    ready: HealthCheck
    alive: HealthCheck
    patience: Patience
    phases: tuple[Phase, ...] = ()
    needs_key: bool = False
    key_file: str = ""
    """Where the API key is read from; empty: from the environment."""
    environment_file: str = ""
    search_path: str = ""
    """Put before PATH: where the engine's programs are."""
    ssh_config: str = ""
    """For hosts; empty: ssh's own."""
    command: tuple[str, ...] = ()
    """That made it."""


_ADAPTER = TypeAdapter(Deployment)


def state_folder() -> Path:
    """Of all deployments of this user."""
    if chosen := os.environ.get(STATE_VARIABLE):
        return Path(chosen)
    home = os.environ.get("XDG_STATE_HOME") or str(Path.home() / ".local" / "state")
    return Path(home) / "dsdeploy"


def address_in(folder: Path, deployment: Deployment) -> str:
    """For clients; empty as long as nobody knows where the scheduler has put it."""
    if deployment.address:
        return deployment.address
    told = folder / "address"
    return told.read_text(encoding="utf-8") if told.exists() else ""


def folder_of(name: str) -> Path:
    if not _NAME.fullmatch(name):
        raise UsageError(
            f"{name!r} is no name of a deployment.", "Use letters, digits, dots and dashes."
        )
    return state_folder() / name


def write_deployment(folder: Path, deployment: Deployment) -> None:
    replace_file(folder / "deployment.json", _ADAPTER.dump_json(deployment, indent=2), 0o600)


def read_deployment(folder: Path) -> Deployment:
    path = folder / "deployment.json"
    try:
        return _ADAPTER.validate_json(path.read_bytes())
    except FileNotFoundError:
        raise UsageError(
            f"There is no deployment {folder.name!r}.", "dsdeploy ps lists them."
        ) from None
    except ValidationError:
        raise DeployError(
            f"{path} is damaged, or of another release of dsdeploy.",
            f"dsdeploy stop {folder.name} ends what runs and forgets it.",
        ) from None
