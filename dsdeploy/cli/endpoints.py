"""The options of every command that talks to an endpoint: whose it is, its key, its model."""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from dsdeploy.client.endpoint import Endpoint

_OPTIONS = (
    click.argument("target", required=False, metavar="[URL|NAME]"),
    click.option(
        "--api-key-file",
        type=click.Path(path_type=Path, exists=True, dir_okay=False),
        help="Holds the endpoint's key; or set DSDEPLOY_API_KEY.",
    ),
    click.option("--model", help="Default: the first that the endpoint lists."),
)
_ADDRESS = re.compile(r"://|:\d+|/")
"""What no deployment's name holds."""


def endpoint_options(function: Callable[..., None]) -> Callable[..., None]:
    """Add them; call `function(..., endpoint=Endpoint, model=str)`. Stands below `output_options`,
    which shows its errors."""

    @functools.wraps(function)
    def wrapper(
        *args: Any, target: str | None, api_key_file: Path | None, model: str | None, **more: Any
    ) -> None:
        from dsdeploy.client.endpoint import first_model

        endpoint = resolve(target, api_key_file)
        function(*args, endpoint=endpoint, model=model or first_model(endpoint), **more)

    for option in reversed(_OPTIONS):
        option(wrapper)
    return wrapper


def resolve(target: str | None, key_file: Path | None) -> Endpoint:
    """Of an address, of a deployment's name, or of the one deployment that is ready.

    A deployment knows its key; a `key_file` counts before that. Raises UsageError.
    """
    from dsdeploy.client.endpoint import Endpoint, parse_address
    from dsdeploy.serving.registry import endpoint_of, only_endpoint

    if target is not None and _is_address(target):
        return Endpoint(parse_address(target), _key(key_file))
    key = _key(key_file) if key_file else None
    return only_endpoint(key) if target is None else endpoint_of(target, key)


def _is_address(target: str) -> bool:
    """A dot is in hosts' names and in models': a deployment that exists is meant first."""
    from dsdeploy.serving.registry import entries

    if _ADDRESS.search(target):
        return True
    return "." in target and target not in (each.name for each in entries())


def _key(file: Path | None) -> str | None:
    """None where neither a file nor the environment names one."""
    from dsdeploy.serving.environment import KEY_VARIABLE, read_key

    if file is None and KEY_VARIABLE not in os.environ:
        return None
    return read_key(str(file or ""), os.environ)
