"""What an expression of an engine's source may be worth, as far as reading can tell."""

from __future__ import annotations

import ast
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .scope import Frame, Module


class Unknown:
    """Depends on what reading cannot see: an import from elsewhere, the machine, the environment."""

    def __repr__(self) -> str:
        return "UNKNOWN"


UNKNOWN = Unknown()


@dataclass(frozen=True)
class External:
    """A name of another package: `argparse.BooleanOptionalAction`."""

    name: str


@dataclass(frozen=True)
class Hint:
    """A type with arguments: `Hint("Literal", ("a", "b"))`; Optional is a Union."""

    form: str
    arguments: tuple[Any, ...]


@dataclass(frozen=True)
class Member:
    """Of an Enum."""

    name: str
    value: Any


@dataclass(frozen=True, eq=False, repr=False)
class Class:
    node: ast.ClassDef
    module: Module


@dataclass(frozen=True, eq=False, repr=False)
class Function:
    """`frame` is where it was defined, `first` what it is bound to: an instance or a class."""

    node: ast.FunctionDef | ast.Lambda
    frame: Frame
    owner: Class | None = None
    first: tuple[Any, ...] = ()


@dataclass(frozen=True, eq=False)
class Instance:
    of: Class
    attributes: dict[str, Any]


@dataclass(frozen=True, eq=False)
class Super:
    """`super()` in a method of `owner`."""

    owner: Class
    first: Any


@dataclass(frozen=True, eq=False)
class Field:
    """Of a dataclass. MISSING is the External that the sources compare with."""

    name: str
    type: Any
    default: Any
    default_factory: Any


@dataclass(frozen=True, eq=False)
class FieldInfo:
    """What pydantic's `Field(...)` gives."""

    default: Any
    default_factory: Any


@dataclass(frozen=True)
class Nullable:
    """A type of an argument that takes `None` as well, as vLLM's `optional_type` makes it."""

    type: Any


@dataclass(eq=False)
class Parser:
    """Stands for an argparse parser, or a group of it: `calls` are the arguments of add_argument."""

    name: Any = None
    calls: list[tuple[list[Any], dict[str, Any]]] = field(default_factory=list)
    parsers: list[Parser] = field(default_factory=list)


MISSING = External("dataclasses.MISSING")


def is_type(value: object) -> bool:
    return isinstance(value, type | External | Hint | Class) or value is None
