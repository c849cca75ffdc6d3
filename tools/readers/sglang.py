"""`sglang serve` and `sglang.launch_server`: arguments added one by one in older releases, annotated
fields of several classes in newer ones."""

from __future__ import annotations

import ast

from . import expressions, objects
from .arguments import Entry, entries
from .scope import World
from .sources import Sources
from .values import Class, Parser

NAME = "SGLang"
PACKAGE = "sglang"
PREFIXES = ("SGLANG_", "SGL_")
MODULE = "sglang.srt.server_args"
NAMESPACES = "_INPUT_NAMESPACES"


def commands(sources: Sources) -> dict[str, list[Entry]]:
    world = World(sources, {"record_fields": objects.fields})
    module = world.module(MODULE)
    assert module is not None
    definition = next(
        statement
        for statement in sources.tree(MODULE).body
        if isinstance(statement, ast.ClassDef) and statement.name == "ServerArgs"
    )
    arguments = module.known["ServerArgs"] = Class(definition, module)
    if NAMESPACES in module:
        world.namespaces["ServerArgs"] = module.lookup(NAMESPACES)
    parser = Parser()
    expressions.call(objects.method(arguments, "add_cli_args", ()), [parser], {})
    return {"serve": entries(parser)}


def traits(sources: Sources) -> list[str]:
    return ["abbreviations"]
