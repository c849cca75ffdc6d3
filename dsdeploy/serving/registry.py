"""All deployments of this user, and who watches them."""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from dsdeploy.client.endpoint import Endpoint
from dsdeploy.errors import DeployError, UsageError
from dsdeploy.serving.deployment import (
    Deployment,
    address_in,
    folder_of,
    read_deployment,
    state_folder,
)
from dsdeploy.serving.environment import key_of
from dsdeploy.serving.processes import members
from dsdeploy.serving.status import Status, read_status


@dataclass(frozen=True)
class Entry:
    folder: Path
    deployment: Deployment | None
    """None where its file is damaged."""
    status: Status | None
    watched: bool
    """Whether its supervisor lives."""
    processes: int
    """Of it that live on this machine."""

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def address(self) -> str:
        return "" if self.deployment is None else address_in(self.folder, self.deployment)

    @property
    def state(self) -> str:
        """As its user sees it: what the supervisor said last counts only while one lives."""
        if self.status is None:
            return "starting" if self.watched else "stopped"
        if self.watched or self.status.over:
            return self.status.state
        return "unwatched" if self.processes else "lost"


def entries() -> list[Entry]:
    folder = state_folder()
    if not folder.is_dir():
        return []
    return [entry(each) for each in sorted(folder.iterdir()) if (each / "deployment.json").exists()]


def entry(folder: Path) -> Entry:
    watched = is_locked(folder)
    status = read_status(folder)
    deployment = None
    with contextlib.suppress(DeployError):
        deployment = read_deployment(folder)
    count = len(members(status.marker)) if status and (watched or not status.over) else 0
    return Entry(folder, deployment, status, watched, count)


def find(name: str) -> Entry:
    folder = folder_of(name)
    if not (folder / "deployment.json").exists():
        known = ", ".join(each.name for each in entries())
        raise UsageError(
            f"There is no deployment {name!r}.", f"Known: {known}." if known else "None is known."
        )
    return entry(folder)


def endpoint_of(name: str, key: str | None = None) -> Endpoint:
    """With that key, or else the deployment's own, where it needs one."""
    found = find(name)
    if found.deployment is None or found.state not in ("ready", "unwatched"):
        raise UsageError(
            f"{name} is not ready: {found.state}.", f"dsdeploy logs {name} shows what it does."
        )
    address = address_in(found.folder, found.deployment)
    return Endpoint(address, key or key_of(found.deployment, os.environ))


def only_endpoint(key: str | None = None) -> Endpoint:
    """Of the one deployment that is ready."""
    ready = [each.name for each in entries() if each.state == "ready"]
    if len(ready) != 1:
        many = f"Several deployments are ready: {', '.join(ready)}."
        raise UsageError(
            many if ready else "No deployment is ready.", "Give a name, or an address."
        )
    return endpoint_of(ready[0], key)


def is_locked(folder: Path) -> bool:
    """Whether somebody holds the lock; a lock dies with its holder, whatever kills it."""
    try:
        with (folder / "lock").open("rb") as stream:
            fcntl.flock(stream, fcntl.LOCK_SH | fcntl.LOCK_NB)
            return False
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True


def refuse_if_running(folder: Path) -> None:
    if is_locked(folder):
        raise _runs_already(folder)


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[int]:
    """The lock's descriptor, which a supervisor inherits. Raises UsageError where it is held."""
    descriptor = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        if not _taken(descriptor):
            raise _runs_already(folder)
        yield descriptor
    finally:
        os.close(descriptor)


def _runs_already(folder: Path) -> UsageError:
    return UsageError(
        f"{folder.name} runs already.",
        f"dsdeploy stop {folder.name} ends it; --name gives this one another name.",
    )


def _taken(descriptor: int) -> bool:
    """Somebody who only looks holds it for a moment."""
    for _ in range(5):
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        time.sleep(0.05)
    return False
