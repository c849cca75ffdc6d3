"""What an engine's release would not take of a Launch's command lines."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from dsdeploy.deploy.backend import CommandLine, backend_names, load_backend
from dsdeploy.deploy.flag_check import Problem, check_arguments
from dsdeploy.deploy.flags import is_older_than_known, load_catalogue
from dsdeploy.deploy.launch import Launch, Process, Symbol, Word
from dsdeploy.deploy.targets.words import known, spell

_EXAMPLES = {Symbol.HEAD: "10.0.0.1", Symbol.HERE: "10.0.0.2", Symbol.RANK: "1"}


def doubts(launch: Launch) -> list[Problem]:
    """Of all processes; each once. None of a release older than those that are known."""
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
    if is_older_than_known(command.package, release):
        return
    catalogue = load_catalogue(command.package, release, command.command).catalogue
    environment = {
        name: _example(value)
        for name, value in process.environment.items()
        if isinstance(value, Word)
    }
    yield from check_arguments(catalogue, rest, environment)


def _example(word: Word) -> str:
    """With values in place of what is known later."""
    return spell(word, lambda text: text, known(_EXAMPLES, lambda peer: "10.0.0.3"))


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
