"""A backend: an engine that can be given a plan. Found through the entry points `dsdeploy.backends`,
built-in ones exactly as others."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib.metadata import EntryPoint, PackageNotFoundError, entry_points, version
from importlib.resources import files
from typing import Protocol

from pydantic import ValidationError

from dsdeploy.deploy.launch import Launch
from dsdeploy.deploy.wanted import Wanted
from dsdeploy.errors import UsageError
from dsdeploy.planning.plan import Plan
from dsdeploy.planning.rules import Rules
from dsdeploy.strict_yaml import load_yaml

GROUP = "dsdeploy.backends"


@dataclass(frozen=True)
class CommandLine:
    """How an engine's server is called: by these words, with the flags that a catalogue knows."""

    words: tuple[str, ...]
    package: str
    """That holds its `flags.json`."""
    command: str = "serve"
    """Its name in the catalogue."""


class Backend(Protocol):
    name: str
    command_lines: tuple[CommandLine, ...]
    """Whose flags are checked; none for an engine without a catalogue."""
    distribution: str | None
    """The Python package that the engine is installed as, where it is one."""

    def rules(self) -> Rules:
        """What it can do on which accelerator, and what it takes."""

    def launch(self, plan: Plan, wanted: Wanted, release: str | None) -> Launch:
        """What to run. `release` None: the newest that is known. Raises UsageError for what this
        release cannot do."""


class PackagedBackend:
    """What most backends share: rules in the `rules.yaml` that lies beside their code."""

    distribution: str | None = None
    command_lines: tuple[CommandLine, ...] = ()

    def rules(self) -> Rules:
        package = type(self).__module__
        text = files(package).joinpath("rules.yaml").read_text(encoding="utf-8")
        return parse_rules(text, f"{package}/rules.yaml")


def parse_rules(text: str, where: str) -> Rules:
    try:
        return Rules.model_validate(load_yaml(text, where))
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise UsageError(f"{where}: {place}: {first['msg']}.") from None


def backend_names() -> list[str]:
    return sorted(_entries())


def load_backend(name: str) -> Backend:
    entries = _entries()
    if name not in entries:
        raise UsageError(
            f"There is no backend {name!r}.", f"Installed: {', '.join(sorted(entries))}."
        )
    found: Backend = entries[name].load()()
    return found


@cache
def _entries() -> dict[str, EntryPoint]:
    return {entry.name: entry for entry in entry_points(group=GROUP)}


def installed_release(backend: Backend) -> str | None:
    """Of the engine in this very environment."""
    if backend.distribution is None:
        return None
    try:
        return version(backend.distribution)
    except PackageNotFoundError:
        return None
