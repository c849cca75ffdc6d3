"""Follows statements. Where a condition is unknown both ways are followed: a flag that may be there
counts as there."""

from __future__ import annotations

import ast
from typing import Any

from . import expressions, objects
from .scope import Frame, imported
from .values import UNKNOWN, Class, Function, Instance


class LeaveError(Exception):
    """`return`, `break`, `continue` or `raise`."""

    def __init__(self, how: type[ast.stmt]) -> None:
        self.how = how


def run(statements: list[ast.stmt], frame: Frame) -> None:
    for statement in statements:
        follow = _FOLLOW.get(type(statement))
        if follow is not None:
            follow(statement, frame)


def assign(target: ast.expr, value: Any, frame: Frame) -> None:
    match target:
        case ast.Name(id=name):
            frame.names[name] = value
        case ast.Tuple(elts=targets) | ast.List(elts=targets):
            for part, each in zip(targets, _spread(targets, value), strict=True):
                assign(part.value if isinstance(part, ast.Starred) else part, each, frame)
        case ast.Attribute(attr=name):
            owner = expressions.value(target.value, frame)
            if isinstance(owner, Instance):
                owner.attributes[name] = value
        case ast.Subscript():
            owner = expressions.value(target.value, frame)
            key = expressions.value(target.slice, frame)
            if isinstance(owner, dict | list) and key is not UNKNOWN:
                expressions.attempt(owner.__setitem__, key, value)


def _spread(targets: list[ast.expr], value: Any) -> list[Any]:
    """One value for each target, `*rest` getting what is left over."""
    items = objects.iterate(value)
    star = next((i for i, t in enumerate(targets) if isinstance(t, ast.Starred)), None)
    if items is not None and star is not None and len(items) >= len(targets) - 1:
        end = len(items) - (len(targets) - star - 1)
        return [*items[:star], items[star:end], *items[end:]]
    if items is None or len(items) != len(targets):
        return [UNKNOWN] * len(targets)
    return items


def _assign(statement: ast.Assign, frame: Frame) -> None:
    value = expressions.value(statement.value, frame)
    for target in statement.targets:
        assign(target, value, frame)


def _annotated(statement: ast.AnnAssign, frame: Frame) -> None:
    if statement.value is not None:
        assign(statement.target, expressions.value(statement.value, frame), frame)


def _augmented(statement: ast.AugAssign, frame: Frame) -> None:
    old = expressions.value(_as_load(statement.target), frame)
    new = expressions.value(statement.value, frame)
    assign(statement.target, expressions.binary(statement.op, old, new), frame)


def _as_load(target: ast.expr) -> ast.expr:
    return ast.parse(ast.unparse(target), mode="eval").body


def _expression(statement: ast.Expr, frame: Frame) -> None:
    expressions.value(statement.value, frame)


def _if(statement: ast.If, frame: Frame) -> None:
    test = objects.truth(expressions.value(statement.test, frame))
    if test is UNKNOWN:
        for branch in (statement.body, statement.orelse):
            _perhaps(branch, frame)
    else:
        run(statement.body if test else statement.orelse, frame)


def _perhaps(statements: list[ast.stmt], frame: Frame) -> None:
    """A branch that may not be taken cannot end what follows it."""
    try:
        run(statements, frame)
    except LeaveError:
        return


def _for(statement: ast.For, frame: Frame) -> None:
    for item in objects.iterate(expressions.value(statement.iter, frame)) or []:
        assign(statement.target, item, frame)
        try:
            run(statement.body, frame)
        except LeaveError as leaving:
            if leaving.how is ast.Break:
                return
            if leaving.how is not ast.Continue:
                raise
    run(statement.orelse, frame)


def _with(statement: ast.With, frame: Frame) -> None:
    for item in statement.items:
        if item.optional_vars is not None:
            assign(item.optional_vars, expressions.value(item.context_expr, frame), frame)
    run(statement.body, frame)


def _try(statement: ast.Try, frame: Frame) -> None:
    try:
        run(statement.body + statement.orelse, frame)
    except LeaveError as leaving:
        if leaving.how is not ast.Raise:
            raise
        for handler in statement.handlers[:1]:
            run(handler.body, frame)
    run(statement.finalbody, frame)


def _return(statement: ast.Return, frame: Frame) -> None:
    value = None if statement.value is None else expressions.value(statement.value, frame)
    frame.returned.append(value)
    raise LeaveError(ast.Return)


def _leave(statement: ast.stmt, frame: Frame) -> None:
    raise LeaveError(type(statement))


def _function(statement: ast.FunctionDef, frame: Frame) -> None:
    frame.names[statement.name] = Function(statement, frame)


def _class(statement: ast.ClassDef, frame: Frame) -> None:
    frame.names[statement.name] = Class(statement, frame.module)


def _import(statement: ast.Import | ast.ImportFrom, frame: Frame) -> None:
    for alias in statement.names:
        name = alias.asname or alias.name.split(".")[0]
        frame.names[name] = imported(frame.module, statement, name)


def _delete(statement: ast.Delete, frame: Frame) -> None:
    for target in statement.targets:
        if isinstance(target, ast.Subscript):
            owner = expressions.value(target.value, frame)
            if isinstance(owner, dict):
                owner.pop(expressions.value(target.slice, frame), None)


_FOLLOW: dict[type[ast.stmt], Any] = {
    ast.Assign: _assign,
    ast.AnnAssign: _annotated,
    ast.AugAssign: _augmented,
    ast.Expr: _expression,
    ast.If: _if,
    ast.For: _for,
    ast.With: _with,
    ast.Try: _try,
    ast.Return: _return,
    ast.Raise: _leave,
    ast.Break: _leave,
    ast.Continue: _leave,
    ast.FunctionDef: _function,
    ast.ClassDef: _class,
    ast.Import: _import,
    ast.ImportFrom: _import,
    ast.Delete: _delete,
}


def call(function: Function, arguments: list[Any], keywords: dict[str, Any]) -> Any:
    """The last value returned: an earlier one stood behind a condition that is unknown."""
    frame = Frame(function.frame.module, parent=function.frame, owner=function.owner)
    _bind(function, [*function.first, *arguments], keywords, frame)
    if isinstance(function.node, ast.Lambda):
        return expressions.value(function.node.body, frame)
    try:
        run(function.node.body, frame)
    except LeaveError as leaving:
        if leaving.how is ast.Raise:
            return UNKNOWN
    return frame.returned[-1] if frame.returned else None


def _bind(function: Function, given: list[Any], keywords: dict[str, Any], frame: Frame) -> None:
    names = function.node.args
    positional = [argument.arg for argument in names.posonlyargs + names.args]
    defaults = dict(zip(reversed(positional), reversed(names.defaults), strict=False))
    defaults |= {a.arg: d for a, d in zip(names.kwonlyargs, names.kw_defaults, strict=True) if d}
    bound = {name: expressions.value(default, function.frame) for name, default in defaults.items()}
    bound |= dict(zip(positional, given, strict=False))
    known = [*positional, *(argument.arg for argument in names.kwonlyargs)]
    bound |= {name: value for name, value in keywords.items() if name in known}
    if names.vararg:
        bound[names.vararg.arg] = tuple(given[len(positional) :])
    if names.kwarg:
        rest = {name: value for name, value in keywords.items() if name not in known}
        bound[names.kwarg.arg] = rest
    frame.names |= dict.fromkeys(known, UNKNOWN) | bound
