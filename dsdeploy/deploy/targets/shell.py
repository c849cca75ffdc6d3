"""A script of bash for each node, without containers."""

from __future__ import annotations

from dsdeploy.deploy.launch import Launch, Process, Word
from dsdeploy.deploy.targets import bash
from dsdeploy.deploy.targets.check import check_bare
from dsdeploy.deploy.targets.mpi import mpirun
from dsdeploy.deploy.targets.place import Place, RenderedFile
from dsdeploy.deploy.targets.words import numbered


def render_shell(launch: Launch, place: Place, header: tuple[str, ...]) -> tuple[RenderedFile, ...]:
    check_bare(launch, "shell")
    ranks = [0] if launch.launcher == "mpi" else range(len(launch.nodes))
    return tuple(
        RenderedFile(
            numbered("start", ".sh", rank, launch), _script(launch, rank, place, header), 0o755
        )
        for rank in ranks
    )


def _script(launch: Launch, rank: int, place: Place, header: tuple[str, ...]) -> str:
    node = launch.nodes[rank]
    functions = prepare_functions(launch, ["--"]) if rank == 0 else []
    functions += [
        bash.function(
            bash.run_name(process), [*in_place(process), _command(launch, process, place)]
        )
        for process in node.processes
    ]
    return (
        bash.opening(header)
        + folder(place, rank)
        + bash.addresses(launch, rank, place)
        + bash.secrets(node)
        + "\n"
        + bash.write_function(launch)
        + "".join(functions)
        + bash.supervision()
        + bash.text(bash.writing(node.processes))
        + bash.text(bash.prepared(launch) if rank == 0 else [])
        + bash.text(bash.started(map(bash.run_name, node.processes)))
    )


def folder(place: Place, rank: int) -> str:
    if place.folder:
        return f"dsdeploy_folder={bash.quote(place.folder)}\n"
    return f'dsdeploy_folder="$(cd -- "$(dirname -- "${{BASH_SOURCE[0]}}")" && pwd)/node-{rank}"\n'


def in_place(process: Process) -> list[str]:
    """What a process finds: its folder and its environment."""
    return [
        f"cd -- {bash.folder_of(process)}",
        *bash.exported_secrets(process),
        *bash.exported_settings(process),
    ]


def _command(launch: Launch, process: Process, place: Place) -> str:
    argv: tuple[Word, ...] = process.argv
    if launch.launcher == "mpi":
        argv = mpirun(launch, process, place.addresses)
    return "exec -- " + bash.line(map(bash.word, argv))


def prepare_functions(launch: Launch, inside: list[str]) -> list[str]:
    """Commands that run where the first process will be; `inside` begins each."""
    where = in_place(launch.head.processes[0])
    return [
        bash.function(name, [*where, "exec " + bash.line([*inside, *map(bash.word, argv)])])
        for name, argv in zip(bash.prepare_names(launch), launch.prepare, strict=True)
    ]
