"""Other people's YAML, read as it is meant, with the place of every scalar."""

from __future__ import annotations

from collections.abc import Iterator

import yaml

from dsdeploy.deploy.lint.found import Word
from dsdeploy.errors import UsageError

_DEEPEST = 16
_ESCAPED = {'"': "\\", "'": "'"}


def read_documents(text: str, where: str) -> list[yaml.Node]:
    """The values of all documents. Raises UsageError where it is no YAML."""
    try:
        return [node for node in yaml.compose_all(text, yaml.SafeLoader) if node is not None]
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        place = f"{where}:{mark.line + 1}:{mark.column + 1}" if mark else where
        hint = "A template has to be rendered before it is checked: helm template."
        raise UsageError(f"{place}: this is no YAML: {error.problem}.", hint) from None
    except (yaml.YAMLError, ValueError, RecursionError):
        raise UsageError(f"{where} is no YAML.", "--format says what it is.") from None


def fields(node: yaml.Node | None, depth: int = 0) -> dict[str, yaml.Node]:
    """Of a mapping, merged keys (<<) included; nothing of anything else."""
    if not isinstance(node, yaml.MappingNode) or depth > _DEEPEST:
        return {}
    own = {key.value: value for key, value in node.value if isinstance(key, yaml.ScalarNode)}
    merged = own.pop("<<", None)
    found: dict[str, yaml.Node] = {}
    for one in items(merged) or [merged]:
        found = fields(one, depth + 1) | found
    return found | own


def items(node: yaml.Node | None) -> list[yaml.Node]:
    return list(node.value) if isinstance(node, yaml.SequenceNode) else []


def scalar(node: yaml.Node | None) -> str | None:
    return str(node.value) if isinstance(node, yaml.ScalarNode) else None


def words_of(node: yaml.Node | None, text: str) -> list[Word]:
    """Of a list of scalars, or of a scalar alone."""
    nodes = [node] if isinstance(node, yaml.ScalarNode) else items(node)
    return [word_of(one, text) for one in nodes if isinstance(one, yaml.ScalarNode)]


def word_of(node: yaml.ScalarNode, text: str) -> Word:
    start, end = node.start_mark.index, node.end_mark.index
    value = str(node.value)
    origins = _origins(value, text[start:end], node.style)
    if origins is None:
        return Word(value, (start,) * len(value), start, end)
    return Word(value, tuple(start + at for at in origins), start, end)


def _origins(value: str, raw: str, style: str | None) -> list[int] | None:
    """Where in its source each character of a scalar stands; None where that is not certain."""
    at = raw.find("\n") + 1 if style in ("|", ">") else len(style or "")
    found = []
    for char in value:
        while not char.isspace() and at < len(raw) and raw[at].isspace():
            at += 1
        if raw[at : at + 2] == _ESCAPED.get(style or "", "\0") + char:
            at += 1
        if char.isspace():
            found.append(min(at, len(raw) - 1))
            at += raw[at : at + 1] == char and char != "\n"
        elif raw[at : at + 1] == char:
            found.append(at)
            at += 1
        else:
            return None
    return found


def mappings(document: yaml.Node) -> Iterator[dict[str, yaml.Node]]:
    """All that a document holds, outer ones first; each once, however often it is referred to."""
    waiting, seen = [document], {id(document)}
    while waiting:
        node = waiting.pop(0)
        own = fields(node)
        if own:
            yield own
        for child in (*own.values(), *items(node)):
            if id(child) not in seen:
                seen.add(id(child))
                waiting.append(child)
