"""Flags and variables that a release does not take, and those of them that can be put right."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Literal

from dsdeploy.deploy.flag_check import Problem, check_arguments
from dsdeploy.deploy.flags import Catalogue, Flag, history, load_catalogue
from dsdeploy.deploy.lint.calls import Call, Option, segments
from dsdeploy.deploy.lint.finding import Edit, Finding
from dsdeploy.deploy.lint.found import UNKNOWN, Word

_RULES = {
    "unknown": "unknown-flag",
    "removed": "removed-flag",
    "not yet": "flag-not-yet",
    "deprecated": "deprecated-flag",
    "ambiguous": "ambiguous-flag",
    "abbreviation": "abbreviated-flag",
    "value": "flag-value",
    "environment": "dead-variable",
}
_WARNINGS = {"deprecated", "abbreviation", "environment"}
_OF_ANOTHER_MEANING = {"--max-seq-len-to-capture"}
"""Whose value would mean something else to what came after."""
_COMMENT = re.compile(r"[ \t]+#[^\r\n]*")
_BETWEEN_WORDS = re.compile(r"[\s\\,]*(-\s+)?")


def check_flags(call: Call, text: str) -> Iterator[Finding]:
    """`text` is the whole file's."""
    previous = call.before[-1]
    for segment in segments(call.arguments):
        for problem in check_arguments(call.catalogue, [word.text for word in segment]):
            if _is_certain(problem):
                word = segment[0]
                edit = _edit(call, problem, word, previous, text)
                yield _finding(problem, word.start, edit)
        previous = segment[-1] if segment else previous


def check_variables(call: Call) -> Iterator[Finding]:
    for variable in call.found.environment:
        for problem in check_arguments(call.catalogue, [], {variable.name: ""}):
            yield _finding(problem, variable.at)


def _is_certain(problem: Problem) -> bool:
    return UNKNOWN not in problem.argument + problem.message


def _finding(problem: Problem, at: int, edit: Edit | None = None) -> Finding:
    severity: Literal["error", "warning"] = "warning" if problem.kind in _WARNINGS else "error"
    fix = None if problem.instead is None else f"use {problem.instead}"
    if problem.kind == "removed" and (fix is None or (edit and not edit.new)):
        fix = "leave it out"
    return Finding(at, severity, _RULES[problem.kind], problem.message, fix, edit)


def _edit(call: Call, problem: Problem, word: Word, previous: Word, text: str) -> Edit | None:
    name = word.text.partition("=")[0]
    instead = _same_by_another_name(call.catalogue, problem, name)
    if instead is not None:
        return _renaming(word, name, instead, text)
    if problem.kind == "removed" and word.text == name and _says_nothing(call, name, problem):
        return _removal(word, previous, text)
    return None


def _same_by_another_name(catalogue: Catalogue, problem: Problem, name: str) -> str | None:
    if problem.kind == "abbreviation":
        return problem.instead
    if problem.kind == "unknown":
        alike = [one for one in catalogue.flags if _dashed(one) == _dashed(name)]
        return alike[0] if len(alike) == 1 else None
    if problem.kind not in ("removed", "deprecated") or name in _OF_ANOTHER_MEANING:
        return None
    return _successor(catalogue, problem, name)


def _dashed(name: str) -> str:
    return name.replace("_", "-")


def _successor(catalogue: Catalogue, problem: Problem, name: str) -> str | None:
    """What took its place, if that is one flag whose value has the same shape."""
    past = history(catalogue.package, name, catalogue.command)
    new = catalogue.flags.get(problem.instead or "")
    old = _last_known(catalogue, name)
    if new is None or old is None or (past and past.instead not in (None, problem.instead)):
        return None
    return problem.instead if _shape(old) == _shape(new) else None


def _shape(flag: Flag) -> tuple[str, str]:
    return flag.takes, flag.type.removesuffix("?")


def _last_known(catalogue: Catalogue, name: str) -> Flag | None:
    if name in catalogue.flags:
        return catalogue.flags[name]
    past = history(catalogue.package, name, catalogue.command)
    if past is None or not past.spans:
        return None
    release = past.spans[-1].last or past.spans[-1].first
    return load_catalogue(catalogue.package, release, catalogue.command).catalogue.flags[name]


def _says_nothing(call: Call, name: str, problem: Problem) -> bool:
    """A switch without a successor, or with one that is given beside it."""
    old = _last_known(call.catalogue, name)
    if old is None or old.takes != "none":
        return False
    flag, _, value = (problem.instead or "").removesuffix(" alone").partition(" ")
    given: Option | None = call.option(flag) if flag else None
    return not flag or (given is not None and value in ("", given.value))


def _renaming(word: Word, name: str, new: str, text: str) -> Edit | None:
    """Of the name alone, where it stands in the file as it is."""
    start = word.origins[0]
    if text[start : start + len(name)] != name:
        return None
    return Edit(start, start + len(name), new)


def _removal(word: Word, previous: Word, text: str) -> Edit | None:
    """With what parts it from the word before."""
    start = word.origins[0]
    as_written = text[start : start + len(word.text)] == word.text
    between = text[previous.end : word.start] if previous.end <= word.start else "?"
    if not as_written or _BETWEEN_WORDS.fullmatch(between) is None:
        return None
    return Edit(previous.end, _end_of_item(word, text), "")


def _end_of_item(word: Word, text: str) -> int:
    """Of an item of a YAML list its comment is part."""
    line = text.rfind("\n", 0, word.start) + 1
    comment = _COMMENT.match(text, word.end)
    item = text[line : word.start].strip() == "-" and comment
    return comment.end() if item and comment else word.end
