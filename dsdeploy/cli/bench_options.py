"""How `bench` is asked: the load, the prompts, the targets."""

from __future__ import annotations

import functools
import math
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dsdeploy.errors import UsageError
from dsdeploy.output import Output

if TYPE_CHECKING:
    from dsdeploy.client.bench.load import Load
    from dsdeploy.client.bench.prompts import Length
    from dsdeploy.client.bench.run import Asking
    from dsdeploy.client.bench.series import Series
    from dsdeploy.client.endpoint import Endpoint

_OPTIONS = {
    "concurrency": click.option("--concurrency", type=click.IntRange(1), help="So many requests at a time."),
    "rate": click.option(
        "--rate",
        type=click.FloatRange(0, min_open=True),
        help="Requests a second, at random times (Poisson).",
    ),
    "sweep": click.option("--sweep", metavar="1,2,4", help="Several concurrencies, one after the other."),
    "sweep_rates": click.option("--sweep-rates", metavar="1,2,4", help="Several rates, one after the other."),
    "requests": click.option(
        "--requests",
        type=click.IntRange(1),
        help="At each load; default: 4 for each at a time, or 30 s of a rate, and at least 16.",
    ),
    "seconds": click.option(
        "--seconds",
        type=click.FloatRange(0, min_open=True),
        help="How long requests leave at each load, instead of a number of them.",
    ),
    "warm_up": click.option(
        "--warm-up",
        type=click.IntRange(0),
        help="Requests before each load, not counted; default: one for each at a time, or 2.",
    ),
    "input_tokens": click.option("--input-tokens", default="512", show_default=True, metavar="N|N-M"),
    "output_tokens": click.option("--output-tokens", default="128", show_default=True, metavar="N|N-M"),
    "shared_prefix": click.option(
        "--shared-prefix",
        type=click.IntRange(0),
        default=0,
        help="Tokens with which all made-up prompts begin; default: none.",
    ),
    "prompts": click.option(
        "--prompts",
        type=click.Path(path_type=Path, exists=True, dir_okay=False),
        help="JSONL with prompt or messages, or a ShareGPT file.",
    ),
    "chat": click.option("--chat", is_flag=True, help="Ask texts as questions of a chat."),
    "ignore_eos": click.option(
        "--ignore-eos/--stop-at-eos",
        default=None,
        help="Whether answers go on to --output-tokens; default: those to made-up prompts.",
    ),
    "temperature": click.option("--temperature", type=click.FloatRange(0), default=0.0, show_default=True),
    "seed": click.option("--seed", type=int, help="Of prompts and times; default: a new one each time."),
    "timeout": click.option(
        "--timeout", type=click.FloatRange(0, min_open=True), default=600.0, show_default=True,
        help="Seconds for a whole answer.",
    ),
    "target_ttft_ms": click.option(
        "--target-ttft-ms",
        type=click.FloatRange(0, min_open=True),
        help="The time to the first token that goodput asks of a request.",
    ),
    "target_itl_ms": click.option(
        "--target-itl-ms",
        type=click.FloatRange(0, min_open=True),
        help="The mean time per token after it that goodput asks.",
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Wish:
    series: Series
    prompt: Length
    answer: Length
    shared_prefix: int
    prompts: Path | None
    chat: bool
    ignore_eos: bool
    temperature: float
    timeout: float

    @property
    def seed(self) -> int:
        return self.series.seed

    def asking(self, endpoint: Endpoint, model: str) -> Asking:
        from dsdeploy.client.bench.run import Asking

        return Asking(endpoint, model, self.timeout, self.temperature, self.ignore_eos)


def wish_options(function: Callable[..., None]) -> Callable[..., None]:
    """Call `function(out, ..., wish=Wish)`. Stands below `output_options`, which shows its errors."""

    @functools.wraps(function)
    def wrapper(out: Output, **arguments: Any) -> None:
        wish = _wish(**{name: arguments.pop(name) for name in _OPTIONS})
        function(out, wish=wish, **arguments)

    for option in reversed(_OPTIONS.values()):
        option(wrapper)
    return wrapper


def _wish(
    input_tokens: str,
    output_tokens: str,
    shared_prefix: int,
    prompts: Path | None,
    chat: bool,
    ignore_eos: bool | None,
    temperature: float,
    timeout: float,
    **rest: Any,
) -> Wish:
    from dsdeploy.client.bench.prompts import Length

    return Wish(
        series=_series(**rest),
        prompt=Length.parse(input_tokens),
        answer=Length.parse(output_tokens),
        shared_prefix=shared_prefix,
        prompts=prompts,
        chat=chat,
        ignore_eos=prompts is None if ignore_eos is None else ignore_eos,
        temperature=temperature,
        timeout=timeout,
    )


def _series(
    requests: int | None,
    seconds: float | None,
    warm_up: int | None,
    seed: int | None,
    target_ttft_ms: float | None,
    target_itl_ms: float | None,
    **loads: Any,
) -> Series:
    from dsdeploy.client.bench.series import Series
    from dsdeploy.client.bench.statistics import Target

    if requests is not None and seconds is not None:
        raise UsageError("Give one of --requests and --seconds.")
    milliseconds = (target_ttft_ms, target_itl_ms)
    target = Target(*(None if ms is None else ms / 1000 for ms in milliseconds))
    fresh = secrets.randbelow(2**31) if seed is None else seed
    return Series(_loads(**loads), fresh, requests, seconds, warm_up, target)


def _loads(
    concurrency: int | None, rate: float | None, sweep: str | None, sweep_rates: str | None
) -> tuple[Load, ...]:
    from dsdeploy.client.bench.load import Concurrency, Rate

    if sum(each is not None for each in (concurrency, rate, sweep, sweep_rates)) > 1:
        raise UsageError("Give one of --concurrency, --rate, --sweep and --sweep-rates.")
    if rate is not None:
        return (Rate(rate),)
    if sweep_rates is not None:
        return tuple(map(Rate, _numbers("--sweep-rates", sweep_rates, float)))
    if sweep is not None:
        return tuple(map(Concurrency, _numbers("--sweep", sweep, int)))
    return (Concurrency(concurrency or 1),)


def _numbers(option: str, text: str, kind: Callable[[str], Any]) -> list[Any]:
    try:
        numbers = [kind(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    if not numbers or not all(0 < number < math.inf for number in numbers):
        raise UsageError(f"{option} {text!r} is no list of numbers.", "Write it as 1,2,4,8.")
    return numbers
