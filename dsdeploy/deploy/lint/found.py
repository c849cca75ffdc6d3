"""What readers of formats find: command lines, with the place in the file of every word.

Offsets count characters from the start of the file.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

UNKNOWN = "\0"
"""Stands in a word for what is known only when it runs: $X, $(...), %i."""


Reach = Literal["nobody", "cluster", "published", "host"]


@dataclass(frozen=True)
class Piece:
    """A text that holds commands: a file, or a part of one that quoting or YAML has changed."""

    text: str
    origins: Sequence[int]
    """Where in the file each character comes from."""


@dataclass(frozen=True)
class Word:
    text: str
    origins: tuple[int, ...]
    """Of each character of `text`."""
    start: int
    end: int
    """Of the word as it is written, quotes included."""
    array: str = ""
    """The array that it is expanded to, of a script's "${NAME[@]}"."""

    @property
    def known(self) -> bool:
        return UNKNOWN not in self.text

    @property
    def piece(self) -> Piece:
        return Piece(self.text, self.origins)


@dataclass(frozen=True)
class Variable:
    name: str
    value: Word | None
    """None: taken over from elsewhere."""
    at: int


@dataclass(frozen=True)
class Container:
    """`reach`: who gets to its ports: nobody outside, the cluster, those who reach the published
    ports, or, on the host's network, whoever the engine listens to."""

    image: str | None = None
    at: int = 0
    reach: Reach = "nobody"
    orchestrated: bool = False
    """Whether Kubernetes runs it."""
    shared_memory: bool = False
    """Whether it has more than the 64 MB of /dev/shm that are usual."""


@dataclass(frozen=True)
class Patience:
    """How long a probe lets a process be silent before it counts as dead."""

    probe: str
    seconds: float
    at: int


@dataclass(frozen=True)
class Found:
    words: tuple[Word, ...]
    environment: tuple[Variable, ...] = ()
    container: Container | None = None
    """None: it runs straight on a machine."""
    patience: tuple[Patience, ...] = ()
    around: tuple[Word, ...] = ()
    """Of the command line that this one is a word of."""


def substitute(word: Word, pattern: re.Pattern[str], new: Callable[[str], str]) -> Word:
    """With each match replaced by one or more characters, all of them from where it began."""
    text, origins, done = "", [], 0
    for match in pattern.finditer(word.text):
        begin, put = match.start(), new(match[0])
        text += word.text[done:begin] + put
        origins += [*word.origins[done:begin], *[word.origins[begin]] * len(put)]
        done = match.end()
    text += word.text[done:]
    origins += word.origins[done:]
    return Word(text, tuple(origins), word.start, word.end, word.array)
