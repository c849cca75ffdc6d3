"""The few functions of Python's own library, and of others, that parsers are built with."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from typing import Any

from . import objects
from .values import (
    MISSING,
    UNKNOWN,
    Class,
    External,
    Field,
    FieldInfo,
    Hint,
    Instance,
    Parser,
)


def _fields(cls: Any) -> Any:
    return objects.fields(cls) if isinstance(cls, Class) else UNKNOWN


def _field(*, default: Any = MISSING, default_factory: Any = MISSING, **others: Any) -> Field:
    return Field("", UNKNOWN, default, default_factory)


def _info(default: Any = MISSING, *, default_factory: Any = None, **others: Any) -> FieldInfo:
    return FieldInfo(default, default_factory)


def _arguments(hint: Any) -> Any:
    return hint.arguments if isinstance(hint, Hint) else ()


def _origin(hint: Any) -> Any:
    if not isinstance(hint, Hint):
        return None
    plain = {"list": list, "dict": dict, "tuple": tuple, "set": set, "type": type}
    return plain.get(hint.form, External(f"typing.{hint.form}"))


def _hints(cls: Any, **options: Any) -> Any:
    return {field.name: field.type for field in objects.fields(cls)}


def _copy(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _copy(item) for key, item in value.items()}
    return [_copy(item) for item in value] if isinstance(value, list) else value


def _type_of(value: Any, *others: Any) -> Any:
    if value is UNKNOWN:
        return UNKNOWN
    return value.of if isinstance(value, Instance) else type(value)


def _is_instance(value: Any, kind: Any) -> Any:
    if isinstance(kind, tuple):
        found = [_is_instance(value, one) for one in kind]
        return True if True in found else UNKNOWN if UNKNOWN in found else False
    if value is UNKNOWN or kind is UNKNOWN:
        return UNKNOWN
    if isinstance(kind, External) and isinstance(value, FieldInfo):
        return kind.name.endswith("FieldInfo")
    if isinstance(kind, Class):
        return isinstance(value, Instance) and kind in objects.line(value.of)
    if kind is type:
        return isinstance(value, Class | type)
    return isinstance(value, kind) if isinstance(kind, type) else False


def _is_subclass(value: Any, kind: Any) -> Any:
    if isinstance(value, Class):
        if isinstance(kind, Class):
            return kind in objects.line(value)
        name = kind.__name__ if isinstance(kind, type) else getattr(kind, "name", "").split(".")[-1]
        return objects.derives_from(value, name)
    return issubclass(value, kind) if isinstance(value, type) and isinstance(kind, type) else False


def _next(items: Any, *default: Any) -> Any:
    found = objects.iterate(items)
    return UNKNOWN if found is None else next(iter(found), *default)


def _all(items: Any) -> Any:
    found = objects.iterate(items)
    return UNKNOWN if found is None else all(objects.truth(one) for one in found)


def _any(items: Any) -> Any:
    found = objects.iterate(items)
    if found is None:
        return UNKNOWN
    truths = [objects.truth(one) for one in found]
    return True if True in truths else UNKNOWN if UNKNOWN in truths else False


def _get_attribute(owner: Any, name: Any, *default: Any) -> Any:
    found = objects.attribute(owner, name)
    return default[0] if found is UNKNOWN and default and owner is not UNKNOWN else found


def _has_attribute(owner: Any, name: Any) -> Any:
    return UNKNOWN if owner is UNKNOWN else objects.attribute(owner, name) is not UNKNOWN


def _made(kind: Callable[..., Any]) -> Callable[..., Any]:
    """`list(x)` and the like, of whatever can be gone through."""

    def make(*items: Any, **keywords: Any) -> Any:
        if not items:
            return kind(**keywords)
        found = items[0] if isinstance(items[0], dict) else objects.iterate(items[0])
        return UNKNOWN if found is None else kind(found, **keywords)

    return make


def _zip(*rows: Any, **options: Any) -> Any:
    found = [objects.iterate(row) for row in rows]
    return UNKNOWN if None in found else list(zip(*found, strict=False))


def _map(function: Any, items: Any) -> Any:
    from .expressions import call

    found = objects.iterate(items)
    return UNKNOWN if found is None else [call(function, [item], {}) for item in found]


def _enumerate(items: Any, start: int = 0) -> Any:
    found = objects.iterate(items)
    return UNKNOWN if found is None else list(enumerate(found, start))


INNER: dict[Any, Callable[..., Any]] = {
    type: _type_of,
    isinstance: _is_instance,
    issubclass: _is_subclass,
    getattr: _get_attribute,
    hasattr: _has_attribute,
    next: _next,
    any: _any,
    all: _all,
    list: _made(list),
    tuple: _made(tuple),
    set: _made(set),
    frozenset: _made(frozenset),
    dict: _made(dict),
    sorted: _made(sorted),
    zip: _zip,
    map: _map,
    enumerate: _enumerate,
    print: lambda *words, **options: None,
}

EXTERNAL: dict[str, Callable[..., Any]] = {
    "argparse.ArgumentParser": lambda **options: Parser(options.get("prog")),
    "copy.copy": _copy,
    "copy.deepcopy": _copy,
    "dataclasses.field": _field,
    "dataclasses.fields": _fields,
    "dataclasses.is_dataclass": objects.is_dataclass,
    "json.dumps": json.dumps,
    "msgspec.field": _field,
    "msgspec.structs.fields": _fields,
    "pydantic.Field": _info,
    "pydantic.fields.Field": _info,
    "typing.cast": lambda kind, value: value,
    "typing.get_args": _arguments,
    "typing.get_origin": _origin,
    "typing.get_type_hints": _hints,
    "typing.is_typeddict": lambda hint: (
        isinstance(hint, Class) and objects.derives_from(hint, "TypedDict")
    ),
}


def _add_argument(parser: Parser, names: list[Any], options: dict[str, Any]) -> Any:
    parser.calls.append((names, copy.copy(options)))
    return UNKNOWN


def _add_parser(parser: Parser, names: list[Any], options: dict[str, Any]) -> Parser:
    parser.parsers.append(Parser(names[0] if names else UNKNOWN))
    return parser.parsers[-1]


def _same(parser: Parser, names: list[Any], options: dict[str, Any]) -> Parser:
    """Groups register with their parser."""
    return parser


PARSER: dict[str, Callable[[Parser, list[Any], dict[str, Any]], Any]] = {
    "add_argument": _add_argument,
    "add_argument_group": _same,
    "add_mutually_exclusive_group": _same,
    "add_subparsers": _same,
    "add_parser": _add_parser,
    "set_defaults": lambda parser, names, options: None,
}
