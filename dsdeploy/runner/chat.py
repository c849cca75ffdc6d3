"""Conversations to prompts, by the model's own chat template."""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any

from dsdeploy.errors import UsageError
from dsdeploy.runner.text import Tokenizer

SECONDS = 5.0
ANSWER_BYTES = 64 << 20
"""Of JSON: far more than the largest body makes."""


class ChatTemplate:
    """Safe for threads; renderings come one after the other, each in `SECONDS` or not at all."""

    def __init__(self, tokenizer: Tokenizer, seconds: float = SECONDS) -> None:
        self._source, self._special = tokenizer.chat_template, tokenizer.special_tokens
        self._seconds = seconds
        self._one_at_a_time = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None

    def render(self, messages: Sequence[Mapping[str, Any]], **variables: Any) -> str:
        """The prompt, which ends where the assistant begins to speak. Raises UsageError when the
        template cannot be rendered."""
        if self._source is None:
            raise UsageError(
                "This model has no chat template.",
                "Use /v1/completions, or put a chat_template.jinja beside its tokenizer.json.",
            )
        known = {**self._special, "add_generation_prompt": True, **variables}
        with self._one_at_a_time:
            answer = self._ask({**known, "messages": list(messages)})
        if "error" in answer:
            raise UsageError(f"The chat template refuses these messages: {answer['error']}.")
        return str(answer["text"])

    def close(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def _ask(self, variables: Mapping[str, Any]) -> dict[str, Any]:
        deadline = time.monotonic() + self._seconds
        process = self._running()
        try:
            _send(process, variables)
            answer: dict[str, Any] = json.loads(_read_line(process, deadline))
        except TimeoutError:
            self.close()
            raise UsageError(
                f"The chat template has not ended within {self._seconds:g} s.",
                "It may be hostile: take the template of the model's own repository.",
            ) from None
        except OverflowError:
            self.close()
            return {"error": "it makes too much text"}
        except (OSError, ValueError):
            self.close()
            return {"error": "it has ended its process"}
        return answer

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None or self._process.poll() is not None:
            command = [sys.executable, "-m", "dsdeploy.runner.template_worker"]
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
            )
            _send(self._process, self._source)
        return self._process


def _send(process: subprocess.Popen[bytes], value: object) -> None:
    if process.stdin is not None:
        process.stdin.write(json.dumps(value).encode() + b"\n")
        process.stdin.flush()


def _read_line(process: subprocess.Popen[bytes], deadline: float) -> bytearray:
    """Raises TimeoutError, OverflowError, or OSError when the process has ended."""
    if process.stdout is None:
        raise OSError
    descriptor, line = process.stdout.fileno(), bytearray()
    poll = select.poll()  # not `select`, which knows 1,024 files
    poll.register(descriptor, select.POLLIN)
    while not line.endswith(b"\n"):
        left = deadline - time.monotonic()
        if left <= 0 or not poll.poll(1000 * left):
            raise TimeoutError
        more = os.read(descriptor, 1 << 20)
        if not more:
            raise OSError
        line += more
        if len(line) > ANSWER_BYTES:
            raise OverflowError
    return line
