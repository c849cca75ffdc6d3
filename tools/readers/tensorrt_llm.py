"""`trtllm-serve serve`: click's decorators, or the reference of its command line that newer
snapshots of its repository keep for their own tests."""

from __future__ import annotations

import ast
import re
from typing import Any

import yaml

from . import expressions
from .arguments import DEPRECATED, HELP, Entry, literal
from .scope import Frame, World
from .sources import Sources

NAME = "TensorRT-LLM"
PACKAGE = "tensorrt_llm"
PREFIXES: tuple[str, ...] = ()
"""Most of what it reads from the environment, it reads in C++."""
MODULE = "tensorrt_llm.commands.serve"
REFERENCE = "tests/unittest/api_stability/references/trtllm_serve_cli.yaml"


def commands(sources: Sources) -> dict[str, list[Entry]]:
    try:
        text = sources.read(REFERENCE)
    except (FileNotFoundError, KeyError):
        return {"serve": [HELP_ONLY, *_decorators(sources)]}
    options = yaml.safe_load(text)["commands"]["serve"]["options"]
    return {"serve": [HELP_ONLY, *map(_referred, options.values())]}


HELP_ONLY = HELP | {"names": ["--help"]}


def traits(sources: Sources) -> list[str]:
    return []


def _referred(option: dict[str, Any]) -> Entry:
    found: Entry = {"names": option["flags"], "takes": "none" if option["is_flag"] else "one"}
    kind, choices = option["type"], re.fullmatch(r"Choice\((.*)\)", option["type"])
    if not option["is_flag"]:
        found["type"] = kind if kind in ("int", "float") else "str"
    if choices:
        found["choices"] = ast.literal_eval(choices[1])
    if option["default"] is not None:
        found["default"] = option["default"]
    return found | ({"deprecated": ""} if option["status"] == "deprecated" else {})


def _decorators(sources: Sources) -> list[Entry]:
    world = World(sources)
    world.overrides = {"option": _option, "Choice": _choice, "ChoiceWithAlias": _choice}
    module = world.module(MODULE)
    assert module is not None
    serve = next(s for s in sources.tree(MODULE).body if _named(s, "serve"))
    assert isinstance(serve, ast.FunctionDef)
    found = [expressions.value(decorator, Frame(module)) for decorator in serve.decorator_list]
    return [entry for entry in found if isinstance(entry, dict)]


def _named(statement: ast.stmt, name: str) -> bool:
    return isinstance(statement, ast.FunctionDef) and statement.name == name


def _choice(choices: Any, aliases: Any = None, **options: Any) -> Any:
    return tuple(choices) + tuple(aliases or ()) if isinstance(choices, list) else ()


def _option(*names: str, **options: Any) -> Entry:
    """`--a/--no-a` are two spellings; a name without dashes is the parameter's."""
    spellings = [part.strip() for name in names if name[0] == "-" for part in name.split("/")]
    is_flag = options.get("is_flag") is True or any("/" in name for name in names)
    found: Entry = {"names": spellings, "takes": "none" if is_flag else "one"}
    kind = options.get("type")
    if not is_flag:
        found["type"] = kind.__name__ if kind in (int, float) else "str"
    if isinstance(kind, tuple) and kind:
        found["choices"] = list(kind)
    default = options.get("default")
    if literal(default) and default is not None:
        found["default"] = default
    text = str(options.get("help", ""))
    tagged = ":tag:`deprecated`" in text or DEPRECATED.search(text)
    return found | ({"deprecated": ""} if tagged else {})
