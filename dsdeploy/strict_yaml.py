"""YAML as people read it: what looks like text is text, and nothing is written twice.

YAML 1.1 reads `no` as false, `22:22` as 1342 and `017` as 15, lets a key be repeated (the last one
wins), and lets aliases grow a page into gigabytes. Here scalars follow the core schema of YAML 1.2,
and the other two are errors.
"""

from __future__ import annotations

import re
from collections.abc import Hashable
from typing import Any

import yaml

from dsdeploy.errors import UsageError

_LARGEST = 1 << 20


class _StrictLoader(yaml.SafeLoader):
    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
            raise yaml.MarkedYAMLError(None, None, "aliases (*name) are not allowed", mark)
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen = set()
        for key, _ in node.value:
            if key.value in seen:
                problem = f"{key.value!r} is written twice"
                raise yaml.MarkedYAMLError(None, None, problem, key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)


_DIGITS = list("-+0123456789")
for _tag, _pattern, _first in (
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", r"[-+]?(0|[1-9][0-9]*)", _DIGITS),
    ("float", r"[-+]?(\.[0-9]+|[0-9]+\.[0-9]*|[0-9]+(?=[eE]))([eE][-+]?[0-9]+)?", [*_DIGITS, "."]),
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
):
    _StrictLoader.add_implicit_resolver(
        f"tag:yaml.org,2002:{_tag}", re.compile(f"(?:{_pattern})\\Z"), _first
    )


def load_yaml(text: str, where: str) -> Any:
    """The document's value; raises UsageError with the line and column of what is wrong."""
    if len(text) > _LARGEST:
        raise UsageError(f"{where} is too large for a file of settings: {len(text):,} characters.")
    try:
        return yaml.load(text, _StrictLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        place = f"{where}:{mark.line + 1}:{mark.column + 1}" if mark else where
        raise UsageError(f"{place}: {error.problem}.", "Mend this line.") from None
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        sentence = " ".join(str(error).split()).rstrip(".")
        raise UsageError(f"{where} is not YAML: {sentence}.") from None
