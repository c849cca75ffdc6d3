"""What clients send: OpenAI's request bodies, with vLLM's additions, checked.

Fields that are not known are ignored, as OpenAI does; those that would change the answer and are
not implemented are refused.
"""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from dsdeploy.errors import UsageError
from dsdeploy.runner.request import Sampling

MAX_CHOICES = 128
MAX_LOGPROBS = 20
MAX_BIASES = 1024
_NOT_IMPLEMENTED = (
    "tools",
    "functions",
    "response_format",
    "structured_outputs",
    "guided_json",
    "guided_regex",
    "guided_choice",
    "guided_grammar",
    "chat_template",
    "suffix",
    "audio",
    "use_beam_search",
)
_HARMLESS: tuple[Any, ...] = (None, [], {}, False, {"type": "text"})

StopString = Annotated[str, Field(min_length=1, max_length=1000)]
Token = Annotated[int, Field(ge=0, lt=2**31)]
# Lists fail at the first wrong item: errors of millions would take minutes and gigabytes.
Tokens = Annotated[list[Token], Field(fail_fast=True)]
Prompt = Annotated[list[Token], Field(min_length=1, fail_fast=True)]
Several = Field(min_length=1, max_length=MAX_CHOICES, fail_fast=True)


class StreamOptions(BaseModel):
    include_usage: bool = False


class _Body(BaseModel):
    """What completions and chat have in common."""

    model_config = ConfigDict(extra="ignore", strict=True)

    model: str | None = None
    n: int = Field(1, ge=1, le=MAX_CHOICES)
    stream: bool = False
    stream_options: StreamOptions | None = None
    temperature: float | None = Field(None, ge=0, le=100)
    top_p: float | None = Field(None, gt=0, le=1)
    top_k: int = Field(0, ge=-1)
    min_p: float = Field(0.0, ge=0, le=1)
    presence_penalty: float = Field(0.0, ge=-2, le=2)
    frequency_penalty: float = Field(0.0, ge=-2, le=2)
    repetition_penalty: float = Field(1.0, ge=0.01, le=100)
    logit_bias: dict[str, Annotated[float, Field(ge=-100, le=100)]] | None = None
    seed: int | None = Field(None, ge=-(2**63), lt=2**64)
    stop: StopString | Annotated[list[StopString], Field(max_length=16, fail_fast=True)] | None = (
        None
    )
    stop_token_ids: Annotated[list[Token], Field(max_length=128, fail_fast=True)] | None = None
    min_tokens: int = Field(0, ge=0)
    ignore_eos: bool = False
    skip_special_tokens: bool = True
    prompt_logprobs: int | None = Field(None, ge=0, le=MAX_LOGPROBS)
    return_token_ids: bool = False

    @model_validator(mode="before")
    @classmethod
    def _refuse_what_is_not_implemented(cls, values: Any) -> Any:
        """Null stands for the default, as OpenAI has it."""
        if not isinstance(values, dict):
            return values
        for field in _NOT_IMPLEMENTED:
            if values.get(field) not in _HARMLESS:
                raise ValueError(f"{field} is not supported by this server")
        return {field: value for field, value in values.items() if value is not None}

    @model_validator(mode="after")
    def _streams_what_can_be(self) -> Self:
        if self.stream and self.prompt_logprobs is not None:
            raise ValueError("prompt_logprobs cannot be streamed")
        return self

    @field_validator("logit_bias", mode="before")
    @classmethod
    def _token_numbers(cls, bias: Any) -> Any:
        if isinstance(bias, dict):
            if len(bias) > MAX_BIASES:
                raise ValueError(f"more than {MAX_BIASES} tokens")
            if not all(key.isdecimal() and len(key) < 10 for key in bias):
                raise ValueError("keys are token numbers")
        return bias

    def sampling(
        self, defaults: dict[str, Any], max_tokens: int, logprobs: int | None, seed: int
    ) -> Sampling:
        """`defaults` are the model's generation config."""
        stop = (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())
        return Sampling(
            max_tokens=max_tokens,
            min_tokens=min(self.min_tokens, max_tokens),
            temperature=_first(self.temperature, defaults.get("temperature"), 1.0),
            top_p=_first(self.top_p, defaults.get("top_p"), 1.0),
            top_k=max(self.top_k, 0),
            min_p=self.min_p,
            presence_penalty=self.presence_penalty,
            frequency_penalty=self.frequency_penalty,
            repetition_penalty=self.repetition_penalty,
            logit_bias={int(key): value for key, value in (self.logit_bias or {}).items()},
            seed=seed,
            stop=stop,
            stop_token_ids=tuple(self.stop_token_ids or ()),
            ignore_eos=self.ignore_eos,
            logprobs=logprobs,
            prompt_logprobs=self.prompt_logprobs,
            skip_special_tokens=self.skip_special_tokens,
        )


def _first(*values: Any) -> float:
    return float(next(value for value in values if isinstance(value, int | float)))


class CompletionBody(_Body):
    prompt: str | Prompt | Annotated[list[str], Several] | Annotated[list[Prompt], Several]
    max_tokens: int = Field(16, ge=0)
    echo: bool = False
    logprobs: int | None = Field(None, ge=0, le=MAX_LOGPROBS)
    best_of: int | None = None
    add_special_tokens: bool = True

    @model_validator(mode="after")
    def _consistent(self) -> CompletionBody:
        if self.best_of not in (None, self.n):
            raise ValueError("best_of is not supported beyond n")
        if self.max_tokens == 0 and not self.echo and self.prompt_logprobs is None:
            raise ValueError("max_tokens is 0, which only makes sense with echo")
        if self.echo and self.stream:
            raise ValueError("echo cannot be streamed")
        return self

    @property
    def prompts(self) -> list[str | list[int]]:
        first = self.prompt[0] if isinstance(self.prompt, list) else self.prompt
        if isinstance(self.prompt, str) or isinstance(first, int):
            return [self.prompt]  # type: ignore[list-item]
        return self.prompt  # type: ignore[return-value]


class TextPart(BaseModel):
    type: Literal["text"]
    text: str


class Message(BaseModel):
    model_config = ConfigDict(extra="allow", strict=True)

    role: Annotated[str, Field(min_length=1, max_length=64)]
    content: str | Annotated[list[TextPart], Field(fail_fast=True)] | None = None

    def plain(self) -> dict[str, Any]:
        """As templates take it: the content is one string."""
        content = self.content
        if isinstance(content, list):
            content = "".join(part.text for part in content)
        return {**self.model_dump(), "content": content or ""}


Messages = Annotated[list[Message], Field(min_length=1, max_length=10_000, fail_fast=True)]


class ChatBody(_Body):
    messages: Messages
    max_tokens: int | None = Field(None, ge=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    logprobs: bool = False
    top_logprobs: int | None = Field(None, ge=0, le=MAX_LOGPROBS)
    chat_template_kwargs: dict[str, Any] | None = None
    add_generation_prompt: bool = True

    @model_validator(mode="after")
    def _consistent(self) -> ChatBody:
        if self.top_logprobs is not None and not self.logprobs:
            raise ValueError("top_logprobs needs logprobs = true")
        return self


class TokenizeBody(BaseModel):
    model_config = ConfigDict(extra="ignore", strict=True)

    prompt: str | None = None
    messages: Messages | None = None
    add_special_tokens: bool = True

    @model_validator(mode="after")
    def _one_of_both(self) -> TokenizeBody:
        if (self.prompt is None) == (self.messages is None):
            raise ValueError("give prompt or messages")
        return self


class DetokenizeBody(BaseModel):
    model_config = ConfigDict(extra="ignore", strict=True)

    tokens: Tokens


def read_json(raw: bytes) -> Any:
    """Raises ValueError or RecursionError for what is not JSON in UTF-8. NaN and Infinity are not,
    and half of a surrogate pair is no text."""
    text = raw.decode("utf-8")
    value = json.loads(text, parse_constant=_no_constant)
    if "\\ud" in text.lower():
        json.dumps(value, ensure_ascii=False).encode("utf-8")
    return value


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def explain(error: ValidationError) -> UsageError:
    """The first thing that is wrong, as a sentence; `hint` is the field."""
    first = error.errors(include_url=False, include_input=False)[0]
    place = [part for part in first["loc"] if isinstance(part, int) or part.isidentifier()]
    field = ".".join(map(str, place[:1] or []))
    message = first["msg"].removeprefix("Value error, ")
    return UsageError(f"{field}: {message}." if field else f"{message}.", field)
