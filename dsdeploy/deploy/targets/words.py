"""What all targets share about names and words."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping

from dsdeploy.deploy.launch import (
    Joined,
    Launch,
    Named,
    Node,
    Part,
    Peer,
    Process,
    RankTimes,
    Secret,
    Symbol,
    Word,
    parts_of,
)

MARK = "Made by dsdeploy. Changes are lost when it is made again."
WORKING_FOLDER = "/dsdeploy"
"""In a container."""
_WHOSE = {Symbol.HEAD: "the first node", Symbol.HERE: "this node"}


def part_name(text: str) -> str:
    """A name that DNS, units and containers take: `deepseek-ai/DeepSeek-V3` is
    `deepseek-ai-deepseek-v3`; empty where nothing is left of it."""
    return re.sub("[^a-z0-9]+", "-", text.lower())[:40].strip("-")


def launch_name(launch: Launch) -> str:
    return service_name(launch.name)


def service_name(text: str) -> str:
    """Kubernetes' names of services begin with a letter."""
    name = part_name(text)
    return name if name[:1].isalpha() else f"model-{name}".rstrip("-")


def api_name(launch: str) -> str:
    """Of the Service of Kubernetes; a LeaderWorkerSet makes one of its own by the launch's name."""
    return f"{service_name(launch)}-api"


def script_name(named: Symbol | Peer) -> str:
    """Of the variable that a script keeps it in."""
    if isinstance(named, Symbol):
        return f"dsdeploy_{named.name.lower()}"
    return "dsdeploy_" + service_name(named.launch).replace("-", "_")


def asked_for(named: Symbol | Peer) -> str:
    """bash's and compose's way to read an address from the environment, or say what is missing."""
    name = script_name(named).upper()
    if isinstance(named, Peer):
        whose = f"the first node of {service_name(named.launch)}"
    else:
        whose = _WHOSE[named]
    return f"${{{name}:?Set {name} to the address of {whose}.}}"


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


def spell(word: Word, literal: Callable[[str], str], named: Callable[[Named], str]) -> str:
    return "".join(
        literal(part) if isinstance(part, str) else named(part) for part in parts_of(word)
    )


def known(symbols: Mapping[Symbol, str], peer: Callable[[Peer], str]) -> Callable[[Named], str]:
    """How `spell` names what it finds where a node's number is already a number."""

    def name(part: Named) -> str:
        if isinstance(part, RankTimes):
            return str(part.factor * int(symbols[Symbol.RANK]))
        return peer(part) if isinstance(part, Peer) else symbols[part]

    return name


def joined(*words: Word) -> Joined:
    return Joined(tuple(part for word in words for part in parts_of(word)))


def words_of(process: Process) -> list[Word]:
    values = (value for value in process.environment.values() if not isinstance(value, Secret))
    return [*process.argv, *values]


def symbols_in(launch: Launch, rank: int) -> set[Symbol]:
    """That the words of this node use."""
    named = (
        Symbol.RANK if isinstance(part, RankTimes) else part for part in _parts_in(launch, rank)
    )
    return {part for part in named if isinstance(part, Symbol)}


def peers_in(launch: Launch, rank: int) -> list[Peer]:
    """Likewise, each once, by their names."""
    found = {part for part in _parts_in(launch, rank) if isinstance(part, Peer)}
    return sorted(found, key=lambda peer: peer.launch)


def _parts_in(launch: Launch, rank: int) -> list[Part]:
    words = [word for process in launch.nodes[rank].processes for word in words_of(process)]
    if rank == 0:
        words += [word for command in launch.prepare for word in command]
    return [part for word in words for part in parts_of(word)]


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
