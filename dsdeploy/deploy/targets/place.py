"""Where a Launch is to run, as far as a target must know, and what a target makes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True)
class Place:
    addresses: tuple[str, ...] = ()
    """Of all nodes, the first is the head; none: they are asked for when a node starts."""
    peers: Mapping[str, str] = field(default_factory=dict)
    """Of the first nodes of other launches, by their names; those that are missing are asked for."""
    folder: str = ""
    """On the nodes, absolute: where files are written and processes work. Empty: beside the script
    (shell, docker) or where the job was submitted (slurm)."""
    stop_seconds: int = 120
    """From the request to end until a process is killed."""
    namespace: str = ""
    secret_name: str = ""
    """The Secret of Kubernetes; empty: the launch's name and `-secrets`."""
    volume_size: str = "1Ti"
    storage_class: str = ""
    partition: str = ""
    account: str = ""
    time_limit: str = ""
    container_runtime: Literal["none", "pyxis", "apptainer"] = "none"
    """What Slurm starts containers with."""
    container_program: Literal["docker", "podman"] = "docker"
    """That runs containers outside of a scheduler."""
    user: str = ""
    """That systemd runs processes as; empty: one made for the unit."""


@dataclass(frozen=True)
class RenderedFile:
    path: str
    content: str
    mode: int = 0o644
