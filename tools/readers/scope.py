"""Where names are looked up: in a function, around it, in its module, in what that imports."""

from __future__ import annotations

import ast
import builtins
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from .sources import Sources
from .values import UNKNOWN, Class, External, Function

Definitions = dict[str, list[ast.stmt]]


@dataclass(eq=False, repr=False)
class World:
    """All modules of one release. `overrides` answer a call of a name in place of its source;
    `namespaces` are classes whose fields another class, by name, takes over."""

    sources: Sources
    overrides: dict[str, Callable[..., Any]] = field(default_factory=dict)
    namespaces: dict[str, list[Class]] = field(default_factory=dict)
    modules: dict[str, Module] = field(default_factory=dict)
    depth: int = 0

    def module(self, name: str) -> Module | None:
        if name not in self.sources.paths:
            return None
        if name not in self.modules:
            self.modules[name] = Module(self, name, _definitions(self.sources.tree(name)))
        return self.modules[name]


@dataclass(eq=False, repr=False)
class Module:
    world: World
    name: str
    definitions: Definitions
    known: dict[str, Any] = field(default_factory=dict)

    def lookup(self, name: str) -> Any:
        """UNKNOWN while it is being found, so that circles end."""
        if name not in self.known:
            self.known[name] = UNKNOWN
            self.known[name] = self._find(name)
        return self.known[name]

    def get(self, name: str) -> Any:
        """Also of a submodule, as `package.module` is."""
        if name in self.definitions or name in self.known:
            return self.lookup(name)
        return self.world.module(f"{self.name}.{name}") or self._starred(name)

    def __contains__(self, name: str) -> bool:
        return name in self.definitions or name in self.known

    def _find(self, name: str) -> Any:
        from .statements import run

        statements = self.definitions[name]
        last = next(
            i
            for i in reversed(range(len(statements)))
            if not isinstance(statements[i], ast.AugAssign)
        )
        statement = statements[last]
        if isinstance(statement, ast.Import | ast.ImportFrom):
            return imported(self, statement, name)
        if isinstance(statement, ast.ClassDef):
            return Class(statement, self)
        frame = Frame(self)
        if isinstance(statement, ast.FunctionDef):
            return Function(statement, frame)
        run(statements[last:], frame)
        return frame.names.get(name, UNKNOWN)

    def _starred(self, name: str) -> Any:
        for statement in self.definitions.get("*", []):
            other = self.world.module(_origin(self, statement))
            if other is not None and other is not self and name in other:
                return other.lookup(name)
        return UNKNOWN


@dataclass(eq=False, repr=False)
class Frame:
    """The names of a function that is being followed; without a parent those of a module."""

    module: Module
    names: dict[str, Any] = field(default_factory=dict)
    parent: Frame | None = None
    owner: Class | None = None
    returned: list[Any] = field(default_factory=list)

    def lookup(self, name: str) -> Any:
        frame: Frame | None = self
        while frame is not None:
            if name in frame.names:
                return frame.names[name]
            frame = frame.parent
        if name in self.module or "*" in self.module.definitions:
            found = self.module.get(name)
            if found is not UNKNOWN or name in self.module:
                return found
        return getattr(builtins, name, UNKNOWN)


def imported(module: Module, statement: ast.Import | ast.ImportFrom, name: str) -> Any:
    """What an import binds to a name."""
    alias = next(a for a in statement.names if (a.asname or a.name.split(".")[0]) == name)
    if isinstance(statement, ast.Import):
        target = alias.name if alias.asname else name
        return module.world.module(target) or External(_normal(target))
    origin = _origin(module, statement)
    found = module.world.module(origin)
    if found is not None:
        return found.get(alias.name)
    return External(_normal(f"{origin}.{alias.name}"))


def _normal(name: str) -> str:
    return name.replace("typing_extensions.", "typing.")


def _origin(module: Module, statement: ast.stmt) -> str:
    """The absolute name of the module that `from ... import` names."""
    assert isinstance(statement, ast.ImportFrom)
    if not statement.level:
        return statement.module or ""
    parts = module.name.split(".")
    is_package = module.world.sources.paths[module.name].endswith("/__init__.py")
    kept = parts[: len(parts) - statement.level + is_package]
    return ".".join([*kept, *([statement.module] if statement.module else [])])


def _definitions(tree: ast.Module) -> Definitions:
    """The statements that bind each name. Those of branches not taken at run time stand first, so
    that the last one counts."""
    found: Definitions = {}
    for unlikely in (True, False):
        for statement in _flat(tree.body, unlikely):
            for name in _bound(statement):
                found.setdefault(name, []).append(statement)
    return found


def _flat(statements: list[ast.stmt], unlikely: bool, inside: bool = False) -> Iterator[ast.stmt]:
    """The likely statements of a module, or the unlikely ones: for type checkers, after errors."""
    for statement in statements:
        likely_part, unlikely_part = _parts(statement)
        if likely_part or unlikely_part:
            yield from _flat(likely_part, unlikely, inside)
            yield from _flat(unlikely_part, unlikely, True)
        elif inside == unlikely:
            yield statement


def _parts(statement: ast.stmt) -> tuple[list[ast.stmt], list[ast.stmt]]:
    match statement:
        case ast.If() if "TYPE_CHECKING" in ast.dump(statement.test):
            return statement.orelse, statement.body
        case ast.If():
            return statement.body, statement.orelse
        case ast.Try():
            handlers = [inner for handler in statement.handlers for inner in handler.body]
            return statement.body + statement.orelse + statement.finalbody, handlers
        case ast.With():
            return statement.body, []
    return [], []


def _bound(statement: ast.stmt) -> list[str]:
    match statement:
        case ast.FunctionDef(name=name) | ast.ClassDef(name=name):
            return [name]
        case ast.Import() | ast.ImportFrom():
            return [alias.asname or alias.name.split(".")[0] for alias in statement.names]
        case ast.Assign(targets=targets):
            return [node.id for t in targets for node in ast.walk(t) if isinstance(node, ast.Name)]
        case ast.AnnAssign(target=ast.Name(id=name)) | ast.AugAssign(target=ast.Name(id=name)):
            return [name]
    return []
