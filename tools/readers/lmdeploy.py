"""`lmdeploy serve api_server` and `lmdeploy serve proxy`: helpers add arguments to parsers and to
groups of them."""

from __future__ import annotations

from collections.abc import Callable

from . import expressions, objects
from .arguments import Entry, entries
from .scope import World
from .sources import Sources
from .values import Parser

NAME = "LMDeploy"
PACKAGE = "lmdeploy"
PREFIXES = ("LMDEPLOY_",)
COMMANDS = {"api_server": "serve", "proxy": "proxy"}


def commands(sources: Sources) -> dict[str, list[Entry]]:
    world = World(sources)
    module = world.module("lmdeploy.cli.serve")
    assert module is not None
    serve, parser = module.lookup("SubCliServe"), Parser()
    world.overrides["add_parser"] = _named(parser)
    expressions.call(objects.method(serve, "add_parsers", ()), [], {})
    return {COMMANDS[p.name]: entries(p) for p in parser.parsers if p.name in COMMANDS}


def _named(parent: Parser) -> Callable[..., Parser]:
    """Every parser that is made, wherever it hangs."""

    def add(name: str, **options: object) -> Parser:
        parent.parsers.append(Parser(name))
        return parent.parsers[-1]

    return add


def traits(sources: Sources) -> list[str]:
    return ["abbreviations"]
