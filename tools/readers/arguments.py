"""From the arguments of `add_argument` to an entry of a catalogue."""

from __future__ import annotations

import ast
import re
from typing import Any

from . import objects
from .values import Class, External, Function, Nullable, Parser

Entry = dict[str, Any]

HELP: Entry = {"names": ["-h", "--help"], "takes": "none"}
DEPRECATED = re.compile(
    r"^\W*deprecated\b|[(\[]deprecated\b"
    r"|(?:^|\bthis (?:option|argument|flag|parameter) |(?:^|\s)\(?--[\w-]+\)?,? )"
    r"(?:is|are|has been) deprecated\b",
    re.IGNORECASE,
)
ADVICE = re.compile(
    r"\b[Uu]se [`'\"]?(--?[\w][^\s`'\",;)]*(?: (?!instead|to|for|with|or|and|in)[\w<>-]+)?)"
)
STORES = {"store_true", "store_false", "store_const", "append_const", "count", "help", "version"}
PAIRS = {"--enable-": "--disable-", "--disable-": "--enable-"}
TYPES: dict[str, str] = {
    "human_readable_int": "size",
    "human_readable_int_or_auto": "size or auto",
    "json.loads": "json",
    "json_list_type": "json",
    "nullable_kvs": "str",
    "nullable_str": "str?",
    "parse_dataclass": "json",
    "union_dict_and_str": "str",
}


def entries(parser: Parser, paired: bool = False) -> list[Entry]:
    """`paired` where `--enable-x` brings `--disable-x`. Of an option that is registered twice, the
    later one counts."""
    found = {"--help": HELP}
    for names, options in parser.calls:
        spellings = [name for name in names if isinstance(name, str) and name.startswith("-")]
        if spellings and not any("…" in name for name in spellings):
            found[spellings[0]] = _entry(spellings, options, paired)
    return list(found.values())


def _entry(names: list[str], options: dict[str, Any], paired: bool) -> Entry:
    action = options.get("action")
    found: Entry = {"names": _with_opposites(names, action, paired), "takes": takes(options)}
    if found["takes"] != "none":
        found |= {"type": type_of(options.get("type"))} | _choices(options.get("choices"))
    default = options.get("default")
    if literal(default) and default is not None:
        found["default"] = list(default) if isinstance(default, tuple) else default
    advice = deprecation(options)
    return found | ({"deprecated": advice} if advice is not None else {})


def _with_opposites(names: list[str], action: Any, paired: bool) -> list[str]:
    if not _is_optional_boolean(action):
        return names
    long = [name for name in names if name.startswith("--")]
    opposites = ["--no-" + name[2:] for name in long]
    if paired:
        opposites += [
            other + name.removeprefix(prefix)
            for name in long
            for prefix, other in PAIRS.items()
            if name.startswith(prefix)
        ]
    return [*names, *opposites]


def _is_optional_boolean(action: Any) -> bool:
    if isinstance(action, Class):
        return objects.derives_from(action, "BooleanOptionalAction")
    return isinstance(action, External) and action.name.endswith("BooleanOptionalAction")


def takes(options: dict[str, Any]) -> str:
    """none, one, optional (none or one), many (at least one), any (none or more), or a number."""
    action = options.get("action")
    if _is_optional_boolean(action) or action in STORES:
        return "none"
    number = options.get("nargs", _own_number(action) if isinstance(action, Class) else None)
    if isinstance(number, int) and number > 1:
        return str(number)
    return {None: "one", 0: "none", 1: "many", "?": "optional", "*": "any"}.get(number, "many")


def _own_number(action: Class) -> Any:
    """How many values an engine's own action says that it takes, where it says so."""
    if objects.derives_from(action, "_StoreTrueAction", "_StoreFalseAction", "_StoreConstAction"):
        return 0
    starts = objects.method(action, "__init__", ())
    if starts is None:
        return None
    arguments = starts.node.args
    names = [a.arg for a in arguments.args][len(arguments.args) - len(arguments.defaults) :]
    defaults = dict(zip(names, arguments.defaults, strict=True))
    calls = [node for node in ast.walk(starts.node) if isinstance(node, ast.Call)]
    found = [
        defaults.get("nargs"),
        *(k.value for c in calls for k in c.keywords if k.arg == "nargs"),
    ]
    return next((node.value for node in found if isinstance(node, ast.Constant)), None)


def type_of(kind: Any) -> str:
    """`?` behind it: None is taken as well. `any`: a function that reading cannot see through."""
    if isinstance(kind, Nullable):
        return type_of(kind.type) + "?"
    if kind is None or kind is str:
        return "str"
    if kind in (int, float, bool):
        return str(kind.__name__)
    name = kind.name if isinstance(kind, External) else ""
    if isinstance(kind, Function) and isinstance(kind.node, ast.FunctionDef):
        name = kind.node.name
    return TYPES.get(name, "any")


def _choices(choices: Any) -> Entry:
    items = objects.iterate(choices)
    if not items or not all(item is None or isinstance(item, str | int | float) for item in items):
        return {}
    kept = [item for item in items if item is not None]
    return {"choices": sorted(kept) if isinstance(choices, set | frozenset) else kept}


def literal(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return all(literal(item) for item in value)
    if isinstance(value, dict):
        return all(literal(item) for pair in value.items() for item in pair)
    return value is None or isinstance(value, str | int | float)


def deprecation(options: dict[str, Any]) -> str | None:
    """What to use in its place, "" if nothing says so; None for what is not deprecated."""
    action, text = options.get("action"), options.get("help")
    text = " ".join(text.split()) if isinstance(text, str) else ""
    named = isinstance(action, Class) and "Deprecated" in action.node.name
    if not (named or options.get("deprecated") is True or DEPRECATED.search(text)):
        return None
    instead = options.get("new_flag")
    if isinstance(instead, str):
        return instead
    advice = ADVICE.search(text)
    return advice[1].rstrip(".") if advice else ""
