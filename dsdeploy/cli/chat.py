"""dsdeploy chat: questions to an endpoint, from a terminal or from a pipe."""

from __future__ import annotations

import contextlib
import io
import sys
from typing import TYPE_CHECKING

import click

from dsdeploy.cli.chat_commands import obey
from dsdeploy.cli.chat_view import AnswerView, dim, speed
from dsdeploy.cli.common import output_options
from dsdeploy.cli.endpoints import endpoint_options
from dsdeploy.errors import DeployError
from dsdeploy.output import Output

if TYPE_CHECKING:
    from dsdeploy.client.chat import Answer, Chat
    from dsdeploy.client.endpoint import Endpoint


@click.command("chat")
@click.option("--system", help="What the assistant is told before the first question.")
@click.option("--max-tokens", type=click.IntRange(1), help="Of an answer; default: the endpoint's.")
@click.option("--temperature", type=click.FloatRange(0), help="Default: the endpoint's.")
@click.option("--seed", type=int, help="The same seed gives the same answers.")
@click.option("--no-reasoning", is_flag=True, help="Hide what the model thinks before it answers.")
@output_options
@endpoint_options
def command(
    out: Output,
    endpoint: Endpoint,
    model: str,
    system: str | None,
    max_tokens: int | None,
    temperature: float | None,
    seed: int | None,
    no_reasoning: bool,
) -> None:
    """Chat with the model at an address, or with the deployment of that name.

    Without either, with the one deployment that is ready. /help lists what can be typed besides
    questions. From a pipe, each line is one question of the same conversation; the first that
    fails ends it. With --json, each answer is one JSON object on a line.
    """
    from dsdeploy.client.chat import Chat

    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(errors="replace")  # a stray byte shall not end a conversation
    chat = Chat(endpoint, model, system, max_tokens, temperature, seed)
    if sys.stdin.isatty():
        _from_terminal(out, chat, not no_reasoning)
    else:
        _from_pipe(out, chat, not no_reasoning)


def _from_pipe(out: Output, chat: Chat, with_reasoning: bool) -> None:
    for line in sys.stdin:
        if question := line.strip():
            answer = _answer(out, chat, question, with_reasoning)
            if answer.interrupted:
                raise KeyboardInterrupt
            chat = chat.after(question, answer)


def _from_terminal(out: Output, chat: Chat, with_reasoning: bool) -> None:
    """What fails is said, and the chat goes on."""
    _edit_lines()
    hello = f"{chat.model} at {chat.endpoint.address}; /help shows what else can be typed."
    out.remark(dim(hello, sys.stderr))
    now: Chat | None = chat
    while now is not None:
        try:
            if (line := _line()) is None:
                return
            now = _next(out, now, line, with_reasoning)
        except DeployError as error:
            out.error(error)
        except KeyboardInterrupt:
            out.remark("")


def _next(out: Output, chat: Chat, line: str, with_reasoning: bool) -> Chat | None:
    """The chat after a line; None when it is over."""
    if not line.strip():
        return chat
    if line.startswith("/"):
        after, said = obey(chat, line)
        if said:
            out.remark(dim(said, sys.stderr))
        return after
    return chat.after(line, _answer(out, chat, line, with_reasoning))


def _line() -> str | None:
    """None at Ctrl-D. The prompt is no part of what a redirected stdout receives."""
    try:
        return input("> " if sys.stdout.isatty() else "")
    except EOFError:
        print(file=sys.stderr)
        return None


def _edit_lines() -> None:
    """Python's `input` edits and remembers lines once readline is there. Pasted lines are one
    question."""
    with contextlib.suppress(ImportError):
        import readline

        readline.parse_and_bind("set enable-bracketed-paste on")


def _answer(out: Output, chat: Chat, question: str, with_reasoning: bool) -> Answer:
    from dsdeploy.client.chat import ask

    view = AnswerView(out, with_reasoning)
    try:
        answer = ask(chat, question, view.show)
    finally:
        view.end()
    out.remark(dim(speed(answer), sys.stderr))
    out.event(_document(chat, question, answer, with_reasoning))
    return answer


def _document(chat: Chat, question: str, answer: Answer, with_reasoning: bool) -> dict[str, object]:
    return {
        "model": chat.model,
        "question": question,
        "content": answer.content,
        **({"reasoning": answer.reasoning} if with_reasoning else {}),
        "finish_reason": answer.finish_reason,
        "interrupted": answer.interrupted,
        "usage": answer.usage,
        "seconds_to_first_token": answer.first_seconds,
        "seconds": answer.seconds,
        "tokens_per_second": answer.tokens_per_second,
    }
