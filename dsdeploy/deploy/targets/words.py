"""What all targets share about names and words."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping

from dsdeploy.deploy.launch import (
    Joined,
    Launch,
    Node,
    Part,
    Process,
    Secret,
    Symbol,
    Word,
    parts_of,
)

MARK = "Made by dsdeploy. Changes are lost when it is made again."
WORKING_FOLDER = "/dsdeploy"
"""In a container."""
ASKED_FOR = {
    Symbol.HEAD: ("DSDEPLOY_HEAD", "Set DSDEPLOY_HEAD to the address of the first node."),
    Symbol.HERE: ("DSDEPLOY_HERE", "Set DSDEPLOY_HERE to the address of this node."),
}


def part_name(text: str) -> str:
    """A name that DNS, units and containers take: `deepseek-ai/DeepSeek-V3` is
    `deepseek-ai-deepseek-v3`; empty where nothing is left of it."""
    return re.sub("[^a-z0-9]+", "-", text.lower())[:40].strip("-")


def launch_name(launch: Launch) -> str:
    name = part_name(launch.name)
    # Kubernetes' names of services begin with a letter.
    return name if name[:1].isalpha() else f"model-{name}".rstrip("-")


def numbered(stem: str, suffix: str, rank: int, launch: Launch) -> str:
    return f"{stem}-node-{rank}{suffix}" if len(launch.nodes) > 1 else f"{stem}{suffix}"


def variable(secret: Secret) -> str:
    """That a secret is read from: `api-key` from API_KEY."""
    return re.sub("[-.]", "_", secret.name).upper()


def comment(header: Iterable[str]) -> str:
    """Lines that begin with `#`, whatever the header holds."""
    lines = [part for line in (MARK, *header) for part in line.splitlines() or [""]]
    shown = ("".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in line) for line in lines)
    return "".join(f"# {line}".rstrip() + "\n" for line in shown)


def spell(word: Word, literal: Callable[[str], str], symbols: Mapping[Symbol, str]) -> str:
    return "".join(
        symbols[part] if isinstance(part, Symbol) else literal(part) for part in parts_of(word)
    )


def joined(*words: Word) -> Joined:
    return Joined(tuple(part for word in words for part in parts_of(word)))


def words_of(process: Process) -> list[Word]:
    values = (value for value in process.environment.values() if not isinstance(value, Secret))
    return [*process.argv, *values]


def symbols_in(launch: Launch, rank: int) -> set[Symbol]:
    """That the words of this node use."""
    words = [word for process in launch.nodes[rank].processes for word in words_of(process)]
    if rank == 0:
        words += [word for command in launch.prepare for word in command]
    parts: list[Part] = [part for word in words for part in parts_of(word)]
    return {part for part in parts if isinstance(part, Symbol)}


def secrets_of(process: Process) -> dict[str, Secret]:
    """By the variable that the process reads."""
    return {name: value for name, value in process.environment.items() if isinstance(value, Secret)}


def settings_of(process: Process) -> dict[str, Word]:
    """The environment without the secrets."""
    return {
        name: value for name, value in process.environment.items() if not isinstance(value, Secret)
    }


def secrets_on(*nodes: Node) -> list[Secret]:
    processes = (process for node in nodes for process in node.processes)
    found = {secret for process in processes for secret in secrets_of(process).values()}
    return sorted(found, key=lambda secret: secret.name)
