"""Requests from a file, without a server: the same bodies and the same answers.

A line of the input is a body of /v1/chat/completions (it has `messages`) or of /v1/completions. A
line of the output is its answer, with the number of its line and its `custom_id`; answers appear as
they are done. A run that was killed goes on where it stopped: whole lines stay.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from dsdeploy.errors import UsageError
from dsdeploy.runner.engine import Engine
from dsdeploy.runner.request import Output, Request
from dsdeploy.runner.server.answers import Choice
from dsdeploy.runner.server.bodies import ChatBody, CompletionBody, explain, read_json
from dsdeploy.runner.server.intake import Asked, Intake
from dsdeploy.runner.server.refusal import RefusedError, error_body

_AHEAD = 256
"""Requests that are in the engine at once; the others stay in the file."""


def run_file(engine: Engine, intake: Intake, source: Path, target: Path) -> tuple[int, int]:
    """Answer the lines of `source` into `target`: (answers, refusals)."""
    lines = _read(source)
    done = _lines_done(target)
    refused = 0
    with target.open("ab") as sink:

        def write(line: int, custom_id: Any, answer: Mapping[str, Any]) -> None:
            entry = {"line": line, "custom_id": custom_id, **answer}
            sink.write(json.dumps(entry, ensure_ascii=False).encode() + b"\n")
            sink.flush()

        for line, body in enumerate(lines, 1):
            if line in done:
                continue
            custom_id = body.pop("custom_id", None)
            try:
                asked = ask(intake, body)
            except RefusedError as error:
                refused += 1
                write(line, custom_id, error.body)
                continue
            begin(engine, asked, lambda text: None, partial(write, line, custom_id))
            while len(engine.waiting) + len(engine.running) >= _AHEAD:
                engine.step()
        while engine.busy:
            engine.step()
    return len(lines) - len(done) - refused, refused


def _read(source: Path) -> list[dict[str, Any]]:
    """All lines, before any work begins."""
    found = []
    with source.open("rb") as lines:  # of bytes: U+2028 ends no line, and may stand in a string
        for number, line in enumerate(lines, 1):
            try:
                body = read_json(line)
            except (ValueError, RecursionError):
                body = None
            if not isinstance(body, dict):
                raise UsageError(
                    f"{source}, line {number} is not a JSON object in UTF-8.",
                    'Write a request on each line: {"prompt": "...", "max_tokens": 64}',
                )
            found.append(body)
    return found


def _lines_done(target: Path) -> set[int]:
    """Lines that an earlier run has answered; half a line at the end is cut off."""
    if not target.exists():
        return set()
    content = target.read_bytes()
    whole = content[: content.rfind(b"\n") + 1]
    if len(whole) < len(content):
        with target.open("r+b") as file:
            file.truncate(len(whole))
    try:
        return {int(json.loads(line)["line"]) for line in whole.splitlines()}
    except (ValueError, KeyError, TypeError):
        raise UsageError(
            f"{target} is there already, and is not an output of this command.",
            "Give another --output.",
        ) from None


def ask(intake: Intake, body: dict[str, Any]) -> Asked:
    try:
        if "messages" in body:
            return intake.chat(ChatBody.model_validate(body))
        return intake.completion(CompletionBody.model_validate(body))
    except ValidationError as error:
        fault = explain(error)
        raise RefusedError(400, fault.message, param=fault.hint or None) from None


def begin(
    engine: Engine,
    asked: Asked,
    show: Callable[[str], None],
    finish: Callable[[Mapping[str, Any]], None],
) -> None:
    """`show` is given text as it comes, `finish` the whole answer."""
    choices = asked.choices()

    def receiver(choice: Choice) -> Callable[[Output], None]:
        def receive(output: Output) -> None:
            choice.add(output)
            show(output.text)
            if all(choice.finish_reason is not None for choice in choices):
                errors = [choice.error for choice in choices if choice.error]
                finish(error_body(errors[0], 500) if errors else asked.shape.whole(choices))

        return receive

    for prompt, settings, choice in zip(asked.prompts, asked.settings, choices, strict=True):
        engine.add(Request(prompt, settings, receiver(choice)))
