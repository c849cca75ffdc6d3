"""Which format a file has, and its reader."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Literal, get_args

from dsdeploy.deploy.lint.found import Found, Piece
from dsdeploy.deploy.lint.manifests import read_compose, read_kubernetes
from dsdeploy.deploy.lint.script import read_script
from dsdeploy.deploy.lint.systemd import read_unit

Format = Literal["shell", "compose", "kubernetes", "systemd"]
FORMATS: tuple[Format, ...] = get_args(Format)
_UNIT = re.compile(r"^\[Service\]\s*$", re.MULTILINE)
_COMPOSE = re.compile(r"^services:\s*(#.*)?$", re.MULTILINE)
_KUBERNETES = re.compile(r"^(\{\s*)?[\"']?(apiVersion|kind)[\"']?:\s", re.MULTILINE)


def guess_format(text: str, name: str) -> Format:
    """By content, then by name."""
    script = text.startswith("#!")
    if not script and (_UNIT.search(text) or name.endswith(".service")):
        return "systemd"
    if not script and _KUBERNETES.search(text):
        return "kubernetes"
    if not script and _COMPOSE.search(text):
        return "compose"
    return "kubernetes" if name.endswith((".yaml", ".yml")) else "shell"


def read_found(text: str, name: str, form: Format) -> Iterator[Found]:
    """Raises UsageError for what is not of the format."""
    if form == "systemd":
        return read_unit(text)
    if form == "compose":
        return read_compose(text, name)
    if form == "kubernetes":
        return read_kubernetes(text, name)
    return read_script(Piece(text, range(len(text))))
