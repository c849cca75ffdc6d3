"""The file of an engine's catalogue: one line an entry, so that a new release changes few lines.

An entry is in the releases that its spans say: "0.9.2-0.12.0" is both ends included, "0.9.2" one
release, "0.9.2-" goes on to the newest one; several stand with commas between, and none at all are
all releases. A choice that is not in all releases of its entry stands with its own: `["fp8",
"0.10.0-"]`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Entry = dict[str, Any]
LETTERS = {"a": -3, "b": -2, "rc": -1, "dev": -4, "post": 1}


@dataclass
class Contents:
    """For each release its commands, the environment variables that it reads, and the habits of its
    parser. `kept` is what is written by hand."""

    engine: str
    commands: dict[str, dict[str, list[Entry]]] = field(default_factory=dict)
    environment: dict[str, list[str]] = field(default_factory=dict)
    traits: dict[str, list[str]] = field(default_factory=dict)
    kept: dict[str, Any] = field(default_factory=dict)

    def releases(self) -> list[str]:
        return sorted(self.commands, key=order)


def order(release: str) -> tuple[tuple[int, int], ...]:
    """1.2.0rc5 < 1.2.0 < 1.2.0.post1 < 1.10.0."""
    parts = re.findall(r"([a-z]+)?\.?(\d+)", release)
    return (*((LETTERS.get(letters, 0), int(number)) for letters, number in parts), (0, -1))


def decode(text: str) -> Contents:
    data = json.loads(text)
    releases: list[str] = data.pop("releases")
    contents = Contents(data.pop("engine"))
    commands, environment = data.pop("commands"), data.pop("environment")
    traits = data.pop("traits")
    for release in releases:
        covers = _covers(releases, release)
        contents.commands[release] = {
            command: [_at(entry, covers) for entry in found if covers(entry.get("releases"))]
            for command, found in commands.items()
        }
        contents.environment[release] = [n for n, spans in environment.items() if covers(spans)]
        contents.traits[release] = [n for n, spans in traits.items() if covers(spans)]
    contents.kept = data
    return contents


def _covers(releases: list[str], release: str) -> Callable[[str | None], bool]:
    at = releases.index(release)

    def within(span: str) -> bool:
        first, dash, last = span.partition("-")
        end = last or (releases[-1] if dash else first)
        return releases.index(first) <= at <= releases.index(end)

    return lambda spans: not spans or any(map(within, spans.split(", ")))


def _at(entry: Entry, covers: Any) -> Entry:
    """An entry as it is in one release."""
    found = {key: value for key, value in entry.items() if key != "releases"}
    if "choices" in found:
        pairs = [c if isinstance(c, list) else [c, None] for c in found["choices"]]
        found["choices"] = [choice for choice, spans in pairs if covers(spans)]
    return found


def encode(contents: Contents) -> str:
    releases = contents.releases()
    names = dict.fromkeys(c for release in releases for c in contents.commands[release])
    commands = {
        name: _entries({r: contents.commands[r].get(name, []) for r in releases}) for name in names
    }
    traits, environment = (
        _named(found, releases) for found in (contents.traits, contents.environment)
    )
    head = {"engine": contents.engine, "releases": releases, "traits": traits} | contents.kept
    parts = [f"{json.dumps(key)}: {_block(value)}" for key, value in head.items()]
    parts += [f'"commands": {_block(commands)}', f'"environment": {_block(environment)}']
    return "{\n" + ",\n".join(parts) + "\n}\n"


def _named(found: dict[str, list[str]], releases: list[str]) -> dict[str, str]:
    names = sorted({name for some in found.values() for name in some})
    return {name: _spans([r for r in releases if name in found[r]], releases) for name in names}


def _entries(found: dict[str, list[Entry]]) -> list[Entry]:
    """The same flag with the same attributes is one entry, whatever choices it has when."""
    releases = list(found)
    groups: dict[str, dict[str, Entry]] = {}
    for release, entries in found.items():
        for entry in entries:
            key = json.dumps(entry | ({"choices": []} if "choices" in entry else {}))
            groups.setdefault(key, {})[release] = entry
    merged = [_merged(group, releases) for group in groups.values()]
    return sorted(
        merged, key=lambda e: (e["names"][0].lstrip("-"), releases.index(_first(e, releases)))
    )


def _first(entry: Entry, releases: list[str]) -> str:
    return re.split("[-,]", entry["releases"])[0] if "releases" in entry else releases[0]


def _merged(group: dict[str, Entry], releases: list[str]) -> Entry:
    within = list(group)
    entry = dict(group[within[-1]])
    if "choices" in entry:
        entry["choices"] = _choices({r: one["choices"] for r, one in group.items()})
    spans = _spans(within, releases)
    return entry | ({"releases": spans} if spans else {})


def _choices(found: dict[str, list[Any]]) -> list[Any]:
    within = list(found)
    every = dict.fromkeys(choice for choices in reversed(found.values()) for choice in choices)
    spans = {c: _spans([r for r in within if c in found[r]], within) for c in every}
    return [[choice, spans[choice]] if spans[choice] else choice for choice in every]


def _spans(some: list[str], releases: list[str]) -> str:
    """ "" where they are all."""
    runs: list[list[str]] = []
    for number, release in enumerate(releases):
        if release in some:
            if number and releases[number - 1] in some:
                runs[-1] = [runs[-1][0], release]
            else:
                runs.append([release, release])
    texts = [_span(first, last, releases[-1]) for first, last in runs]
    return "" if some == releases else ", ".join(texts)


def _span(first: str, last: str, newest: str) -> str:
    if last == newest:
        return f"{first}-"
    return first if first == last else f"{first}-{last}"


def _block(value: Any) -> str:
    """Lines for what a list or a table holds, and one line for each of those."""
    match value:
        case dict() if value:
            lines = [f"{json.dumps(key)}: {_line(one)}" for key, one in value.items()]
            return "{\n" + ",\n".join(lines) + "\n}"
        case _:
            return _line(value)


def _line(value: Any) -> str:
    if isinstance(value, list) and value and isinstance(value[0], dict):
        return "[\n" + ",\n".join(_line(one) for one in value) + "\n]"
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def load(path: Path, engine: str) -> Contents:
    return decode(path.read_text(encoding="utf-8")) if path.exists() else Contents(engine)
