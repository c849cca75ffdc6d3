"""`vllm serve`: dataclasses of configuration turned into arguments by vLLM's own functions, which
are followed as they stand in each release."""

from __future__ import annotations

from typing import Any

from . import expressions, objects
from .arguments import Entry, entries
from .scope import World
from .sources import Sources
from .values import UNKNOWN, Class, Instance, Nullable, Parser

NAME = "vLLM"
PACKAGE = "vllm"
PREFIXES = ("VLLM_",)
PAIRED = "EnableDisableAction"


def commands(sources: Sources) -> dict[str, list[Entry]]:
    overrides = {"get_attr_docs": _docs, "optional_type": Nullable, "parse_type": _same}
    world = World(sources, overrides)
    module = world.module("vllm.entrypoints.cli.serve")
    assert module is not None
    command, parser = module.lookup("ServeSubcommand"), Parser()
    start = objects.method(command, "subparser_init", (Instance(command, {"name": "serve"}),))
    expressions.call(start, [parser], {})
    utilities = world.module("vllm.utils.argparse_utils")
    paired = utilities is not None and PAIRED in utilities
    return {"serve": entries(parser.parsers[0], paired)}


def _docs(cls: Any) -> Any:
    return objects.docs(cls) if isinstance(cls, Class) else UNKNOWN


def _same(kind: Any) -> Any:
    return kind


def traits(sources: Sources) -> list[str]:
    """Its parser takes `--max_model_len`, and since 0.9 `--config.key value`."""
    texts = [text for _, text in sources.texts() if "class FlexibleArgumentParser" in text]
    dotted = any("dict_args" in text for text in texts)
    return ["abbreviations", "underscores", *(["dotted"] if dotted else [])]
