"""Prompts from a file: a JSON object on each line, or a ShareGPT list."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from dsdeploy.client.bench.prompts import Length, Question, as_chat
from dsdeploy.errors import UsageError

_ROLES = {"human": "user", "user": "user", "gpt": "assistant", "system": "system"}


def read_prompts(path: Path) -> list[Any]:
    """Texts, and lists of messages. JSONL has `prompt` or `messages` in each line; ShareGPT is one
    list of objects with `conversations`, of which the first question and what precedes it is asked.

    Raises UsageError, which names the line or the entry.
    """
    text = path.read_text(encoding="utf-8", errors="replace")
    entries = _list(path, text) if text.lstrip().startswith("[") else _lines(path, text)
    prompts = [prompt for where, entry in entries if (prompt := _prompt(where, entry))]
    if not prompts:
        raise UsageError(f"{path} holds no prompt.")
    return prompts


def shuffled(prompts: Sequence[Any], seed: int) -> list[Any]:
    return random.Random(f"{seed} order").sample(prompts, len(prompts))


def from_file(
    prompts: Sequence[Any],
    count: int,
    answer: Length,
    seed: int,
    first: int = 0,
    chat: bool = False,
) -> list[Question]:
    """`count` of them from the `first` on; from the start again when they are used up."""
    source = random.Random(f"{seed} {first} answers")
    chosen = [prompts[(first + i) % len(prompts)] for i in range(count)]
    questions = []
    for prompt in chosen:
        if isinstance(prompt, str):
            prompt = as_chat(prompt) if chat else prompt
        questions.append(Question(prompt, answer.draw(source)))
    return questions


def _lines(path: Path, text: str) -> Iterator[tuple[str, Any]]:
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip():
            where = f"{path}, line {number}"
            yield where, _json(where, line)


def _list(path: Path, text: str) -> Iterator[tuple[str, Any]]:
    for number, entry in enumerate(_json(str(path), text), 1):
        yield f"{path}, entry {number}", entry


def _json(where: str, text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        raise UsageError(f"{where} is no JSON.") from None


def _prompt(where: str, entry: Any) -> Any:
    """None for a conversation without a question, of which ShareGPT has some."""
    try:
        if "conversations" in entry:
            return _first_question(entry["conversations"])
        if "messages" in entry:
            return tuple({"role": m["role"], "content": m["content"]} for m in entry["messages"])
        if isinstance(entry["prompt"], str) and entry["prompt"]:
            return entry["prompt"]
    except (KeyError, TypeError, AttributeError):
        pass
    raise UsageError(
        f"{where} has neither prompt, messages nor conversations.",
        'Write {"prompt": "…"} on each line, or ShareGPT\'s form.',
    )


def _first_question(turns: list[dict[str, str]]) -> Any:
    said = []
    for turn in turns:
        role = _ROLES.get(turn["from"])
        if role is None or role == "assistant":
            break
        said.append({"role": role, "content": turn["value"]})
        if role == "user":
            return tuple(said) if turn["value"] else None
    return None
