"""A shell script as the simple commands in it; reads on whatever it does not understand.

Quotes, continuations, comments, here-documents and substitutions are read as a shell does, but for
this: nothing is expanded. A quote that is never closed is a character like any other.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from dsdeploy.deploy.lint.found import UNKNOWN, Piece, Word

_NAME = re.compile(r"\w+|[@*#?$!-]")
_ARRAY = re.compile(r"\$\{(\w+)\[[@*]\]\}")
_ARRAY_BEGINS = re.compile(r"\w+\+?=")
_REDIRECTION = re.compile(r"&?[<>][<>&|-]*")
_CONTINUATION = re.compile(r"\\\r?\n")
_QUOTED = re.compile(r"\\.|'[^']*'|\"(?:\\.|[^\"\\])*\"", re.DOTALL)
_DEEPEST = 16
_HERE = re.compile(r"<<-?\s*(['\"]?)(\w+)\1")


def read_commands(piece: Piece) -> list[tuple[Word, ...]]:
    """Those of substitutions and here-documents stand before the command that they belong to. The
    first word of an assignment to an array is `NAME=(`."""
    return _Reader(piece, 0).read()


class _Reader:
    def __init__(self, piece: Piece, depth: int) -> None:
        self._text, self._origins = piece.text, piece.origins
        self._depth = depth
        self._at = 0
        self._commands: list[tuple[Word, ...]] = []
        self._words: list[Word] = []
        self._letters: list[tuple[str, int]] = []
        self._begin: int | None = None
        self._array = ""
        self._inside_array = self._skips_target = False
        self._here: list[str] = []

    def read(self) -> list[tuple[Word, ...]]:
        while self._at < len(self._text):
            self._step()
        self._end_command()
        return self._commands

    def _step(self) -> None:
        char = self._text[self._at]
        if char == "\\":
            self._escape()
        elif char in "'\"":
            self._quoted(char)
        elif char in "$`":
            self._expansion()
        elif char == "#" and self._begin is None:
            self._at = self._find("\n")
        elif _REDIRECTION.match(self._text, self._at):
            self._redirection()
        elif char in "();|&\n":
            self._separator(char)
        elif char.isspace():
            self._end_word()
            self._at += 1
        else:
            self._add(char)

    def _add(self, char: str, width: int = 1) -> None:
        """A character of the word at hand, that takes so many of the text."""
        if self._begin is None:
            self._begin = self._at
        self._letters.append((char, self._at + width - 1 if char != UNKNOWN else self._at))
        self._at += width

    def _escape(self) -> None:
        continued = _CONTINUATION.match(self._text, self._at)
        if continued:
            self._at = continued.end()
        elif self._at + 1 < len(self._text):
            self._add(self._text[self._at + 1], 2)
        else:
            self._add("\\")

    def _quoted(self, quote: str) -> None:
        end = self._closing(quote)
        if end is None:
            self._add(quote)
            return
        if self._begin is None:
            self._begin = self._at
        whole = _ARRAY.fullmatch(self._text, self._at + 1, end)
        self._at += 1
        while self._at < end:
            if quote == "'":
                self._add(self._text[self._at])
            else:
                self._inside_double_quotes()
        self._array = whole[1] if whole else ""
        self._at = end + 1

    def _inside_double_quotes(self) -> None:
        char, following = self._text[self._at], self._text[self._at + 1]
        continued = _CONTINUATION.match(self._text, self._at)
        if continued:
            self._at = continued.end()
        elif char == "\\" and following in '$`"\\':
            self._add(following, 2)
        elif char in "$`":
            self._expansion()
        else:
            self._add(char)

    def _closing(self, quote: str) -> int | None:
        at = self._at + 1
        while at < len(self._text):
            char = self._text[at]
            if char == quote:
                return at
            if quote == '"' and char == "\\":
                at += 1
            elif quote == '"' and self._text.startswith("$(", at):
                at = _balanced(self._text, at + 1, "()") - 1
            at += 1
        return None

    def _expansion(self) -> None:
        begin = self._at
        after = self._text[begin + 1 : begin + 2]
        if self._text[begin] == "`":
            end = self._find("`", begin + 1) + 1
        elif after in ("(", "{"):
            end = _balanced(self._text, begin + 1, {"(": "()", "{": "{}"}[after])
        elif after and after in "'\"":
            end = begin + 1
        else:
            name = _NAME.match(self._text, begin + 1)
            if name is None:
                self._add("$")
                return
            end = name.end()
        if after == "(" or self._text[begin] == "`":
            self._nested(begin + 1 + (after == "("), end - 1)
        array = _ARRAY.fullmatch(self._text, begin, end)
        self._array = array[1] if array and self._begin is None else ""
        self._add(UNKNOWN, min(end, len(self._text)) - begin)

    def _nested(self, begin: int, end: int) -> None:
        inner = Piece(self._text[begin:end], self._origins[begin:end])
        if self._depth < _DEEPEST:
            self._commands += _Reader(inner, self._depth + 1).read()

    def _redirection(self) -> None:
        """With what it goes to, which is no word of the command."""
        here = _HERE.match(self._text, self._at)
        if all(letter.isdigit() for letter, _ in self._letters):
            self._forget_word()
        self._end_word()
        if here:
            self._here.append(here[2])
            self._at = here.end()
            return
        found = _REDIRECTION.match(self._text, self._at)
        self._at = found.end() if found else self._at + 1
        self._skips_target = self._text[self._at : self._at + 1] != "("

    def _separator(self, char: str) -> None:
        written = "".join(letter for letter, _ in self._letters)
        if char == "(" and not self._words and _ARRAY_BEGINS.fullmatch(written):
            self._add("(")
            self._end_word()
            self._inside_array = True
            return
        self._end_word()
        self._at += 1
        if char == "\n" and self._inside_array:
            return
        self._end_command()
        if char == "\n":
            for delimiter in self._here:
                self._here_document(delimiter)
            self._here = []

    def _here_document(self, delimiter: str) -> None:
        ends = re.compile(rf"^\t*{delimiter}\r?$", re.MULTILINE).search(self._text, self._at)
        end = ends.start() if ends else len(self._text)
        self._nested(self._at, end)
        self._at = ends.end() if ends else end

    def _end_word(self) -> None:
        if self._begin is None:
            return
        text = "".join(letter for letter, _ in self._letters)
        origins = tuple(self._origins[at] for _, at in self._letters)
        start, end = self._origins[self._begin], self._origins[self._at - 1] + 1
        if not self._skips_target:
            array = self._array if text == UNKNOWN else ""
            self._words.append(Word(text, origins, start, end, array))
        self._skips_target = False
        self._forget_word()

    def _forget_word(self) -> None:
        self._letters, self._begin, self._array = [], None, ""

    def _end_command(self) -> None:
        self._end_word()
        if self._words:
            self._commands.append(tuple(self._words))
        self._words, self._inside_array, self._skips_target = [], False, False

    def _find(self, char: str, start: int | None = None) -> int:
        found = self._text.find(char, self._at if start is None else start)
        return len(self._text) if found < 0 else found


def _balanced(text: str, begin: int, pair: str) -> int:
    """Behind the bracket that closes the one at `begin`; quoted ones do not count."""
    depth, at = 0, begin
    while at < len(text):
        quoted = _QUOTED.match(text, at)
        if quoted:
            at = quoted.end()
            continue
        depth += (text[at] == pair[0]) - (text[at] == pair[1])
        at += 1
        if depth == 0:
            return at
    return len(text)


def split_words(piece: Piece) -> Iterator[Word]:
    """Of a text that is one command, however it is punctuated."""
    for command in read_commands(piece):
        yield from command
