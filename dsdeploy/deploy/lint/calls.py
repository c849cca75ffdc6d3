"""A command line as a call of an engine: which one, of which release, with which options."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from dsdeploy.deploy.backend import CommandLine
from dsdeploy.deploy.doubts import called_command
from dsdeploy.deploy.flag_check import NEGATIVE
from dsdeploy.deploy.flags import Catalogue, load_catalogue
from dsdeploy.deploy.lint.found import Found, Word
from dsdeploy.errors import UsageError

_TAG = re.compile(r":v?(\d+\.\d+(?:\.\d+)*(?:\.?(?:rc|post|dev)\d+)?)")
_MANY = {"many": 1_000_000, "any": 1_000_000, "none": 0, "one": 1, "optional": 1}


@dataclass(frozen=True)
class Option:
    """As it is given: the word of its name, and the words taken as its values; `attached` is the
    value behind an equals sign."""

    name: str
    word: Word
    values: tuple[Word, ...]
    attached: str | None = None

    @property
    def value(self) -> str | None:
        """The only one, or the last one."""
        if self.attached is not None:
            return self.attached
        return self.values[-1].text if self.values else None


@dataclass(frozen=True)
class Call:
    found: Found
    command: CommandLine
    before: tuple[Word, ...]
    """Up to the words of the command, with them."""
    arguments: tuple[Word, ...]
    catalogue: Catalogue
    chosen_by: str
    """What the release is known from."""
    options: tuple[Option, ...]
    positionals: tuple[Word, ...]

    @property
    def engine(self) -> str:
        """The folder of its backend: vllm, tensorrt_llm."""
        return self.command.package.rpartition(".")[2]

    @property
    def at(self) -> int:
        return self.before[-1].start

    def option(self, *names: str) -> Option | None:
        """The last one with any of these spellings."""
        given = [one for one in self.options if set(names) & set(self._spellings(one))]
        return given[-1] if given else None

    def value(self, *names: str) -> str | None:
        found = self.option(*names)
        return None if found is None else found.value

    def number(self, *names: str, default: int = 1) -> int | None:
        """None if it cannot be told."""
        found = self.option(*names)
        if found is None:
            return default
        return int(found.value) if found.value and found.value.isdecimal() else None

    def _spellings(self, option: Option) -> tuple[str, ...]:
        flag = self.catalogue.flags.get(option.name)
        return (option.name, *(flag.names if flag else ()))

    @property
    def model(self) -> str | None:
        """As it is given; None if that is not known."""
        named = self.value("--model-path", "--model")
        if named is None and self.positionals:
            named = self.positionals[0].text
        return named


def call_of(found: Found, release: str | None) -> Call | None:
    called = called_command([word.text for word in found.words])
    if called is None:
        return None
    command, rest = called
    at = len(found.words) - len(rest)
    before, arguments = found.words[:at], found.words[at:]
    catalogue, chosen_by = _catalogue(command, found, before, release)
    options, positionals = _sorted_out(catalogue, arguments)
    return Call(
        found, command, before, arguments, catalogue, chosen_by, tuple(options), tuple(positionals)
    )


def _catalogue(
    command: CommandLine, found: Found, before: Sequence[Word], release: str | None
) -> tuple[Catalogue, str]:
    reason = "as asked for"
    if release is None:
        release = _tagged(command, found, before)
        reason = "by the image's tag" if release else "the newest that is known"
    try:
        chosen = load_catalogue(command.package, release, command.command)
    except UsageError as error:
        if reason == "as asked for":
            raise
        newest = load_catalogue(command.package, None, command.command).catalogue
        return newest, f"the newest that is known; by the image's tag, {error.message}"
    return chosen.catalogue, chosen.note or reason


def _tagged(command: CommandLine, found: Found, before: Sequence[Word]) -> str | None:
    """The release in the tag of an image: of the container, or in a word of the launcher."""
    engine = command.package.rpartition(".")[2].replace("_", "-")
    images = [found.container.image] if found.container and found.container.image else []
    for text in (*images, *(word.text for word in (*before, *found.around))):
        image = text.partition("@")[0]
        name = image.rpartition(":")[0]
        tag = _TAG.match(image, len(name))
        if tag and engine in name:
            return tag[1]
    return None


def segments(arguments: Sequence[Word]) -> list[tuple[Word, ...]]:
    """What stands before the first option; then each option with all that follows it."""
    found: list[list[Word]] = [[]]
    texts = [word.text for word in arguments]
    end = texts.index("--") if "--" in texts else len(texts)
    for word in arguments[:end]:
        if _is_option(word.text):
            found.append([])
        found[-1].append(word)
    found[-1] += arguments[end:]
    return [tuple(one) for one in found]


def _is_option(text: str) -> bool:
    """As argparse: neither `-1` nor what has a space in its name."""
    bare = text == "-" or NEGATIVE.fullmatch(text) is not None
    return text.startswith("-") and not bare and " " not in text.partition("=")[0]


def _sorted_out(catalogue: Catalogue, arguments: Sequence[Word]) -> tuple[list[Option], list[Word]]:
    first, *rest = segments(arguments)
    options, positionals = [], list(first)
    for word, *values in rest:
        written, equals, attached = word.text.partition("=")
        name = spelled_out(catalogue, written)
        flag = catalogue.flags.get(name)
        most = 0 if equals else _most(flag.takes) if flag else len(values)
        options.append(Option(name, word, tuple(values[:most]), attached if equals else None))
        positionals += values[most:]
    return options, [word for word in positionals if word.text != "--"]


def _most(takes: str) -> int:
    return _MANY[takes] if takes in _MANY else int(takes)


def spelled_out(catalogue: Catalogue, name: str) -> str:
    """The spelling that a catalogue has of a name, abbreviated or not; else the name itself."""
    if name in catalogue.flags:
        return name
    dashed = "--" + name[2:].replace("_", "-") if name.startswith("--") else name
    if "underscores" in catalogue.traits and dashed in catalogue.flags:
        return dashed
    near = list(_starting_with(catalogue, name)) if name.startswith("--") else []
    return near[0] if len(near) == 1 else name


def _starting_with(catalogue: Catalogue, name: str) -> Iterator[str]:
    if "abbreviations" in catalogue.traits:
        yield from (one for one in catalogue.flags if one.startswith(name))
