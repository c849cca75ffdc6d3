"""Log-probabilities of whole prompts in one pass over the weights, a layer at a time.

A layer is read, all prompts go through it, and it is dropped: memory holds one layer (or, with
streamed experts, its attention and the pool) and the prompts' states. So the true model's numbers
come from any machine whose disk holds the checkpoint, however slowly.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from dsdeploy.runner.cache import LatentCache
from dsdeploy.runner.load import Loader
from dsdeploy.runner.ops import Activation
from dsdeploy.runner.pages import PAGE_TOKENS
from dsdeploy.runner.rope import Rotation
from dsdeploy.runner.step import Span, Step

_LOGITS_TOKENS = 256
"""Tokens whose logits are in memory at once."""


@torch.inference_mode()
def score(loader: Loader, prompts: Sequence[Sequence[int]]) -> list[list[float]]:
    """For each prompt, the log-probability of each token but the first."""
    loader.ops.begin()
    device = loader.options.device
    steps = [_whole(prompt).to(device) for prompt in prompts]
    embedding = loader.embedding()
    states = [F.embedding(step.tokens, embedding).float() for step in steps]
    del embedding
    config = loader.config
    rotation = Rotation(config, device)
    turns = [rotation.at(step.positions) for step in steps]
    width = config.kv_lora_rank + config.qk_rope_head_dim
    pages = max(len(step.spans[0].pages) for step in steps)
    cache = LatentCache(1, pages, width, loader.cache_dtype, device)
    for number in range(config.num_hidden_layers):
        layer = loader.layer(number, cached_as=0)
        for index, (step, turn) in enumerate(zip(steps, turns, strict=True)):
            state_TD = states[index]
            state_TD += layer(state_TD, None, step, cache, turn)
    norm, head = loader.final()
    scores = []
    for prompt, state_TD in zip(prompts, states, strict=True):
        normed_TD = loader.ops.rms_norm(state_TD, norm, config.rms_norm_eps).values_TK
        targets = torch.tensor(prompt[1:], device=device)
        scores.append(
            [
                value
                for part in _parts(len(targets))
                for value in _logprobs(
                    loader.group.gather(loader.ops.linear(Activation(normed_TD[part]), head)),
                    targets[part],
                )
            ]
        )
    return scores


def _whole(prompt: Sequence[int]) -> Step:
    pages = tuple(range(-(-len(prompt) // PAGE_TOKENS)))
    return Step(torch.tensor(prompt), (Span(0, len(prompt), pages, prompt=True),))


def _parts(count: int) -> Iterator[slice]:
    for start in range(0, count, _LOGITS_TOKENS):
        yield slice(start, min(count, start + _LOGITS_TOKENS))


def _logprobs(logits_NW: Tensor, targets_N: Tensor) -> list[float]:
    chosen = logits_NW.double().log_softmax(-1).gather(-1, targets_N[:, None])
    values: list[float] = chosen[:, 0].tolist()
    return values
