"""What may be typed instead of a question."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from dsdeploy.errors import DiskError, UsageError
from dsdeploy.whole_files import replace_file

if TYPE_CHECKING:
    from dsdeploy.client.chat import Chat

_Action = Callable[["Chat", str], tuple["Chat | None", str]]


@dataclass(frozen=True)
class _Command:
    usage: str
    sentence: str
    act: _Action


def obey(chat: Chat, line: str) -> tuple[Chat | None, str]:
    """`/undo` and the like: the chat after it (None: it is over), and what to say.

    Raises UsageError for a command that does not exist or lacks its word.
    """
    name, _, rest = line.partition(" ")
    command = _COMMANDS.get(name)
    if command is None:
        raise UsageError(
            f"There is no command {name}.",
            "/help lists them; a space before / makes it a question.",
        )
    return command.act(chat, rest.strip())


def _help(chat: Chat, _: str) -> tuple[Chat, str]:
    width = max(len(each.usage) for each in _COMMANDS.values())
    lines = [f"{each.usage:{width}}  {each.sentence}" for each in _COMMANDS.values()]
    return chat, "\n".join([*lines, "Ctrl-C ends an answer, Ctrl-D the chat."])


def _system(chat: Chat, text: str) -> tuple[Chat, str]:
    said = "The assistant is told so." if text else "The assistant is told nothing beforehand."
    return replace(chat, system=text or None), said


def _reset(chat: Chat, _: str) -> tuple[Chat, str]:
    return replace(chat, turns=()), "All questions and answers are forgotten."


def _undo(chat: Chat, _: str) -> tuple[Chat, str]:
    if not chat.turns:
        raise UsageError("Nothing has been said yet.")
    *before, last = chat.turns
    return replace(chat, turns=tuple(before)), f"Forgotten, with its answer: {last.question}"


def _save(chat: Chat, file: str) -> tuple[Chat, str]:
    if not file:
        raise UsageError("Where to?", "/save chat.json")
    path = Path(file).expanduser()
    text = json.dumps(
        {"model": chat.model, "messages": chat.messages}, indent=2, ensure_ascii=False
    )
    try:
        replace_file(path, f"{text}\n".encode(), 0o600)
    except OSError as error:
        raise DiskError(f"{path} cannot be written: {error.strerror}.") from error
    return chat, f"Saved in {path}."


def _model(chat: Chat, name: str) -> tuple[Chat, str]:
    from dsdeploy.client.endpoint import models

    known = models(chat.endpoint)
    if not name:
        others = ", ".join(each for each in known if each != chat.model)
        return chat, f"{chat.model} answers" + (f"; there are also {others}." if others else ".")
    if known and name not in known:
        raise UsageError(f"There is no model {name!r}.", f"Models there: {', '.join(known)}.")
    return replace(chat, model=name), f"{name} answers from now on."


def _quit(_: Chat, __: str) -> tuple[None, str]:
    return None, ""


_COMMANDS = {
    each.usage.split()[0]: each
    for each in (
        _Command("/help", "Show this.", _help),
        _Command("/system TEXT", "Tell the assistant what to be; without TEXT, nothing.", _system),
        _Command("/reset", "Forget all that was said.", _reset),
        _Command("/undo", "Forget the last question and its answer.", _undo),
        _Command("/save FILE", "Write the conversation as JSON.", _save),
        _Command("/model NAME", "Let another model answer; without NAME, show them.", _model),
        _Command("/quit", "End the chat.", _quit),
    )
}
