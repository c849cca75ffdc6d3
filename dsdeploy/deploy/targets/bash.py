"""What scripts of bash are made of: shell, docker and slurm put these together."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping

from dsdeploy.deploy.launch import Launch, Named, Node, Peer, Process, RankTimes, Symbol, Word
from dsdeploy.deploy.targets.place import Place
from dsdeploy.deploy.targets.words import (
    asked_for,
    comment,
    part_name,
    peers_in,
    script_name,
    secrets_of,
    secrets_on,
    settings_of,
    spell,
    symbols_in,
    variable,
)
from dsdeploy.resources import read_template


def quote(text: str) -> str:
    """As bash reads it back. sbatch refuses a script with CR LF in it, even between quotes."""
    return shlex.quote(text).replace("\r", "'$'\\r''")


def word(value: Word) -> str:
    return spell(value, quote, _named) or "''"


def _named(part: Named) -> str:
    if isinstance(part, RankTimes):
        return f'"$((dsdeploy_rank * {part.factor}))"'
    return f'"${script_name(part)}"'


def line(words: Iterable[str]) -> str:
    """A command of words that are quoted: a row for the program, one for each flag and its value."""
    rows: list[str] = []
    for each in words:
        bare_flag = rows and rows[-1][:1] == "-" and not set(rows[-1]) & set(" =")
        if rows and each[:1] != "-" and (len(rows) == 1 or bare_flag):
            rows[-1] += f" {each}"
        else:
            rows.append(each)
    return " \\\n        ".join(rows)


def opening(header: tuple[str, ...], directives: str = "") -> str:
    return (
        "#!/usr/bin/env bash\n"
        + directives
        + comment(header)
        + "# shellcheck disable=SC2016,SC2140,SC1003  # what is quoted is meant as it stands\n"
        + "set -euo pipefail\n\n"
    )


def addresses(launch: Launch, rank: int, place: Place) -> str:
    """The variables that symbols and peers are written as: those that this node uses."""
    known = known_symbols(launch, rank, place)
    values: dict[Symbol | Peer, str] = {
        symbol: quote(known[symbol]) if symbol in known else asked_for(symbol)
        for symbol in sorted(symbols_in(launch, rank), key=lambda symbol: symbol.name)
    }
    for peer in peers_in(launch, rank):
        told = place.peers.get(peer.launch)
        values[peer] = quote(told) if told else asked_for(peer)
    return "".join(f"{script_name(named)}={value}\n" for named, value in values.items())


def known_symbols(launch: Launch, rank: int, place: Place) -> Mapping[Symbol, str]:
    """What can be said before a node starts. One alone talks to itself, in a container or not."""
    if len(launch.nodes) == 1 and not launch.group:
        return {Symbol.RANK: "0", Symbol.HEAD: "127.0.0.1", Symbol.HERE: "127.0.0.1"}
    known = {Symbol.RANK: str(rank)}
    if place.addresses:
        known |= {Symbol.HEAD: place.addresses[0], Symbol.HERE: place.addresses[rank]}
    return known


def secrets(*nodes: Node) -> str:
    return "".join(
        f"dsdeploy_secret_{variable(secret)}="
        f"${{{variable(secret)}:?Set {variable(secret)}: the secret {secret.name} is read from it.}}\n"
        for secret in secrets_on(*nodes)
    )


def exported_secrets(process: Process) -> list[str]:
    return [
        f'export {name}="$dsdeploy_secret_{variable(secret)}"'
        for name, secret in secrets_of(process).items()
    ]


def exported_settings(process: Process) -> list[str]:
    return [f"export {name}={word(value)}" for name, value in settings_of(process).items()]


def folder_of(process: Process) -> str:
    return f'"$dsdeploy_folder"/{part_name(process.name)}'


def write_function(launch: Launch) -> str:
    if not any(process.files for node in launch.nodes for process in node.processes):
        return ""
    return read_template("targets/write.sh") + "\n"


def writing(processes: Iterable[Process]) -> list[str]:
    """Makes the working folders, and the files in them."""
    lines = []
    for process in processes:
        folder = folder_of(process)
        lines.append(f"mkdir -p -- {folder}")
        lines += [
            f"dsdeploy_write {file.mode:o} {folder}/{quote(file.path)} {quote(file.content)}"
            for file in process.files
        ]
    return lines


def function(name: str, lines: Iterable[str]) -> str:
    return f"{name}() {{\n" + "".join(f"    {each}\n" for each in lines) + "}\n\n"


def run_name(process: Process) -> str:
    return "run_" + part_name(process.name).replace("-", "_")


def started(functions: Iterable[str]) -> list[str]:
    """Runs these side by side, until all have ended."""
    starts = [line for name in functions for line in (f"{name} &", 'dsdeploy_pids+=("$!")')]
    return [*starts, "dsdeploy_join"]


def prepare_names(launch: Launch) -> list[str]:
    return [f"prepare_{number}" for number in range(len(launch.prepare))]


def prepared(launch: Launch) -> list[str]:
    """Runs the functions of these names one after the other."""
    return [line for name in prepare_names(launch) for line in started([name])]


def text(lines: Iterable[str]) -> str:
    return "".join(f"{each}\n" for each in lines)


def supervision() -> str:
    return read_template("targets/supervise.sh") + "\n"
