"""systemd units: what ExecStart= calls, with Environment=."""

from __future__ import annotations

import re
from collections.abc import Iterator

from dsdeploy.deploy.lint.docker import assigned
from dsdeploy.deploy.lint.found import UNKNOWN, Found, Piece, Variable, Word, substitute
from dsdeploy.deploy.lint.script import found_in
from dsdeploy.deploy.lint.shell import split_words

_LINE = re.compile(r"(\w+)\s*=\s*")
_PREFIX = re.compile(r"[-@:+!|]*")
_SPECIFIER = re.compile(r"%%|%[A-Za-z]")
_COMMENT = re.compile(r"\s*[#;]")


def read_unit(text: str) -> Iterator[Found]:
    settings = list(_settings(text))
    environment = tuple(
        variable for name, piece in settings if name == "Environment" for variable in _assign(piece)
    )
    for name, piece in settings:
        if name in ("ExecStart", "ExecStartPre"):
            yield from found_in(Found(tuple(_words(piece)), environment))


def _settings(text: str) -> Iterator[tuple[str, Piece]]:
    """Each with its lines joined: comments between them are left out."""
    origins: list[int] = []
    name, value, at, goes_on = "", "", 0, False
    for line in text.splitlines(keepends=True):
        bare = line.rstrip()
        match = _LINE.match(bare)
        begin = 0
        if _COMMENT.match(bare):
            at += len(line)
            continue
        if not goes_on:
            name, value, origins = (match[1] if match else ""), "", []
            begin = match.end() if match else len(bare)
        goes_on = bare.endswith("\\")
        end = len(bare) - goes_on
        value += bare[begin:end] + " "
        origins += [*range(at + begin, at + end), at + end]
        at += len(line)
        if not goes_on and name:
            yield name, Piece(value, tuple(origins))


def _assign(piece: Piece) -> Iterator[Variable]:
    return (assigned(word) for word in _words(piece) if "=" in word.text)


def _words(piece: Piece) -> Iterator[Word]:
    begin = _PREFIX.match(piece.text)
    at = begin.end() if begin else 0
    for word in split_words(Piece(piece.text[at:], piece.origins[at:])):
        yield substitute(word, _SPECIFIER, lambda found: "%" if found == "%%" else UNKNOWN)
