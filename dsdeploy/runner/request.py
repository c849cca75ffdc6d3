"""What is asked of the engine, and what it answers: plain data."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Sampling:
    """How tokens are chosen and when to stop. The names are those of OpenAI's and vLLM's APIs."""

    max_tokens: int = 256
    min_tokens: int = 0
    temperature: float = 1.0
    """0 is greedy."""
    top_p: float = 1.0
    top_k: int = 0
    """0 keeps all tokens."""
    min_p: float = 0.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    seed: int = 0
    stop: tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] = ()
    ignore_eos: bool = False
    logprobs: int | None = None
    """None: no log-probabilities; otherwise those of the chosen token and of so many others."""
    prompt_logprobs: int | None = None
    skip_special_tokens: bool = True


@dataclass(frozen=True)
class TokenLogprob:
    """A token's log-probability in the model's own distribution, before temperature and filters,
    with its rank (1 is the most likely), and the most likely tokens there."""

    token: int
    logprob: float
    rank: int
    top: tuple[tuple[int, float], ...]


@dataclass(frozen=True)
class Output:
    """What a step has added to a request."""

    text: str = ""
    tokens: tuple[int, ...] = ()
    logprobs: tuple[TokenLogprob, ...] = ()
    prompt_logprobs: tuple[TokenLogprob, ...] = ()
    """Of the prompt's tokens but the first, when they have all been computed."""
    finish_reason: str | None = None
    """`stop`, `length`, `cancelled` or `error`; None while it goes on."""
    stop_reason: str | int | None = None
    """The stop string or token that has ended it."""
    cached_tokens: int = 0
    """Tokens of the prompt that were found in the cache."""
    error: str | None = None


@dataclass(frozen=True)
class Request:
    """`emit` is called by the engine's thread, and must not block."""

    prompt: tuple[int, ...]
    sampling: Sampling
    emit: Callable[[Output], None]
