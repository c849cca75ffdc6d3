"""dsdeploy score: log-probabilities of texts."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dsdeploy.cli.common import output_options
from dsdeploy.cli.runner_options import of_this_rank, runner_options
from dsdeploy.errors import UsageError
from dsdeploy.output import Output

if TYPE_CHECKING:
    from dsdeploy.runner.start import Settings


@click.command("score")
@click.argument("model", type=click.Path(path_type=Path))
@click.argument("texts", nargs=-1)
@click.option(
    "--input",
    "source",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help='A file with a prompt on each line (JSON): {"prompt": "text" or [1, 2, 3]}',
)
@output_options
@runner_options
def command(
    out: Output, model: Path, texts: tuple[str, ...], source: Path | None, settings: Settings
) -> None:
    """The log-probability of each token of TEXTS under the checkpoint in folder MODEL.

    One pass over the weights, a layer in memory at a time: --expert-memory bounds what is left.
    """
    from dsdeploy.checkpoint.reader import open_checkpoint
    from dsdeploy.runner.load import Loader
    from dsdeploy.runner.parallel import join, leave
    from dsdeploy.runner.score import score
    from dsdeploy.runner.start import load_options
    from dsdeploy.runner.text import Tokenizer
    from dsdeploy.runner.weights import WeightSource

    if bool(texts) == (source is not None):
        raise UsageError("Give texts, or --input with a file of them.")
    given = list(texts) if source is None else _prompts(source)
    checkpoint = open_checkpoint(model)
    tokenizer = Tokenizer(model)
    prompts = [tokenizer.encode(text) if isinstance(text, str) else text for text in given]
    for prompt in prompts:
        if len(prompt) < 2 or max(prompt) >= checkpoint.config.vocab_size:
            raise UsageError("A prompt needs two tokens or more, all of the model's vocabulary.")
    options = load_options(settings)
    layers = checkpoint.config.num_hidden_layers
    speaker = of_this_rank(out)
    group = join(options.device)
    with speaker.progress("score", sum(shard.size for shard in checkpoint.shards)) as bar:
        loader = Loader(WeightSource(checkpoint, group), options, group, bar.advance)
        scores = score(loader, prompts)
    leave()
    if group.rank > 0:
        return
    rows = [
        (str(index), str(len(found)), f"{sum(found):.4f}", f"{-sum(found) / len(found):.4f}")
        for index, found in enumerate(scores, 1)
    ]
    out.table(
        f"{model}, {layers} layers",
        ("prompt", "tokens", "log-probability", "negative mean"),
        rows,
        right=(1, 2, 3),
    )
    out.result(
        {
            "model": str(model),
            "prompts": [_entry(*pair) for pair in zip(prompts, scores, strict=True)],
        }
    )


def _entry(prompt: list[int], found: list[float]) -> dict[str, Any]:
    return {"tokens": prompt, "logprobs": [None, *found]}


def _prompts(source: Path) -> list[str | list[int]]:
    from dsdeploy.runner.server.bodies import read_json

    found = []
    for number, line in enumerate(source.read_bytes().splitlines(), 1):
        try:
            prompt = read_json(line)["prompt"]
        except (ValueError, TypeError, KeyError, RecursionError):
            prompt = None
        tokens = isinstance(prompt, list) and all(isinstance(t, int) and t >= 0 for t in prompt)
        if not tokens and not isinstance(prompt, str):
            raise UsageError(
                f"{source}, line {number} holds no prompt.",
                'Write {"prompt": "text"} on each line.',
            )
        found.append(prompt)
    if not found:
        raise UsageError(f"{source} is empty.", 'Write {"prompt": "text"} on each line.')
    return found
