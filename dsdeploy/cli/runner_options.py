"""The options of every command that runs the native runner."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dsdeploy.errors import UsageError
from dsdeploy.output import Output
from dsdeploy.units import parse_bytes

if TYPE_CHECKING:
    from dsdeploy.runner.start import Runner, Settings

_OPTIONS = (
    click.option(
        "--dtype",
        type=click.Choice(["auto", "float32", "bfloat16", "float16", "fp8"]),
        default="auto",
        show_default=True,
        help="How weights are kept; auto: as they are stored.",
    ),
    click.option("--device", default="cpu", show_default=True, help="cpu, cuda or cuda:N."),
    click.option(
        "--kernels",
        type=click.Choice(["compiled", "triton", "plain"]),
        help="Default: compiled on a CPU, triton on a GPU; plain is torch alone, slow.",
    ),
    click.option("--threads", type=click.IntRange(1), help="Default: the processor's cores."),
    click.option(
        "--context",
        type=click.IntRange(1),
        default=8192,
        show_default=True,
        help="Tokens of the longest prompt and its answer.",
    ),
    click.option(
        "--cache-memory", default="1GiB", show_default=True, help="For the latents of all requests."
    ),
    click.option(
        "--expert-memory",
        metavar="SIZE",
        help="Keep experts on disk and stream them through so much memory.",
    ),
    click.option(
        "--mtp",
        "drafts",
        type=click.IntRange(0, 8),
        default=0,
        show_default=True,
        help="Tokens to draft with the multi-token prediction layer; answers stay the same.",
    ),
    click.option(
        "--max-sequences",
        type=click.IntRange(1),
        default=64,
        show_default=True,
        help="Requests worked on at once.",
    ),
    click.option(
        "--step-tokens",
        type=click.IntRange(1),
        default=512,
        show_default=True,
        help="Tokens computed at once, of prompts and answers.",
    ),
)


def runner_options(function: Callable[..., None]) -> Callable[..., None]:
    """Add the options; call `function(..., settings=Settings)`. Stands below `output_options`,
    which shows its errors."""

    @functools.wraps(function)
    def wrapper(*args: Any, **arguments: Any) -> None:
        demand_installed("torch", "tokenizers", "starlette", "uvicorn", "prometheus_client")
        from dsdeploy.runner.start import Settings

        chosen = {name: arguments.pop(name) for name in _NAMES}
        chosen["cache_memory"] = parse_bytes(chosen["cache_memory"])
        if chosen["expert_memory"] is not None:
            chosen["expert_memory"] = parse_bytes(chosen["expert_memory"])
        function(*args, settings=Settings(**chosen), **arguments)

    for option in reversed(_OPTIONS):
        option(wrapper)
    return wrapper


_NAMES = (
    "dtype",
    "device",
    "kernels",
    "threads",
    "context",
    "cache_memory",
    "expert_memory",
    "drafts",
    "max_sequences",
    "step_tokens",
)


def demand_installed(*names: str) -> None:
    from importlib.util import find_spec

    for name in names:
        if find_spec(name) is None:
            raise UsageError(
                f"The native runner needs {name}, which is not installed.",
                "pip install 'dsdeploy[native]'",
            )


def of_this_rank(out: Output) -> Output:
    """Of the ranks that torchrun has started, the first one speaks for all."""
    return out if os.environ.get("RANK", "0") == "0" else Output(quiet=True)


def start_runner(out: Output, folder: Path, settings: Settings) -> Runner | None:
    """Load with a progress line. None on a rank other than the first, when all is over."""
    from contextlib import ExitStack

    from dsdeploy.runner.start import start

    out = of_this_rank(out)
    with ExitStack() as stack:
        return start(
            folder,
            settings,
            lambda nbytes: stack.enter_context(out.progress("load", nbytes)).advance,
        )
