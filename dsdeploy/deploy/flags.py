"""Which release of an engine takes which command-line flag.

A backend's `flags.json` holds what `tools/flag_catalogue.py` read from the engine's releases. See
docs/flags.md.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

from dsdeploy.errors import UsageError

STAGES = {"dev": -4, "a": -3, "b": -2, "rc": -1, "post": 1}


@dataclass(frozen=True)
class Flag:
    """`takes` is none, one, optional (none or one), many (at least one), any (none or more), or a
    number. `type` is str, int, float, bool, json, size (128k), "size or auto", or any (a function of
    the engine's own); with ? behind it None is taken as well. `deprecated` is what to use in its
    place, "" if nothing is said, None if it is not deprecated."""

    names: tuple[str, ...]
    takes: str
    type: str = "str"
    choices: tuple[Any, ...] = ()
    default: Any = None
    deprecated: str | None = None


@dataclass(frozen=True)
class Catalogue:
    """What one command of one release takes. `flags` has every spelling. `traits` are habits of its
    parser: abbreviations (of long flags), underscores (for dashes), dotted (`--config.key value`)."""

    package: str
    engine: str
    release: str
    command: str
    flags: Mapping[str, Flag]
    environment: frozenset[str]
    environment_prefixes: tuple[str, ...]
    traits: frozenset[str]

    @property
    def abbreviations(self) -> bool:
        return "abbreviations" in self.traits


@dataclass(frozen=True)
class Choice:
    """A catalogue, and what to know about its being chosen: "" where it is just the one asked for."""

    catalogue: Catalogue
    note: str = ""


@dataclass(frozen=True)
class Span:
    """From the first known release with something to the last one; None: it is in the newest."""

    first: str
    last: str | None


@dataclass(frozen=True)
class History:
    """When there was a flag or an environment variable. `gone` is the first release without it, as
    far as is known, if the newest one has none; `instead` what took its place."""

    spans: tuple[Span, ...]
    gone: str | None = None
    instead: str | None = None


def order(release: str) -> tuple[tuple[int, int], ...]:
    """A key to sort by: 1.2.0rc5 < 1.2.0 < 1.2.0.post1 < 1.10.0. What stands behind a + is left out."""
    parts = re.findall(r"([a-z]+)?\.?(\d+)", release.partition("+")[0].lstrip("v"))
    numbers = [(STAGES.get(letters, 0), int(number)) for letters, number in parts]
    return (*numbers, (0, -1))


def load_catalogue(package: str, release: str | None = None, command: str = "serve") -> Choice:
    """Of the release, or of the newest known one before it; without a release, of the newest."""
    data = _contents(package)
    nearest = _nearest(data, release) if release else data["releases"][-1]
    if command not in data["commands"]:
        known = ", ".join(data["commands"])
        raise UsageError(f"There is no flag catalogue of {data['engine']}'s {command}.", known)
    catalogue = _catalogue(package, nearest, command)
    if release is None or order(release) == order(nearest):
        return Choice(catalogue)
    note = f"The flags of {data['engine']} {release} are not known; those of {nearest} are used."
    return Choice(catalogue, note)


def is_older_than_known(package: str, release: str) -> bool:
    """Then nothing can be said of its flags."""
    return order(release) < order(_contents(package)["releases"][0])


def history(package: str, spelling: str, command: str = "serve") -> History | None:
    """None of what no known release has. Also of an environment variable."""
    data = _contents(package)
    releases: list[str] = data["releases"]
    has = [spelling in _catalogue(package, r, command).flags for r in releases]
    if not spelling.startswith("-"):
        covered = data["environment"].get(spelling)
        has = [covered is not None and _covers(covered, releases, r) for r in releases]
    spans = tuple(_runs(has, releases))
    rename = data["renames"].get(spelling, {})
    if not spans and not rename:
        return None
    gone = None if has[-1] else _after(spans[-1].last, releases) if spans else None
    return History(spans, rename.get("since", gone), rename.get("instead"))


def spelling(catalogue: Catalogue, *alternatives: str) -> str:
    """The first of several spellings that this release knows."""
    for one in alternatives:
        if one in catalogue.flags:
            return one
    found = [history(catalogue.package, one, catalogue.command) for one in alternatives]
    firsts = [span.first for past in found if past for span in past.spans]
    later = [first for first in firsts if order(first) > order(catalogue.release)]
    message = f"{catalogue.engine} {catalogue.release} has no {' or '.join(alternatives)}"
    if later:
        needed = min(later, key=order)
        raise UsageError(f"{message}.", f"It needs {catalogue.engine} >= {needed}.")
    raise UsageError(f"{message}.")


@cache
def _contents(package: str) -> dict[str, Any]:
    text = files(package).joinpath("flags.json").read_text(encoding="utf-8")
    found: dict[str, Any] = json.loads(text)
    return found


def _nearest(data: dict[str, Any], release: str) -> str:
    older = [known for known in data["releases"] if order(known) <= order(release)]
    if not older:
        oldest = data["releases"][0]
        raise UsageError(
            f"{data['engine']} {release} is too old: its flags are not known.",
            f"The oldest known release is {oldest}.",
        )
    nearest: str = older[-1]
    return nearest


@cache
def _catalogue(package: str, release: str, command: str) -> Catalogue:
    data = _contents(package)
    releases = data["releases"]
    entries = data["commands"][command]
    kept = [e for e in entries if _covers(e.get("releases", ""), releases, release)]
    flags = [_flag(entry, releases, release) for entry in kept]
    names = {name: flag for flag in flags for name in flag.names}
    environment, traits = (
        frozenset(n for n, spans in data[key].items() if _covers(spans, releases, release))
        for key in ("environment", "traits")
    )
    prefixes = tuple(data["environment_prefixes"])
    engine = data["engine"]
    return Catalogue(package, engine, release, command, names, environment, prefixes, traits)


def _flag(entry: dict[str, Any], releases: list[str], release: str) -> Flag:
    """A choice that only some releases have stands with its spans: `["fp8", "0.10.0-"]`."""
    pairs = [one if isinstance(one, list) else [one, ""] for one in entry.get("choices", [])]
    choices = tuple(one for one, spans in pairs if _covers(spans, releases, release))
    kept = {key: value for key, value in entry.items() if key in ("takes", "type", "deprecated")}
    return Flag(tuple(entry["names"]), choices=choices, default=entry.get("default"), **kept)


def _covers(spans: str, releases: list[str], release: str) -> bool:
    """Whether "0.8.5-0.9.2, 0.11.0, 0.12.0-" has a release: an end left open goes on to the newest
    one. No spans are all releases."""
    at = releases.index(release)
    for span in spans.split(", ") if spans else []:
        first, dash, last = span.partition("-")
        end = last or (releases[-1] if dash else first)
        if releases.index(first) <= at <= releases.index(end):
            return True
    return not spans


def _runs(has: Iterable[bool], releases: list[str]) -> Iterator[Span]:
    first: str | None = None
    before = ""
    for present, release in zip(has, releases, strict=True):
        if present and first is None:
            first = release
        elif not present and first is not None:
            yield Span(first, before)
            first = None
        before = release
    if first is not None:
        yield Span(first, None)


def _after(release: str | None, releases: list[str]) -> str | None:
    return None if release is None else releases[releases.index(release) + 1]
