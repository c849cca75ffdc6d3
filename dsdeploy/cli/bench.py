"""dsdeploy bench: how fast an endpoint answers under a load."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from dsdeploy.cli.bench_options import Wish, wish_options
from dsdeploy.cli.bench_view import document, show
from dsdeploy.cli.common import output_options
from dsdeploy.cli.endpoints import endpoint_options, resolve
from dsdeploy.errors import ExitCode, UsageError
from dsdeploy.output import Output

if TYPE_CHECKING:
    from dsdeploy.client.bench.prompts import Yardstick
    from dsdeploy.client.bench.run import Asking
    from dsdeploy.client.bench.series import Point, Questions
    from dsdeploy.client.endpoint import Endpoint


@click.command("bench")
@click.option("--compare", metavar="URL|NAME", help="A second endpoint, asked in alternation.")
@click.option("--compare-model", help="Its model; default: the first that it lists.")
@click.option(
    "--compare-key-file",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="Holds its key.",
)
@click.option(
    "--plot",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Draw latency over load on an HTML page.",
)
@output_options
@wish_options
@endpoint_options
def command(
    out: Output,
    endpoint: Endpoint,
    model: str,
    wish: Wish,
    compare: str | None,
    compare_model: str | None,
    compare_key_file: Path | None,
    plot: Path | None,
) -> None:
    """Measure the model at an address, or the deployment of that name.

    Without either, the one deployment that is ready. Prompts are made up, each of its own, unless
    --prompts names a file. See docs/bench.md for what is measured.
    """
    from dsdeploy.client.endpoint import first_model

    _require_folder(plot)
    asked = [(endpoint, model)]
    if compare is not None:
        other = resolve(compare, compare_key_file)
        asked.append((other, compare_model or first_model(other)))
    askings = [wish.asking(*each) for each in asked]
    points: list[Point] = []
    interrupted = False
    try:
        for point in _measured(out, wish, askings):
            points.append(point)
    except KeyboardInterrupt:
        interrupted = True
    finally:
        show(out, wish.series.target, askings, points)
    out.result(document(wish, askings, points))
    if plot is not None and points:
        _draw(plot, askings, points)
        out.remark(f"Drawn in {plot}.")
    if interrupted:
        sys.exit(ExitCode.INTERRUPTED)
    if not any(summary.succeeded for point in points for summary in point.summaries):
        sys.exit(ExitCode.ENGINE)  # what failed, and how, has been shown


def _measured(out: Output, wish: Wish, askings: list[Asking]) -> Iterator[Point]:
    from dsdeploy.client.bench.series import run_series

    with out.status_line() as line:
        questions = _questions(out, wish, askings[0])
        yield from run_series(wish.series, askings, questions, line.show)


def _questions(out: Output, wish: Wish, asking: Asking) -> Questions:
    from dsdeploy.client.bench.prompt_files import from_file, read_prompts, shuffled
    from dsdeploy.client.bench.prompts import synthetic

    if wish.prompts is not None:
        prompts = shuffled(read_prompts(wish.prompts), wish.seed)
        return lambda first, count: from_file(
            prompts, count, wish.answer, wish.seed, first, wish.chat
        )
    yardstick = _yardstick(out, wish, asking)
    return lambda first, count: synthetic(
        count, wish.prompt, wish.answer, yardstick, wish.seed, first, wish.shared_prefix, wish.chat
    )


def _yardstick(out: Output, wish: Wish, asking: Asking) -> Yardstick:
    """Raises DeployError of an endpoint that does not answer at all."""
    from dsdeploy.client.bench.load import Concurrency
    from dsdeploy.client.bench.prompts import GUESSED, Question, as_chat, calibrated
    from dsdeploy.client.bench.run import measure

    def count_tokens(text: str) -> int | None:
        question = Question(as_chat(text) if wish.chat else text, 1)
        (sample,) = measure(asking, [question], Concurrency(1)).samples
        if sample.failure is not None:
            raise sample.failure.error
        return sample.prompt_tokens

    found = calibrated(count_tokens, wish.prompt, wish.seed)
    if found is None:
        out.remark("The endpoint does not count a prompt's tokens: one a word is assumed.")
    return found or GUESSED


def _draw(path: Path, askings: list[Asking], points: list[Point]) -> None:
    from dsdeploy.client.bench.plot import render_plot
    from dsdeploy.whole_files import replace_file

    names = [f"{asking.model} at {asking.endpoint.address}" for asking in askings]
    replace_file(path, render_plot("Latency over load", points, names).encode())


def _require_folder(plot: Path | None) -> None:
    """Before the work, not after it."""
    if plot is not None and not plot.absolute().parent.is_dir():
        raise UsageError(f"There is no folder {plot.absolute().parent}.")
