"""The command that starts ranks of MPI where no scheduler does."""

from __future__ import annotations

from dsdeploy.deploy.launch import Launch, Process, Symbol, Word
from dsdeploy.deploy.targets.words import symbols_in
from dsdeploy.errors import UsageError


def mpirun(
    launch: Launch, process: Process, addresses: tuple[str, ...], as_root: bool = False
) -> tuple[Word, ...]:
    """Open MPI's; the environment goes along by name, so that no value is in a list of processes."""
    nodes = len(launch.nodes)
    if nodes > 1 and not addresses:
        raise UsageError("mpirun must know the nodes: give the addresses of all.")
    if nodes > 1 and {Symbol.HERE, Symbol.RANK} & symbols_in(launch, 0):
        raise UsageError(
            "Under mpirun all nodes are given the same words, and these name the node itself.",
            "Render for slurm.",
        )
    hosts = ",".join(f"{address}:{process.copies}" for address in addresses)
    return (
        "mpirun",
        *(("--allow-run-as-root",) if as_root else ()),
        *(("--host", hosts) if nodes > 1 else ()),
        *("-np", str(nodes * process.copies)),
        *(word for name in process.environment for word in ("-x", name)),
        *process.argv,
    )
