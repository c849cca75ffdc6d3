"""The two kinds of answer, whole and streamed: text completions and chat."""

from __future__ import annotations

import time
import uuid
from collections.abc import Sequence
from typing import Any, Protocol

from dsdeploy.runner.request import Output
from dsdeploy.runner.server import answers
from dsdeploy.runner.server.answers import Choice
from dsdeploy.runner.server.bodies import ChatBody, CompletionBody
from dsdeploy.runner.text import Tokenizer


class Shape(Protocol):
    def whole(self, choices: Sequence[Choice]) -> dict[str, Any]: ...

    def opening(self, index: int) -> dict[str, Any] | None:
        """What a choice's stream begins with."""

    def piece(self, index: int, output: Output) -> dict[str, Any]: ...

    def closing(self, choices: Sequence[Choice]) -> dict[str, Any]:
        """The last piece, with the usage."""


class _Common:
    kind = ""
    piece_kind = ""
    prefix = ""

    def __init__(self, model: str, tokenizer: Tokenizer, copies: int) -> None:
        self._tokenizer, self._copies = tokenizer, copies
        self._head = {
            "id": f"{self.prefix}-{uuid.uuid4().hex}",
            "object": self.piece_kind,
            "created": int(time.time()),
            "model": model,
        }

    def closing(self, choices: Sequence[Choice]) -> dict[str, Any]:
        return {**self._head, "choices": [], "usage": answers.usage(choices, self._copies)}

    def _whole(self, entries: list[dict[str, Any]], choices: Sequence[Choice]) -> dict[str, Any]:
        usage = answers.usage(choices, self._copies)
        return {**self._head, "object": self.kind, "choices": entries, "usage": usage}


class CompletionShape(_Common):
    kind = piece_kind = "text_completion"
    prefix = "cmpl"

    def __init__(self, model: str, tokenizer: Tokenizer, body: CompletionBody) -> None:
        super().__init__(model, tokenizer, body.n)
        self._body = body
        self._offsets: dict[int, int] = {}

    def whole(self, choices: Sequence[Choice]) -> dict[str, Any]:
        return self._whole([self._entry(i, c) for i, c in enumerate(choices)], choices)

    def _entry(self, index: int, choice: Choice) -> dict[str, Any]:
        text, logprobs = choice.text, None
        found = list(choice.logprobs)
        if self._body.echo:
            text = self._tokenizer.decode(choice.prompt, self._body.skip_special_tokens) + text
        if self._body.logprobs is not None:
            if self._body.echo:
                found = [choice.prompt[0], *choice.prompt_logprobs, *found]  # type: ignore[list-item]
            logprobs = answers.completion_logprobs(self._tokenizer, found)
        entry = {
            "index": index,
            "text": text,
            "logprobs": logprobs,
            "finish_reason": choice.finish_reason,
            "stop_reason": choice.stop_reason,
        }
        if self._body.prompt_logprobs is not None:
            entry["prompt_logprobs"] = answers.prompt_logprobs(self._tokenizer, choice)
        if self._body.return_token_ids:
            entry |= {"token_ids": choice.tokens, "prompt_token_ids": list(choice.prompt)}
        return entry

    def opening(self, index: int) -> dict[str, Any] | None:
        return None

    def piece(self, index: int, output: Output) -> dict[str, Any]:
        logprobs = None
        if self._body.logprobs is not None:
            offset = self._offsets.get(index, 0)
            logprobs = answers.completion_logprobs(self._tokenizer, output.logprobs, offset)
            self._offsets[index] = offset + len(self._tokenizer.decode(output.tokens, True))
        entry = {
            "index": index,
            "text": output.text,
            "logprobs": logprobs,
            "finish_reason": output.finish_reason,
            "stop_reason": output.stop_reason,
        }
        if self._body.return_token_ids:
            entry["token_ids"] = list(output.tokens)
        return {**self._head, "choices": [entry]}


class ChatShape(_Common):
    kind = "chat.completion"
    piece_kind = "chat.completion.chunk"
    prefix = "chatcmpl"

    def __init__(self, model: str, tokenizer: Tokenizer, body: ChatBody) -> None:
        super().__init__(model, tokenizer, body.n)
        self._body = body

    def whole(self, choices: Sequence[Choice]) -> dict[str, Any]:
        answer = self._whole([self._entry(i, c) for i, c in enumerate(choices)], choices)
        if self._body.prompt_logprobs is not None:
            answer["prompt_logprobs"] = answers.prompt_logprobs(self._tokenizer, choices[0])
        if self._body.return_token_ids:
            answer["prompt_token_ids"] = list(choices[0].prompt)
        return answer

    def _entry(self, index: int, choice: Choice) -> dict[str, Any]:
        entry = {
            "index": index,
            "message": {"role": "assistant", "content": choice.text},
            "logprobs": self._logprobs(choice.logprobs),
            "finish_reason": choice.finish_reason,
            "stop_reason": choice.stop_reason,
        }
        return {**entry, "token_ids": choice.tokens} if self._body.return_token_ids else entry

    def _logprobs(self, found: Sequence[Any]) -> dict[str, Any] | None:
        return answers.chat_logprobs(self._tokenizer, found) if self._body.logprobs else None

    def opening(self, index: int) -> dict[str, Any] | None:
        return self._chunk(index, {"role": "assistant", "content": ""})

    def piece(self, index: int, output: Output) -> dict[str, Any]:
        delta = {"content": output.text} if output.text or not output.finish_reason else {}
        chunk = self._chunk(index, delta)
        entry = chunk["choices"][0]
        entry["logprobs"] = self._logprobs(output.logprobs)
        entry["finish_reason"] = output.finish_reason
        entry["stop_reason"] = output.stop_reason
        if self._body.return_token_ids:
            entry["token_ids"] = list(output.tokens)
        return chunk

    def _chunk(self, index: int, delta: dict[str, Any]) -> dict[str, Any]:
        entry = {"index": index, "delta": delta, "logprobs": None, "finish_reason": None}
        return {**self._head, "choices": [entry]}
