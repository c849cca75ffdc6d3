"""What an engine's release would not take of a Launch's command lines."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from dsdeploy.deploy.backend import CommandLine, backend_names, load_backend
from dsdeploy.deploy.flag_check import Problem, check_arguments
from dsdeploy.deploy.flags import load_catalogue
from dsdeploy.deploy.launch import Launch, Process, Symbol, Word, parts_of

_EXAMPLES = {Symbol.HEAD: "10.0.0.1", Symbol.HERE: "10.0.0.2", Symbol.RANK: "1"}


def doubts(launch: Launch) -> list[Problem]:
    """Of all processes; each once."""
    found = (
        problem
        for node in launch.nodes
        for process in node.processes
        for problem in _of_process(process, launch.release)
    )
    return list(dict.fromkeys(found))


def _of_process(process: Process, release: str) -> Iterator[Problem]:
    argv = [_example(word) for word in process.argv]
    called = called_command(argv)
    if called is None:
        return
    command, rest = called
    catalogue = load_catalogue(command.package, release, command.command).catalogue
    environment = {
        name: _example(value)
        for name, value in process.environment.items()
        if isinstance(value, Word)
    }
    yield from check_arguments(catalogue, rest, environment)


def _example(word: Word) -> str:
    """With values in place of what is known later."""
    return "".join(_EXAMPLES[p] if isinstance(p, Symbol) else p for p in parts_of(word))


def called_command(argv: Sequence[str]) -> tuple[CommandLine, Sequence[str]] | None:
    """The engine's command that a command line calls, and the words behind it."""
    for command in _command_lines():
        count = len(command.words)
        for at in range(len(argv) - count + 1):
            if tuple(_bare(word) for word in argv[at : at + count]) == command.words:
                return command, argv[at + count :]
    return None


def _bare(word: str) -> str:
    """`/opt/venv/bin/vllm` is `vllm`."""
    return word.rpartition("/")[2]


def _command_lines() -> list[CommandLine]:
    return [line for name in backend_names() for line in load_backend(name).command_lines]
