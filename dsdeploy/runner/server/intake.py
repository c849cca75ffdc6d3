"""From a checked body to what the engine is asked, for the server and for files alike."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from dsdeploy.errors import UsageError
from dsdeploy.runner.chat import ChatTemplate
from dsdeploy.runner.request import Sampling
from dsdeploy.runner.server.answers import Choice
from dsdeploy.runner.server.bodies import ChatBody, CompletionBody, Message
from dsdeploy.runner.server.refusal import RefusedError
from dsdeploy.runner.server.shapes import ChatShape, CompletionShape, Shape
from dsdeploy.runner.text import Tokenizer


@dataclass(frozen=True)
class Asked:
    """The choices of one body: `prompts`, each with its `settings`; and how to answer."""

    prompts: tuple[tuple[int, ...], ...]
    settings: tuple[Sampling, ...]
    shape: Shape

    def choices(self) -> list[Choice]:
        return [Choice(prompt) for prompt in self.prompts]


@dataclass(frozen=True)
class Intake:
    """Raises RefusedError for what cannot be answered."""

    name: str
    """What clients call the model."""
    tokenizer: Tokenizer
    template: ChatTemplate
    vocabulary: int
    context: int
    """Tokens of the longest sequence, prompt and answer."""

    def completion(self, body: CompletionBody) -> Asked:
        self.demand_name(body.model)
        self._demand_tokens(body)
        prompts = [
            self.encode(prompt, body.add_special_tokens, "prompt")
            if isinstance(prompt, str)
            else prompt
            for prompt in body.prompts
        ]
        for prompt in prompts:
            self._room(prompt, body.max_tokens, "prompt")
        sampling = body.sampling(
            self.tokenizer.defaults, body.max_tokens, body.logprobs, _seed(body.seed)
        )
        if body.echo and body.logprobs is not None:
            wanted = max(body.logprobs, body.prompt_logprobs or 0)
            sampling = replace(sampling, prompt_logprobs=wanted)
        return _ask(prompts, sampling, body.n, CompletionShape(self.name, self.tokenizer, body))

    def chat(self, body: ChatBody) -> Asked:
        self.demand_name(body.model)
        self._demand_tokens(body)
        variables = {
            **(body.chat_template_kwargs or {}),
            "add_generation_prompt": body.add_generation_prompt,
        }
        prompt = self.chat_prompt(body.messages, variables)
        room = self._room(prompt, body.max_completion_tokens or body.max_tokens, "messages")
        logprobs = (body.top_logprobs or 0) if body.logprobs else None
        sampling = body.sampling(self.tokenizer.defaults, room, logprobs, _seed(body.seed))
        return _ask([prompt], sampling, body.n, ChatShape(self.name, self.tokenizer, body))

    def chat_prompt(self, messages: Sequence[Message], variables: dict[str, Any]) -> list[int]:
        try:
            text = self.template.render([message.plain() for message in messages], **variables)
        except UsageError as error:
            sentence = f"{error.message} {error.hint}".strip()
            raise RefusedError(400, sentence, param="messages") from None
        return self.encode(text, special=False, param="messages")

    def encode(self, text: str, special: bool, param: str) -> list[int]:
        """Text that cannot fit is not worth the minutes that its tokens might take."""
        if len(text) > self.context * self.tokenizer.longest_token:
            sentence = f"The context is {self.context} tokens: {len(text)} characters do not fit."
            raise RefusedError(400, sentence, "context_length_exceeded", param)
        return self.tokenizer.encode(text, special)

    def demand_name(self, model: str | None) -> None:
        if model is not None and model != self.name:
            sentence = f"The model {model!r} is not served here; {self.name!r} is."
            raise RefusedError(404, sentence, "model_not_found", "model")

    def _demand_tokens(self, body: ChatBody | CompletionBody) -> None:
        """In the engine a token that the model has not would end the step, and all who run."""
        bias = [int(token) for token in body.logit_bias or ()]
        for param, tokens in (("logit_bias", bias), ("stop_token_ids", body.stop_token_ids)):
            if tokens and max(tokens) >= self.vocabulary:
                sentence = f"{param} holds token {max(tokens)}; there are {self.vocabulary}."
                raise RefusedError(400, sentence, param=param)

    def _room(self, prompt: Sequence[int], max_tokens: int | None, param: str) -> int:
        """Tokens that the answer may have. `max_tokens` None takes all that is left."""
        if not prompt:
            raise RefusedError(400, "The prompt has no tokens.", param=param)
        if max(prompt) >= self.vocabulary:
            sentence = f"The prompt holds token {max(prompt)}; there are {self.vocabulary}."
            raise RefusedError(400, sentence, param=param)
        left = self.context - len(prompt)
        wanted = max(left, 1) if max_tokens is None else max_tokens
        if wanted > left:
            sentence = (
                f"The context is {self.context} tokens: {len(prompt)} of the prompt and "
                f"max_tokens = {wanted} do not fit."
            )
            raise RefusedError(400, sentence, "context_length_exceeded", param)
        return wanted


def _ask(prompts: Sequence[Sequence[int]], sampling: Sampling, copies: int, shape: Shape) -> Asked:
    """`copies` choices for each prompt, each with random numbers of its own."""
    seeds = [replace(sampling, seed=(sampling.seed + copy) % 2**64) for copy in range(copies)]
    return Asked(
        prompts=tuple(tuple(prompt) for prompt in prompts for _ in seeds),
        settings=tuple(settings for _ in prompts for settings in seeds),
        shape=shape,
    )


def _seed(given: int | None) -> int:
    return secrets.randbits(63) if given is None else given % 2**64
