"""Classes, their fields, attributes and iteration."""

from __future__ import annotations

import ast
from collections.abc import Mapping, Set, ValuesView
from typing import Any

from . import expressions, statements
from .scope import Frame, Module
from .values import (
    MISSING,
    UNKNOWN,
    Class,
    External,
    Field,
    FieldInfo,
    Function,
    Hint,
    Instance,
    Member,
    Super,
    Unknown,
)

PLAIN = (str, int, float, bool, list, dict, tuple, set, frozenset, bytes)


def truth(value: Any) -> Any:
    if value is UNKNOWN:
        return UNKNOWN
    if value == External("typing.TYPE_CHECKING"):
        return False
    return bool(value) if value is None or isinstance(value, PLAIN) else True


def iterate(value: Any) -> list[Any] | None:
    """None where the items are unknown."""
    if isinstance(value, str | list | tuple | Set | Mapping | ValuesView):
        return list(value)
    if isinstance(value, Class) and is_enum(value):
        return members(value)
    return None


def bases(cls: Class) -> list[Any]:
    return [expressions.value(base, Frame(cls.module)) for base in cls.node.bases]


def line(cls: Class) -> list[Class]:
    """A class and those that it derives from, nearest first."""
    found = [cls]
    for base in bases(cls):
        found += [other for other in line(base) if other not in found] if _is_class(base) else []
    return found


def _is_class(value: Any) -> bool:
    return isinstance(value, Class)


def outer_bases(cls: Class) -> list[str]:
    """Names of the bases from other packages."""
    found = [base for each in line(cls) for base in bases(each)]
    return [base.name for base in found if isinstance(base, External)] + [
        base.__name__ for base in found if isinstance(base, type)
    ]


def derives_from(cls: Class, *names: str) -> bool:
    return any(base.split(".")[-1] in names for base in outer_bases(cls))


def is_enum(cls: Class) -> bool:
    return derives_from(cls, "Enum", "IntEnum", "StrEnum")


def is_dataclass(value: Any) -> bool:
    return isinstance(value, Class) and any(
        "dataclass" in ast.unparse(decorator) or ast.unparse(decorator).startswith("config")
        for each in line(value)
        for decorator in each.node.decorator_list
    )


def members(cls: Class) -> list[Any]:
    frame, found = Frame(cls.module), []
    for statement in cls.node.body:
        match statement:
            case ast.Assign(targets=[ast.Name(id=name)], value=value):
                found.append(Member(name, _member_value(cls, name, value, frame)))
                frame.names[name] = found[-1].value
    return found


def _member_value(cls: Class, name: str, node: ast.expr, frame: Frame) -> Any:
    if ast.unparse(node) in ("auto()", "enum.auto()"):
        return name.lower() if derives_from(cls, "StrEnum") else UNKNOWN
    return expressions.value(node, frame)


def fields(cls: Class) -> list[Field]:
    """Of a dataclass, of its bases first, as `dataclasses.fields` gives them."""
    found: dict[str, Field] = {}
    sources = [*reversed(line(cls)), *cls.module.world.namespaces.get(cls.node.name, [])]
    for each in sources:
        frame = _class_frame(each)
        for statement in each.node.body:
            match statement:
                case ast.AnnAssign(target=ast.Name(id=name)) if not _class_var(statement):
                    found[name] = _field(name, statement, frame)
    return list(found.values())


def _class_frame(cls: Class) -> Frame:
    """A class's body sees its own constants."""
    frame = Frame(cls.module)
    plain = [s for s in cls.node.body if isinstance(s, ast.Assign)]
    statements.run([*plain], frame)
    return frame


def _class_var(statement: ast.AnnAssign) -> bool:
    return "ClassVar" in ast.unparse(statement.annotation)


def _field(name: str, statement: ast.AnnAssign, frame: Frame) -> Field:
    default: Any = MISSING
    if statement.value is not None:
        default = expressions.value(statement.value, frame)
    if isinstance(default, Field):
        return Field(name, annotation(statement, frame), default.default, default.default_factory)
    return Field(name, annotation(statement, frame), default, MISSING)


def annotation(statement: ast.AnnAssign, frame: Frame) -> Any:
    """An unknown type counts as some class of another package."""
    node = statement.annotation
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        node = ast.parse(node.value, mode="eval").body
    found = expressions.value(node, frame)
    return External(ast.unparse(node)) if found is UNKNOWN else found


def docs(cls: Class) -> dict[str, str]:
    """The text that stands below a field."""
    found = {}
    for each in reversed(line(cls)):
        for one, following in zip(each.node.body, each.node.body[1:], strict=False):
            match one, following:
                case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(
                    value=ast.Constant(value=str(text))
                ):
                    found[name] = text
    return found


def make(cls: Class, arguments: list[Any], keywords: dict[str, Any]) -> Any:
    if is_enum(cls):
        return next((m for m in members(cls) if arguments and m.value == arguments[0]), UNKNOWN)
    declared = fields(cls)
    attributes: dict[str, Any] = {f.name: plain_default(f) for f in declared}
    attributes |= dict(zip([f.name for f in declared], arguments, strict=False)) | keywords
    instance = Instance(cls, attributes)
    starts = method(cls, "__init__", (instance,)) if not declared else None
    if starts is not None:
        statements.call(starts, arguments, keywords)
    return instance


def plain_default(field: Field) -> Any:
    default = field.default
    if isinstance(default, FieldInfo):
        default, factory = default.default, default.default_factory
    else:
        factory = field.default_factory
    if factory is not MISSING and factory is not None:
        return expressions.call(factory, [], {})
    return UNKNOWN if default is MISSING else default


def method(cls: Class, name: str, first: tuple[Any, ...], after: Class | None = None) -> Any:
    """Bound to `first`, unless it is static; of the classes behind `after`, for `super()`."""
    order = line(cls)
    for each in order[order.index(after) + 1 :] if after in order else order:
        for statement in each.node.body:
            if isinstance(statement, ast.FunctionDef) and statement.name == name:
                return _bound(each, statement, cls, first)
    return None


def _bound(owner: Class, node: ast.FunctionDef, cls: Class, first: tuple[Any, ...]) -> Any:
    decorators = {ast.unparse(decorator) for decorator in node.decorator_list}
    if "staticmethod" in decorators:
        first = ()
    elif "classmethod" in decorators:
        first = (first[0].of,) if first and isinstance(first[0], Instance) else (first or (cls,))
    function = Function(node, Frame(owner.module, owner=owner), owner, first)
    return statements.call(function, [], {}) if "property" in decorators and first else function


def attribute(value: Any, name: str) -> Any:
    match value:
        case Unknown():
            return UNKNOWN
        case External():
            return External(f"{value.name}.{name}")
        case Module():
            return value.get(name)
        case Class():
            return _of_class(value, name)
        case Instance():
            return _of_instance(value, name)
        case Super():
            cls = value.first.of if isinstance(value.first, Instance) else value.first
            found = method(cls, name, (value.first,), after=value.owner)
            return UNKNOWN if found is None else found
        case Hint() if name == "__module__":
            return "builtins" if value.form in ("list", "dict", "tuple", "set") else "typing"
        case Function() if isinstance(value.node, ast.FunctionDef):
            known = {"__name__": value.node.name, "__doc__": ast.get_docstring(value.node)}
            return known.get(name, UNKNOWN)
    if isinstance(value, (*PLAIN, type, Field, FieldInfo, Member)):
        return getattr(value, name, UNKNOWN)
    return UNKNOWN


def _of_class(cls: Class, name: str) -> Any:
    if name in ("__name__", "__module__", "__doc__", "__members__"):
        texts = {"__name__": cls.node.name, "__module__": cls.module.name}
        texts["__doc__"] = ast.get_docstring(cls.node) or ""
        return {m.name: m for m in members(cls)} if name == "__members__" else texts[name]
    if is_enum(cls):
        found = {m.name: m for m in members(cls)}
        if name in found:
            return found[name]
    for each in line(cls):
        for statement in each.node.body:
            match statement:
                case ast.Assign(targets=[ast.Name(id=bound)], value=node) if bound == name:
                    return expressions.value(node, _class_frame(each))
                case ast.AnnAssign(target=ast.Name(id=bound)) if bound == name and statement.value:
                    return plain_default(_field(name, statement, _class_frame(each)))
    found_method = method(cls, name, ())
    return UNKNOWN if found_method is None else found_method


def _of_instance(instance: Instance, name: str) -> Any:
    if name in instance.attributes:
        return instance.attributes[name]
    found = method(instance.of, name, (instance,))
    return _of_class(instance.of, name) if found is None else found
