"""YAML as people read it: what looks like text is text, and nothing is written twice.

YAML 1.1 reads `no` as false, `22:22` as 1342 and `017` as 15, lets a key be repeated (the last one
wins), and lets aliases grow a page into gigabytes. Here scalars follow the core schema of YAML 1.2,
and repeated keys, aliases, merge keys and tags are errors.
"""

from __future__ import annotations

import re
from collections.abc import Hashable
from importlib.resources.abc import Traversable
from typing import Any

import yaml
from yaml.reader import ReaderError

from dsdeploy.errors import UsageError

_LARGEST = 1 << 20
_DEEPEST = 64


class _StrictLoader(yaml.SafeLoader):
    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012
    _depth = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        event = self.peek_event()  # type: ignore[no-untyped-call]
        if isinstance(event, yaml.AliasEvent):
            raise _wrong("aliases (*name) are not allowed", event)
        if getattr(event, "tag", None):
            raise _wrong("tags (!name) are not allowed", event)
        if self._depth == _DEEPEST:
            raise _wrong(f"this is nested more than {_DEEPEST} deep", event)
        self._depth += 1
        node = super().compose_node(parent, index)
        self._depth -= 1
        return node

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[Hashable] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise _wrong("a list or a mapping is no key", key)
            if key.value == "<<" and key.style is None:
                raise _wrong("merge keys (<<) are not allowed", key)
            name = self.construct_object(key)
            if name in seen:
                raise _wrong(f"{key.value!r} is written twice", key)
            seen.add(name)
        return super().construct_mapping(node, deep)


class _StrictDumper(yaml.SafeDumper):
    def ignore_aliases(self, data: object) -> bool:
        return True

    def represent_str(self, data: str) -> yaml.ScalarNode:
        """What YAML 1.1 takes for an end of line is escaped."""
        style = '"' if re.search("[\x85\u2028\u2029]", data) else None
        return self.represent_scalar("tag:yaml.org,2002:str", data, style)


_StrictDumper.add_representer(str, _StrictDumper.represent_str)


def _wrong(problem: str, at: yaml.Event | yaml.Node) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(None, None, problem, at.start_mark)  # type: ignore[arg-type]


_DIGITS = list("-+0123456789")
for _tag, _pattern, _first in (
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", _DIGITS),
    ("float", r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?", [*_DIGITS, "."]),
    ("float", r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)", list("-+.")),
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
):
    for _class in (_StrictLoader, _StrictDumper):
        _class.add_implicit_resolver(
            f"tag:yaml.org,2002:{_tag}", re.compile(f"(?:{_pattern})\\Z"), _first
        )


def _integer(loader: _StrictLoader, node: yaml.ScalarNode) -> int:
    base = {"0x": 16, "0o": 8}.get(node.value[:2], 10)
    try:
        return int(node.value, base)
    except ValueError:
        raise _wrong(f"a number of {len(node.value)} digits", node) from None


def _text(loader: _StrictLoader, node: yaml.ScalarNode) -> str:
    """With the two halves of a character, as JSON escapes it, put together."""
    try:
        return str(node.value).encode("utf-16-le", "surrogatepass").decode("utf-16-le")
    except UnicodeDecodeError:
        raise _wrong("half a character (\\ud800 to \\udfff)", node) from None


_StrictLoader.add_constructor("tag:yaml.org,2002:int", _integer)
_StrictLoader.add_constructor("tag:yaml.org,2002:str", _text)


def load_yaml(text: str, where: str) -> Any:
    """The document's value; raises UsageError with the line and column of what is wrong."""
    if len(text) > _LARGEST:
        raise _too_large(where)
    try:
        return yaml.load(text, _StrictLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        place = f"{where}:{mark.line + 1}:{mark.column + 1}" if mark else where
        sentence = ", ".join(filter(None, (error.context, error.problem)))
        raise UsageError(f"{place}: {sentence}.", "Mend this line.") from None
    except ReaderError as error:
        place = _place(where, text[: error.position])
        raise UsageError(f"{place}: the character {error.character:#x} is not allowed.") from None
    except (ValueError, OverflowError):
        raise UsageError(f"{where} is not YAML: an escape (\\U) is no character.") from None


def read_yaml(file: Traversable, where: str) -> Any:
    """The same of a file."""
    try:
        with file.open("rb") as stream:
            raw = stream.read(_LARGEST + 1)
    except OSError as error:
        raise UsageError(f"{where} cannot be read: {error.strerror}.") from None
    if len(raw) > _LARGEST:
        raise _too_large(where)
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        place = _place(where, raw[: error.start].decode("utf-8"))
        raise UsageError(f"{place}: this is not UTF-8.", "Save the file as UTF-8.") from None
    return load_yaml(text, where)


def dump_yaml(value: object) -> str:
    """Text that readers of YAML 1.1 and 1.2 take for the same."""
    text = yaml.dump(value, Dumper=_StrictDumper, sort_keys=False, allow_unicode=True)
    return str(text)


def _place(where: str, before: str) -> str:
    return f"{where}:{before.count(chr(10)) + 1}:{len(before) - before.rfind(chr(10))}"


def _too_large(where: str) -> UsageError:
    return UsageError(f"{where} is too large for a file of settings: over {_LARGEST:,} bytes.")
