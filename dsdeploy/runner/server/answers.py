"""What clients receive: OpenAI's response bodies."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from dsdeploy.runner.request import Output, TokenLogprob
from dsdeploy.runner.text import Tokenizer


@dataclass
class Choice:
    """One answer as it has come so far."""

    prompt: Sequence[int]
    text: str = ""
    tokens: list[int] = field(default_factory=list)
    logprobs: list[TokenLogprob] = field(default_factory=list)
    prompt_logprobs: tuple[TokenLogprob, ...] = ()
    finish_reason: str | None = None
    stop_reason: str | int | None = None
    cached_tokens: int = 0
    error: str | None = None

    def add(self, output: Output) -> None:
        self.text += output.text
        self.tokens += output.tokens
        self.logprobs += output.logprobs
        self.prompt_logprobs = self.prompt_logprobs or output.prompt_logprobs
        self.finish_reason = output.finish_reason
        self.stop_reason = output.stop_reason
        self.cached_tokens = output.cached_tokens
        self.error = output.error


def usage(choices: Sequence[Choice], per_prompt: int) -> dict[str, Any]:
    """`per_prompt` choices share a prompt, which counts once."""
    prompts = choices[::per_prompt]
    prompt = sum(len(choice.prompt) for choice in prompts)
    completion = sum(len(choice.tokens) for choice in choices)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {"cached_tokens": sum(c.cached_tokens for c in prompts)},
    }


def event(body: object) -> bytes:
    """A server-sent event."""
    return b"data: " + json.dumps(body, ensure_ascii=False).encode() + b"\n\n"


END_OF_STREAM = b"data: [DONE]\n\n"


def chat_logprobs(tokenizer: Tokenizer, logprobs: Sequence[TokenLogprob]) -> dict[str, Any]:
    def entry(token: int, logprob: float) -> dict[str, Any]:
        text = tokenizer.token_text(token)
        return {"token": text, "logprob": logprob, "bytes": list(text.encode())}

    return {
        "content": [
            {
                **entry(found.token, found.logprob),
                "top_logprobs": [entry(*other) for other in found.top],
            }
            for found in logprobs
        ]
    }


def completion_logprobs(
    tokenizer: Tokenizer, logprobs: Sequence[TokenLogprob | int], offset: int = 0
) -> dict[str, Any]:
    """A plain token stands for a prompt's first, which has no log-probability. Special tokens have a
    text here, and none in the answer's."""
    columns: dict[str, list[Any]] = {
        "text_offset": [],
        "token_logprobs": [],
        "tokens": [],
        "top_logprobs": [],
    }
    for found in logprobs:
        known = isinstance(found, TokenLogprob)
        token = found.token if isinstance(found, TokenLogprob) else found
        columns["tokens"].append(tokenizer.token_text(token))
        columns["text_offset"].append(offset)
        columns["token_logprobs"].append(found.logprob if known else None)  # type: ignore[union-attr]
        columns["top_logprobs"].append(_top(tokenizer, found) if known else None)  # type: ignore[arg-type]
        offset += len(tokenizer.decode([token], skip_special=True))
    return columns


def _top(tokenizer: Tokenizer, found: TokenLogprob) -> dict[str, float]:
    """By text; of tokens with the same text (halves of a character) the likeliest counts."""
    top: dict[str, float] = {}
    for token, logprob in (*found.top, (found.token, found.logprob)):
        top.setdefault(tokenizer.token_text(token), logprob)
    return top


def prompt_logprobs(tokenizer: Tokenizer, choice: Choice) -> list[dict[str, Any] | None]:
    """As vLLM gives them: for each token of the prompt but the first, by token number."""
    found: list[dict[str, Any] | None] = [None]
    for entry in choice.prompt_logprobs:
        ranked = {token: (logprob, rank) for rank, (token, logprob) in enumerate(entry.top, 1)}
        ranked[entry.token] = entry.logprob, entry.rank
        found.append(
            {
                str(token): {
                    "logprob": logprob,
                    "rank": rank,
                    "decoded_token": tokenizer.token_text(token),
                }
                for token, (logprob, rank) in ranked.items()
            }
        )
    return found
