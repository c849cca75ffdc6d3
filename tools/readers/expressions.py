"""What an expression is worth."""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable, Iterator
from typing import Any

from . import objects, statements
from .library import EXTERNAL, INNER, PARSER
from .scope import Frame
from .values import UNKNOWN, Class, External, Function, Hint, Instance, Parser, Super, is_type

DEPTH = 40

_BINARY: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: operator.pow,
    ast.LShift: operator.lshift,
    ast.BitOr: operator.or_,
    ast.BitAnd: operator.and_,
}
_COMPARE: dict[type[ast.cmpop], Callable[[Any, Any], Any]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.Is: lambda a, b: a is b or (is_type(a) and a == b),
    ast.IsNot: lambda a, b: not (a is b or (is_type(a) and a == b)),
    ast.In: lambda a, b: a in b,
    ast.NotIn: lambda a, b: a not in b,
}


def value(node: ast.expr, frame: Frame) -> Any:
    find = _VALUE.get(type(node))
    return UNKNOWN if find is None else find(node, frame)


def attempt(function: Callable[..., Any], *arguments: Any, **keywords: Any) -> Any:
    """Of real Python, on what may turn out to be no fit."""
    try:
        return function(*arguments, **keywords)
    except (TypeError, ValueError, KeyError, IndexError, AttributeError, ArithmeticError):
        return UNKNOWN


def binary(op: ast.operator, left: Any, right: Any) -> Any:
    if isinstance(op, ast.BitOr) and is_type(left) and is_type(right):
        return union([left, right])
    if UNKNOWN in (left, right) or type(op) not in _BINARY:
        return UNKNOWN
    return attempt(_BINARY[type(op)], left, right)


def union(types: list[Any]) -> Hint:
    flat: list[Any] = []
    for each in types:
        inner = each.arguments if isinstance(each, Hint) and each.form == "Union" else (each,)
        flat += [one for one in inner if one not in flat]
    return Hint("Union", tuple(type(None) if one is None else one for one in flat))


def call(function: Any, arguments: list[Any], keywords: dict[str, Any]) -> Any:
    match function:
        case Function():
            return _follow(function, arguments, keywords)
        case Class():
            if objects.derives_from(function, "ArgumentParser"):
                return Parser(keywords.get("prog"))
            return objects.make(function, arguments, keywords)
        case External():
            known = EXTERNAL.get(function.name)
            return UNKNOWN if known is None else attempt(known, *arguments, **keywords)
    if function in INNER:
        return attempt(INNER[function], *arguments, **keywords)
    if callable(function) and UNKNOWN not in [*arguments, *keywords.values()]:
        return attempt(function, *arguments, **keywords)
    return UNKNOWN


def _follow(function: Function, arguments: list[Any], keywords: dict[str, Any]) -> Any:
    world = function.frame.module.world
    if world.depth >= DEPTH:
        return UNKNOWN
    world.depth += 1
    try:
        return statements.call(function, arguments, keywords)
    finally:
        world.depth -= 1


def _constant(node: ast.Constant, frame: Frame) -> Any:
    return node.value


def _name(node: ast.Name, frame: Frame) -> Any:
    return frame.lookup(node.id)


def _attribute(node: ast.Attribute, frame: Frame) -> Any:
    owner = value(node.value, frame)
    if isinstance(owner, Parser):
        return (owner, node.attr) if node.attr in PARSER else UNKNOWN
    return objects.attribute(owner, node.attr)


def _call(node: ast.Call, frame: Frame) -> Any:
    name = ast.unparse(node.func).split(".")[-1]
    function = value(node.func, frame)
    arguments = list(_spread(node.args, frame))
    keywords = _keywords(node, frame)
    if name in frame.module.world.overrides:
        return attempt(frame.module.world.overrides[name], *arguments, **keywords)
    if isinstance(function, tuple) and function and isinstance(function[0], Parser):
        return PARSER[function[1]](function[0], arguments, keywords)
    if function is super:
        return _super(frame)

    return call(function, arguments, keywords)


def _super(frame: Frame) -> Any:
    inner: Frame | None = frame
    while inner is not None and inner.owner is None:
        inner = inner.parent
    if inner is None or inner.owner is None:
        return UNKNOWN
    first = next(iter(inner.names.values()), UNKNOWN)
    return Super(inner.owner, first) if isinstance(first, Class | Instance) else UNKNOWN


def _keywords(node: ast.Call, frame: Frame) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for keyword in node.keywords:
        given = value(keyword.value, frame)
        if keyword.arg is not None:
            found[keyword.arg] = given
        elif isinstance(given, dict):
            found |= given
    return found


def _spread(nodes: list[ast.expr], frame: Frame) -> Iterator[Any]:
    for node in nodes:
        if isinstance(node, ast.Starred):
            items = objects.iterate(value(node.value, frame))
            yield from [UNKNOWN] if items is None else items
        else:
            yield value(node, frame)


def _list(node: ast.List, frame: Frame) -> Any:
    return list(_spread(node.elts, frame))


def _tuple(node: ast.Tuple, frame: Frame) -> Any:
    return tuple(_spread(node.elts, frame))


def _set(node: ast.Set, frame: Frame) -> Any:
    return attempt(set, _spread(node.elts, frame))


def _dict(node: ast.Dict, frame: Frame) -> Any:
    found: dict[Any, Any] = {}
    for key, item in zip(node.keys, node.values, strict=True):
        given = value(item, frame)
        if key is not None:
            attempt(found.__setitem__, value(key, frame), given)
        elif isinstance(given, dict):
            found |= given
    return found


def _joined(node: ast.JoinedStr, frame: Frame) -> Any:
    parts = [value(p.value if isinstance(p, ast.FormattedValue) else p, frame) for p in node.values]
    return "".join("…" if part is UNKNOWN else str(part) for part in parts)


def _binary(node: ast.BinOp, frame: Frame) -> Any:
    return binary(node.op, value(node.left, frame), value(node.right, frame))


def _unary(node: ast.UnaryOp, frame: Frame) -> Any:
    operand = value(node.operand, frame)
    if isinstance(node.op, ast.Not):
        truth = objects.truth(operand)
        return UNKNOWN if truth is UNKNOWN else not truth
    if isinstance(node.op, ast.USub) and isinstance(operand, int | float):
        return -operand
    return UNKNOWN


def _boolean(node: ast.BoolOp, frame: Frame) -> Any:
    """An unknown operand matters only if no other decides."""
    decides = isinstance(node.op, ast.Or)
    unknown, last = False, UNKNOWN
    for operand in node.values:
        last = value(operand, frame)
        truth = objects.truth(last)
        if truth is decides:
            return last
        unknown = unknown or truth is UNKNOWN
    return UNKNOWN if unknown else last


def _compare(node: ast.Compare, frame: Frame) -> Any:
    left = value(node.left, frame)
    for op, right_node in zip(node.ops, node.comparators, strict=True):
        right = value(right_node, frame)
        if UNKNOWN in (left, right):
            return UNKNOWN
        right = objects.members(right) if isinstance(right, Class) else right
        held = attempt(_COMPARE[type(op)], left, right)
        if held is not True:
            return held
        left = right
    return True


def _conditional(node: ast.IfExp, frame: Frame) -> Any:
    test = objects.truth(value(node.test, frame))
    if test is UNKNOWN:
        return UNKNOWN
    return value(node.body if test else node.orelse, frame)


def _subscript(node: ast.Subscript, frame: Frame) -> Any:
    owner, key = value(node.value, frame), value(node.slice, frame)
    if isinstance(owner, External):
        return _hint(owner.name.split(".")[-1], key)
    if isinstance(owner, type):
        return _hint(owner.__name__, key)
    if isinstance(owner, Class) and objects.is_enum(owner):
        return objects.attribute(owner, key) if isinstance(key, str) else UNKNOWN
    if isinstance(owner, dict | list | tuple | str) and key is not UNKNOWN:
        return attempt(operator.getitem, owner, key)
    return UNKNOWN


def _hint(form: str, key: Any) -> Hint:
    arguments = key if isinstance(key, tuple) else (key,)
    if form in ("Optional", "Union"):
        return union([*arguments, *([None] if form == "Optional" else [])])
    if form == "Literal":
        nested = [a.arguments if isinstance(a, Hint) else (a,) for a in arguments]
        arguments = tuple(one for each in nested for one in each)
    normal = {
        "SkipValidation": "Annotated",
        "InitVar": "Annotated",
        "List": "list",
        "Dict": "dict",
        "Tuple": "tuple",
        "Set": "set",
    }.get(form, form)
    return Hint(normal, tuple(tuple(a) if isinstance(a, list) else a for a in arguments))


def _slice(node: ast.Slice, frame: Frame) -> Any:
    ends = [None if end is None else value(end, frame) for end in (node.lower, node.upper)]
    return UNKNOWN if UNKNOWN in ends else slice(*ends)


def _lambda(node: ast.Lambda, frame: Frame) -> Any:
    return Function(node, frame)


def _walrus(node: ast.NamedExpr, frame: Frame) -> Any:
    found = value(node.value, frame)
    statements.assign(node.target, found, frame)
    return found


def _comprehension(
    node: ast.ListComp | ast.SetComp | ast.GeneratorExp | ast.DictComp, frame: Frame
) -> Any:
    inner = Frame(frame.module, parent=frame, owner=frame.owner)
    rows = _rows(node, node.generators, inner)
    found = UNKNOWN if rows is None else rows
    if isinstance(found, list) and isinstance(node, ast.SetComp):
        return attempt(set, found)
    return attempt(dict, found) if isinstance(node, ast.DictComp) else found


def _rows(node: Any, generators: list[ast.comprehension], frame: Frame) -> list[Any] | None:
    """None if what it goes through is unknown."""
    if not generators:
        if isinstance(node, ast.DictComp):
            return [(value(node.key, frame), value(node.value, frame))]
        return [value(node.elt, frame)]
    first, *others = generators
    items = objects.iterate(value(first.iter, frame))
    if items is None:
        return None
    found: list[Any] = []
    for item in items:
        statements.assign(first.target, item, frame)
        if all(objects.truth(value(test, frame)) for test in first.ifs):
            found += _rows(node, others, frame) or []
    return found


_VALUE: dict[type[ast.expr], Any] = {
    ast.Constant: _constant,
    ast.Name: _name,
    ast.Attribute: _attribute,
    ast.Call: _call,
    ast.List: _list,
    ast.Tuple: _tuple,
    ast.Set: _set,
    ast.Dict: _dict,
    ast.JoinedStr: _joined,
    ast.BinOp: _binary,
    ast.UnaryOp: _unary,
    ast.BoolOp: _boolean,
    ast.Compare: _compare,
    ast.IfExp: _conditional,
    ast.Subscript: _subscript,
    ast.Slice: _slice,
    ast.Lambda: _lambda,
    ast.NamedExpr: _walrus,
    ast.ListComp: _comprehension,
    ast.SetComp: _comprehension,
    ast.GeneratorExp: _comprehension,
    ast.DictComp: _comprehension,
}
