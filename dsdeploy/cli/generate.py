"""dsdeploy generate: text from a model, without a server."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dsdeploy.cli.common import output_options
from dsdeploy.cli.runner_options import runner_options, start_runner
from dsdeploy.errors import UsageError
from dsdeploy.output import Output

if TYPE_CHECKING:
    from dsdeploy.runner.start import Runner, Settings


@click.command("generate")
@click.argument("model", type=click.Path(path_type=Path))
@click.argument("prompt", required=False)
@click.option("--raw", is_flag=True, help="Continue the text as it is, without the chat template.")
@click.option("--system", help="What the assistant is told before the question.")
@click.option("--max-tokens", type=click.IntRange(1), default=256, show_default=True)
@click.option("--temperature", type=click.FloatRange(0), help="Default: the model's own.")
@click.option("--top-p", type=click.FloatRange(0, 1, min_open=True), help="As temperature.")
@click.option("--seed", type=int, help="The same seed gives the same text.")
@click.option("--ignore-eos", is_flag=True, help="Go on to --max-tokens.")
@click.option(
    "--input",
    "source",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="A file with a request on each line (JSON, as for the server).",
)
@click.option("--output", "target", type=click.Path(path_type=Path, dir_okay=False))
@output_options
@runner_options
def command(
    out: Output,
    model: Path,
    prompt: str | None,
    raw: bool,
    system: str | None,
    max_tokens: int,
    temperature: float | None,
    top_p: float | None,
    seed: int | None,
    ignore_eos: bool,
    source: Path | None,
    target: Path | None,
    settings: Settings,
) -> None:
    """Answer PROMPT with the checkpoint in folder MODEL, or continue it with --raw.

    With --input and --output, many requests at once; a run that was killed goes on when it is
    started again.
    """
    if (prompt is None) == (source is None) or (source is None) != (target is None):
        raise UsageError("Give a prompt, or --input with --output.")
    runner = start_runner(out, model, settings)
    if runner is None:
        return
    try:
        if source is not None and target is not None:
            _file(out, runner, model, source, target)
            return
        fields = {
            "max_tokens": max_tokens,
            "temperature": temperature,
            "top_p": top_p,
            "seed": seed,
            "ignore_eos": ignore_eos,
        }
        _one(out, runner, model, {**_question(prompt or "", raw, system), **fields})
    finally:
        runner.engine.executor.close()


def _question(prompt: str, raw: bool, system: str | None) -> dict[str, Any]:
    if raw:
        return {"prompt": prompt}
    before = [{"role": "system", "content": system}] if system else []
    return {"messages": [*before, {"role": "user", "content": prompt}]}


def _one(out: Output, runner: Runner, model: Path, body: dict[str, Any]) -> None:
    from dsdeploy.runner.offline import ask, begin
    from dsdeploy.runner.server.refusal import RefusedError

    try:
        asked = ask(runner.intake(model.name), body)
    except RefusedError as refusal:
        raise UsageError(str(refusal)) from None
    begun = time.monotonic()
    first: list[float] = []
    answers: list[Any] = []

    def receive(text: str) -> None:
        first.append(time.monotonic())
        out.text(text)

    begin(runner.engine, asked, receive, answers.append)
    while runner.engine.busy:
        runner.engine.step()
    seconds = time.monotonic() - begun
    out.text("\n")
    usage = answers[0]["usage"]
    tokens = usage["completion_tokens"]
    rate = (tokens - 1) / (time.monotonic() - first[0]) if tokens > 1 else 0.0
    speed = f"{rate:.1f} tokens/s" if rate else "one token"
    out.remark(
        f"{usage['prompt_tokens']} tokens in, first out after {first[0] - begun:.2f} s; "
        f"{tokens} out, {speed}{_accepted(runner)}"
    )
    out.result({**answers[0], "seconds": seconds, "tokens_per_second": rate})


def _accepted(runner: Runner) -> str:
    counters = runner.engine.counters
    if not counters.drafted_tokens:
        return ""
    share = 100 * counters.accepted_tokens / counters.drafted_tokens
    return f"; {share:.0f} % of {counters.drafted_tokens} drafts accepted"


def _file(out: Output, runner: Runner, model: Path, source: Path, target: Path) -> None:
    from dsdeploy.runner.offline import run_file

    begun = time.monotonic()
    answered, refused = run_file(runner.engine, runner.intake(model.name), source, target)
    seconds = time.monotonic() - begun
    tokens = runner.engine.counters.generated_tokens
    out.line(
        f"{target}: {answered} answers, {refused} refused, {tokens} tokens in {seconds:.1f} s "
        f"({tokens / seconds:.1f} tokens/s){_accepted(runner)}"
    )
    out.result({"output": str(target), "answers": answered, "refused": refused, "tokens": tokens})
