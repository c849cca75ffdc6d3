"""How the commands reach a Hub."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from dsdeploy.hub.retries import Retries

SCHEME = "hf://"
"""How a repository is written where a folder could stand as well."""

_OPTIONS = (
    click.option(
        "--endpoint",
        envvar=["DSDEPLOY_ENDPOINT", "HF_ENDPOINT"],
        default="https://huggingface.co",
        show_default=True,
        help="The Hub, or a mirror that speaks as it does.",
    ),
    click.option(
        "--attempts",
        type=click.IntRange(1),
        default=10,
        show_default=True,
        help="In a row that may fail without a byte gained.",
    ),
    click.option(
        "--stall-seconds",
        type=click.FloatRange(0, min_open=True),
        default=60.0,
        show_default=True,
        help="Without a byte, after which a connection is given up.",
    ),
)


@dataclass(frozen=True)
class Reach:
    endpoint: str
    retries: Retries


def reach_options(function: Callable[..., None]) -> Callable[..., None]:
    """Call `function(out, reach=Reach, ...)`. Stands below `output_options`."""

    @functools.wraps(function)
    def wrapper(
        *arguments: Any, endpoint: str, attempts: int, stall_seconds: float, **rest: Any
    ) -> None:
        from dsdeploy.hub.retries import Retries

        reach = Reach(endpoint, Retries(attempts=attempts, stall=stall_seconds))
        function(*arguments, reach=reach, **rest)

    for option in reversed(_OPTIONS):
        wrapper = option(wrapper)
    return wrapper
