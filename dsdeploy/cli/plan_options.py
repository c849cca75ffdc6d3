"""How `plan` is asked: counts with a K, and the options that make a wish."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from typing import Any

import click

from dsdeploy.model.formats import FORMATS
from dsdeploy.output import Output
from dsdeploy.planning.planner import Sizes, Wish


class TokenCount(click.ParamType[int]):
    """`32K` is 32,768 tokens; `32k` and `32000` are 32,000."""

    name = "tokens"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> int:
        match = re.fullmatch(r"([1-9]\d{0,8})([kKM]?)", str(value))
        if match is None:
            self.fail(f"{value!r} is no number of tokens; write 32768, 32K or 32k.", param, ctx)
        return int(match[1]) * {"": 1, "k": 1000, "K": 1024, "M": 1024**2}[match[2]]


_SIZES = {
    "tensor": "Devices that share each attention head's work (TP).",
    "pipeline": "Stages of consecutive layers (PP).",
    "data": "Attention replicas (DP).",
    "expert": "Devices over which experts are dealt out (EP).",
}


def wish_options(function: Callable[..., None]) -> Callable[..., None]:
    """Call `function(out, ..., wish=Wish)`."""

    @functools.wraps(function)
    def wrapper(
        out: Output, context: int, concurrency: int, mtp: bool, precision: str | None,
        cache_format: str, **rest: Any,
    ) -> None:  # fmt: skip
        sizes = Sizes(**{name: rest.pop(name) for name in _SIZES})
        wish = Wish(context, concurrency, mtp, precision, cache_format, sizes)
        function(out, wish=wish, **rest)

    for name in reversed(_SIZES):
        option = click.option(
            f"--{name[0]}p", name, type=click.IntRange(1, 4096), help=_SIZES[name]
        )
        wrapper = option(wrapper)
    for option in (
        click.option("--cache-format", type=click.Choice(["bf16", "fp8"]), default="bf16",
                     help="Of the latent cache."),
        click.option("--precision", type=click.Choice(list(FORMATS)),
                     help="Of the weights; default: as stored, or what the engine can load."),
        click.option("--mtp", is_flag=True, help="Draft with the multi-token prediction layer."),
        click.option("--concurrency", type=click.IntRange(1, 10**6), default=8,
                     show_default=True, help="Requests at once."),
        click.option("--context", type=TokenCount(), default="8K", show_default=True,
                     help="Tokens of each request, answer included: 32K is 32,768."),
    ):  # fmt: skip
        wrapper = option(wrapper)
    return wrapper
