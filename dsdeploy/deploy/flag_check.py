"""Checks a command line against a catalogue, reading it as the engine's own parser would."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, Literal

from dsdeploy.deploy.flags import Catalogue, Flag, History, history, order

Kind = Literal[
    "unknown",
    "removed",
    "not yet",
    "deprecated",
    "ambiguous",
    "abbreviation",
    "value",
    "environment",
]
NEGATIVE = re.compile(r"-\d+|-\d*\.\d+")
SIZE = re.compile(r"\d+(\.\d+)?[kmgt]|\d+[KMGT]")
JSON_SIZE = re.compile(r'("(?:[^"\\]|\\.)*")|\b(\d+)(?:\.\d+)?[kKmMgGtT]\b')
SHORT = 2


@dataclass(frozen=True)
class Problem:
    """`argument` as it was given. `instead` is what to write in its place, where that is known."""

    kind: Kind
    argument: str
    message: str
    instead: str | None = None


def check_arguments(
    catalogue: Catalogue, argv: Sequence[str], environment: Mapping[str, str] | None = None
) -> list[Problem]:
    """Of the words behind the command. Positional arguments are not checked."""
    problems = list(_check(catalogue, list(argv)))
    return problems + list(_check_environment(catalogue, environment or {}))


def _check(catalogue: Catalogue, words: list[str]) -> Iterator[Problem]:
    while words:
        word = words.pop(0)
        if word == "--":
            return
        if _is_option(word, catalogue):
            yield from _check_option(catalogue, word, words)


def _is_option(word: str, catalogue: Catalogue) -> bool:
    """As argparse: neither `-1` nor what has a space in its name."""
    name = word.partition("=")[0]
    if not word.startswith("-") or word == "-" or NEGATIVE.fullmatch(word):
        return False
    return name in catalogue.flags or " " not in name


def _check_option(catalogue: Catalogue, word: str, words: list[str]) -> Iterator[Problem]:
    name, equals, rest = word.partition("=")
    attached = rest if equals else None
    if "dotted" in catalogue.traits and "." in name:
        yield from _check_dotted(catalogue, name, attached, words)
        return
    known, problem, short = _resolve(catalogue, name)
    if problem is not None:
        yield problem
    if known is None:
        _skip_values(catalogue, attached, words)
        return
    flag = catalogue.flags[known]
    if flag.deprecated is not None:
        yield _deprecated(catalogue, name, flag)
    yield from _check_values(catalogue, known, flag, attached if short is None else short, words)


def _skip_values(catalogue: Catalogue, attached: str | None, words: list[str]) -> None:
    """What stands behind an unknown flag is taken to be its own."""
    while attached is None and words and not _is_option(words[0], catalogue):
        words.pop(0)


def _resolve(catalogue: Catalogue, name: str) -> tuple[str | None, Problem | None, str | None]:
    """The known spelling, what is wrong with this one, and a value attached to it, as in `-O3`."""
    exact = _dashed(catalogue, name)
    if exact in catalogue.flags:
        return exact, None, None
    if not name.startswith("--") and name[:SHORT] in catalogue.flags:
        return name[:SHORT], None, name[SHORT:]
    if name.startswith("-O") and "--optimization-level" in catalogue.flags:
        return "--optimization-level", None, name[SHORT:] or None
    near = [one for one in catalogue.flags if one.startswith(exact)]
    if not near or not (catalogue.abbreviations or not name.startswith("--")):
        return None, _missing(catalogue, name, exact), None
    if len(near) > 1:
        message = f"{name} could be any of {', '.join(sorted(near))}."
        return None, Problem("ambiguous", name, message), None
    message = f"{name} works by accident, as the start of {near[0]}: a new flag may end that."
    return near[0], Problem("abbreviation", name, message, near[0]), None


def _dashed(catalogue: Catalogue, name: str) -> str:
    """vLLM's parser takes `--max_model_len` for `--max-model-len`."""
    if "underscores" in catalogue.traits and name.startswith("--"):
        head, dot, tail = name.partition(".")
        return head.replace("_", "-") + dot + tail
    return name


def _missing(catalogue: Catalogue, name: str, exact: str) -> Problem:
    past = history(catalogue.package, exact, catalogue.command)
    here = f"{catalogue.engine} {catalogue.release} has no {name}"
    if past is None:
        near = get_close_matches(exact, catalogue.flags, 1, 0.8)
        return Problem("unknown", name, f"{here}.", near[0] if near else None)
    later = _later(past, catalogue.release)
    if later is not None:
        return Problem("not yet", name, f"{here}: it needs {catalogue.engine} >= {later}.")
    since = f" since {past.gone}" if past.gone else ""
    return Problem("removed", name, f"{here}: it is gone{since}.", past.instead)


def _later(past: History, release: str) -> str | None:
    """The first release after this one that has it."""
    firsts = [span.first for span in past.spans if order(span.first) > order(release)]
    return firsts[0] if firsts else None


def _deprecated(catalogue: Catalogue, name: str, flag: Flag) -> Problem:
    message = f"{name} is deprecated in {catalogue.engine} {catalogue.release}."
    past = history(catalogue.package, flag.names[0], catalogue.command)
    renamed = past.instead if past else None
    return Problem("deprecated", name, message, flag.deprecated or renamed)


def _check_dotted(
    catalogue: Catalogue, name: str, attached: str | None, words: list[str]
) -> Iterator[Problem]:
    """`--config.key value` is `--config '{"key": value}'`."""
    base = _dashed(catalogue, name).partition(".")[0]
    if base not in catalogue.flags:
        _skip_values(catalogue, attached, words)
        yield _missing(catalogue, name.partition(".")[0], base)
    elif not catalogue.flags[base].type.startswith(("json", "str", "any")):
        _skip_values(catalogue, attached, words)
        yield Problem("value", name, f"{base} has no parts.", base)
    elif attached is None:
        if not words:
            yield Problem("value", name, f"{name} needs a value.")
        words[:1] = []


def _check_values(
    catalogue: Catalogue, name: str, flag: Flag, attached: str | None, words: list[str]
) -> Iterator[Problem]:
    least, most = _numbers(flag.takes)
    if attached is not None:
        values = [attached]
    else:
        values = []
        while words and len(values) < most and not _is_option(words[0], catalogue):
            values.append(words.pop(0))
        if values == [] and least and words and words[0] == "--":
            values = words[1:2]
    if most == 0 and values:
        yield Problem("value", name, f"{name} takes no value.")
    elif len(values) < least:
        wanted = "a value" if least == 1 else f"{least} values"
        yield Problem("value", name, f"{name} needs {wanted}.")
    else:
        yield from filter(None, (_check_value(catalogue, name, flag, value) for value in values))


def _numbers(takes: str) -> tuple[int, int]:
    """The least number of values and the most."""
    many = 1_000_000
    known = {"none": (0, 0), "one": (1, 1), "optional": (0, 1), "many": (1, many), "any": (0, many)}
    return known.get(takes) or (int(takes), int(takes))


def _check_value(catalogue: Catalogue, name: str, flag: Flag, value: str) -> Problem | None:
    kind = flag.type.removesuffix("?")
    if kind != flag.type and value in ("", "None"):
        return None
    if not _READS[kind](value, "dotted" in catalogue.traits):
        wanted = {"size": "a number, or one like 128k", "json": "JSON"}.get(kind, f"of type {kind}")
        return Problem("value", name, f"{name} {value}: it is to be {wanted}.")
    if flag.choices and not _chosen(flag, kind, value):
        known = ", ".join(map(str, flag.choices))
        return Problem("value", name, f"{name} {value}: it is to be one of {known}.")
    return None


def _chosen(flag: Flag, kind: str, value: str) -> bool:
    """An engine's own function may change a value before it is compared: case and dashes."""
    choices = {str(one) for one in flag.choices}
    if kind == "int":
        return str(int(value)) in choices
    return value in choices or (kind == "any" and value.lower().replace("-", "_") in choices)


def _reads(convert: Callable[[str], Any], value: str) -> bool:
    try:
        convert(value)
    except ValueError:
        return False
    return True


def _reads_json(value: str, sizes: bool) -> bool:
    """vLLM takes `{"cpu_bytes": 80m}`."""
    plain = JSON_SIZE.sub(lambda found: found[1] or found[2], value) if sizes else value
    return _reads(json.loads, plain)


def _reads_size(value: str, sizes: bool) -> bool:
    return SIZE.fullmatch(value.strip()) is not None or _reads(int, value)


_READS: dict[str, Callable[[str, bool], bool]] = {
    "str": lambda value, sizes: True,
    "any": lambda value, sizes: True,
    "bool": lambda value, sizes: True,
    "int": lambda value, sizes: _reads(int, value),
    "float": lambda value, sizes: _reads(float, value),
    "json": _reads_json,
    "size": _reads_size,
    "size or auto": lambda value, sizes: value.lower() == "auto" or _reads_size(value, sizes),
}


def _check_environment(catalogue: Catalogue, environment: Mapping[str, str]) -> Iterator[Problem]:
    """Only of variables with the engine's own prefixes."""
    for name in sorted(environment):
        if name.startswith(catalogue.environment_prefixes) and name not in catalogue.environment:
            found = _missing(catalogue, name, name)
            message = found.message.replace("has no", "does not read", 1)
            yield Problem("environment", name, message, found.instead)
