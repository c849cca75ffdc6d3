"""Engines' command lines in a shell script, with the environment that holds where they stand."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace

from dsdeploy.deploy.doubts import called_command
from dsdeploy.deploy.lint.docker import assigned, docker_run
from dsdeploy.deploy.lint.found import Found, Piece, Variable, Word
from dsdeploy.deploy.lint.shell import read_commands

_ASSIGNMENT = re.compile(r"[A-Za-z_]\w*\+?=")
_KEYWORDS = {"then", "do", "else", "elif", "if", "while", "until", "{", "!", "time", "exec", "sudo"}
_TALK = {"echo", "printf", "pkill", "pgrep", "killall", "grep", "which", "type", "command"}
"""What only speaks of a command."""
_SPACE = re.compile(r"\s")
_DEEPEST = 4


def read_script(piece: Piece) -> Iterator[Found]:
    """Of engines only."""
    return _Script({}).read(piece, 0)


def found_in(found: Found) -> Iterator[Found]:
    """The engines' command lines in one: itself, what it starts in a container, or those in the
    scripts that it holds."""
    return _Script({}).inside(found, 0)


class _Script:
    """What a script has set so far."""

    def __init__(self, exported: dict[str, Variable]) -> None:
        self._exported = exported
        self._set: dict[str, Variable] = {}
        self._arrays: dict[str, tuple[Word, ...]] = {}

    def read(self, piece: Piece, depth: int) -> Iterator[Found]:
        for words in read_commands(piece):
            yield from self._command(words, depth)

    def _command(self, words: tuple[Word, ...], depth: int) -> Iterator[Found]:
        if words[0].text.endswith("=("):
            self._set_array(words)
            return
        words = _without_keywords(words)
        assignments, words = _leading_assignments(words)
        if not words:
            self._set |= {variable.name: variable for variable in assignments}
        elif words[0].text in ("export", "declare", "typeset"):
            self._export(words[1:])
        elif words[0].text not in _TALK:
            environment = self._exported | {variable.name: variable for variable in assignments}
            whole = tuple(self._spread(words))
            yield from self.inside(Found(whole, tuple(environment.values())), depth)

    def _set_array(self, words: tuple[Word, ...]) -> None:
        name = words[0].text.removesuffix("=(")
        before = self._arrays.get(name.removesuffix("+"), ()) if name.endswith("+") else ()
        self._arrays[name.removesuffix("+")] = (*before, *self._spread(words[1:]))

    def _spread(self, words: Sequence[Word]) -> Iterator[Word]:
        for word in words:
            yield from self._arrays.get(word.array, (word,)) if word.array else (word,)

    def _export(self, words: Sequence[Word]) -> None:
        for word in words:
            variable = assigned(word)
            if variable.value is None:
                variable = self._set.get(variable.name, variable)
            if variable.name.isidentifier():
                self._exported[variable.name] = variable

    def inside(self, found: Found, depth: int) -> Iterator[Found]:
        contained = docker_run(found.words)
        if contained is not None:
            found = contained
        if called_command([word.text for word in found.words]) is not None:
            yield found
        elif depth < _DEEPEST:
            yield from self._nested(found, depth)

    def _nested(self, found: Found, depth: int) -> Iterator[Found]:
        """Of `bash -c "..."`, `ssh HOST "..."` and the like."""
        for word in found.words:
            if _SPACE.search(word.text):
                inner = _Script({variable.name: variable for variable in found.environment})
                for one in inner.read(word.piece, depth + 1):
                    yield replace(
                        one,
                        container=one.container or found.container,
                        patience=one.patience or found.patience,
                        around=(*found.words, *one.around),
                    )


def _without_keywords(words: tuple[Word, ...]) -> tuple[Word, ...]:
    at = 0
    while at < len(words) - 1 and words[at].text in _KEYWORDS:
        at += 1
    return words[at:]


def _leading_assignments(words: tuple[Word, ...]) -> tuple[list[Variable], tuple[Word, ...]]:
    """Also behind `env`."""
    found: list[Variable] = []
    for at, word in enumerate(words):
        if _ASSIGNMENT.match(word.text):
            found.append(assigned(word))
        elif word.text != "env":
            return found, words[at:]
    return found, ()
