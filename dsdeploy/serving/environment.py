"""What an engine's processes find in their environment: secrets come here, and nowhere else."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from dsdeploy.deploy.targets.words import variable
from dsdeploy.deploy.wanted import API_KEY
from dsdeploy.errors import UsageError
from dsdeploy.serving.deployment import Deployment

KEY_VARIABLE = "DSDEPLOY_API_KEY"
_ASSIGNMENT = re.compile(r"(?:export\s+)?([A-Za-z_][A-Za-z0-9_]*)=(.*)")


def given_environment(deployment: Deployment, own: Mapping[str, str]) -> dict[str, str]:
    """What is given for it on any node: the file's variables, and the secrets that scripts ask for."""
    file = deployment.environment_file
    found = read_environment_file(Path(file)) if file else {}
    key = key_of(deployment, own)
    return found | ({variable(API_KEY): key} if key else {})


def local_environment(deployment: Deployment, own: Mapping[str, str]) -> dict[str, str]:
    """That, over our own."""
    found = {name: value for name, value in own.items() if name != KEY_VARIABLE}
    found |= given_environment(deployment, own)
    if deployment.search_path:
        found["PATH"] = f"{deployment.search_path}:{found.get('PATH', '')}"
    return found


def key_of(deployment: Deployment, own: Mapping[str, str]) -> str | None:
    if not deployment.needs_key:
        return None
    return read_key(deployment.key_file, own)


def read_key(file: str, own: Mapping[str, str]) -> str:
    """Of the file, or else of the environment. Raises UsageError where there is none."""
    key = Path(file).read_text(encoding="utf-8").strip() if file else own.get(KEY_VARIABLE)
    if key is None:
        raise UsageError("There is no API key.", f"Set {KEY_VARIABLE}, or give --api-key-file.")
    if not key or not key.isprintable() or not key.isascii():
        raise UsageError(
            f"{file or KEY_VARIABLE} holds no usable API key.", "Write one line of ASCII into it."
        )
    return key


def read_environment_file(path: Path) -> dict[str, str]:
    """NAME=VALUE a line, as docker's --env-file: nothing is unquoted or expanded."""
    found = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        match = _ASSIGNMENT.fullmatch(line.strip())
        if match is None:
            raise UsageError(f"{path}, line {number}, is not NAME=VALUE.", "HF_TOKEN=...")
        found[match[1]] = match[2]
    return found
