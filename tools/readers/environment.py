"""The environment variables that an engine reads: those that it declares, and those that its code
asks for by name."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator

from .sources import Sources

NAME = re.compile(r"[A-Z][A-Z0-9]*(?:_[A-Z0-9]+)+")
ALIAS = "deprecated_name"


def variables(sources: Sources, prefixes: tuple[str, ...]) -> list[str]:
    """Names with the engine's prefixes anywhere, others only where they are declared."""
    found: set[str] = set()
    quoted = re.compile(rf"""["'](?:{"|".join(prefixes)})[A-Z0-9_]+["']""")
    for module, text in sources.texts():
        declares = module.split(".")[-1] in ("envs", "environ")
        if declares or quoted.search(text):
            read = {name for node in ast.walk(sources.tree(module)) for name in _read(node)}
            declared = set(_declared(sources.tree(module))) if declares else set()
            found |= declared | {name for name in read if name.startswith(prefixes)}
    return sorted(found)


def _declared(tree: ast.Module) -> Iterator[str]:
    """Keys of vLLM's table, and fields of SGLang's class."""
    for node in ast.walk(tree):
        match node:
            case ast.AnnAssign(
                target=ast.Name(id="environment_variables"), value=ast.Dict(keys=keys)
            ):
                yield from _names(keys)
            case ast.ClassDef(name="Envs"):
                targets = [t for s in node.body if isinstance(s, ast.Assign) for t in s.targets]
                names = [target.id for target in targets if isinstance(target, ast.Name)]
                yield from filter(NAME.fullmatch, names)


def _read(node: ast.AST) -> Iterator[str]:
    """Names in `os.getenv(NAME)`, `os.environ[NAME]`, `NAME in os.environ` and the like."""
    match node:
        case ast.Call(args=[first, *_], func=function) if _asks(function):
            yield from _names([first])
        case ast.Call(keywords=keywords):
            yield from _names([keyword.value for keyword in keywords if keyword.arg == ALIAS])
        case ast.Subscript(ctx=ast.Load(), value=owner, slice=key) if _last(owner) == "environ":
            yield from _names([key])
        case ast.Compare(left=left, comparators=[other]) if _last(other) == "environ":
            yield from _names([left])


def _asks(function: ast.expr) -> bool:
    if isinstance(function, ast.Attribute) and function.attr in ("get", "pop", "setdefault"):
        return _last(function.value) == "environ"
    return "env" in _last(function) or _last(function) == "is_set"


def _last(node: ast.expr) -> str:
    """`c` of `a.b.c`."""
    return str(getattr(node, "attr", getattr(node, "id", "")))


def _names(nodes: Iterable[ast.expr | None]) -> Iterator[str]:
    for node in nodes:
        text = node.value if isinstance(node, ast.Constant) else None
        if isinstance(text, str) and NAME.fullmatch(text):
            yield text
