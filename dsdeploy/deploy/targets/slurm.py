"""One script for sbatch. It starts itself again on each node, by srun."""

from __future__ import annotations

import re

from dsdeploy.deploy.launch import Launch, Mount, Node, Process, Symbol
from dsdeploy.deploy.targets import bash
from dsdeploy.deploy.targets.check import check_alone, check_bare, check_followers_alike, plain
from dsdeploy.deploy.targets.place import Place, RenderedFile
from dsdeploy.deploy.targets.shell import in_place, prepare_functions
from dsdeploy.deploy.targets.words import launch_name, part_name, symbols_in
from dsdeploy.errors import UsageError

_TIME = re.compile(r"[0-9]+(-[0-9]+)?(:[0-9]+){0,2}|UNLIMITED|")


def render_slurm(launch: Launch, place: Place, header: tuple[str, ...]) -> tuple[RenderedFile, ...]:
    check_followers_alike(launch, "slurm")
    check_alone(launch, "slurm")
    if place.container_runtime == "none":
        check_bare(launch, "slurm without containers")
    if not _TIME.fullmatch(place.time_limit):
        raise UsageError(f"{place.time_limit!r} is no time limit of Slurm.", "Write D-HH:MM:SS.")
    content = (
        bash.opening(header, _directives(launch, place))
        + _setup(launch, place)
        + "".join(_functions(launch, place))
        + bash.supervision()
        + _roles(launch, place)
    )
    return (RenderedFile("job.sbatch", content, 0o755),)


def _directives(launch: Launch, place: Place) -> str:
    """Slurm reads these lines without any quoting."""
    node = launch.head
    ranks = node.processes[0].copies if launch.launcher == "mpi" else 1
    counted = node.devices.kind in ("nvidia", "amd") and node.devices.count
    values = {
        "job-name": launch_name(launch),
        "nodes": str(len(launch.nodes)),
        "ntasks-per-node": str(ranks),
        "gpus-per-node": str(node.devices.count) if counted else "",
        "partition": plain("The partition", place.partition),
        "account": plain("The account", place.account),
        "time": place.time_limit,
        "output": "%x-%j.log",
    }
    lines = [f"#SBATCH --{name}={value}\n" for name, value in values.items() if value]
    return "".join([*lines, "#SBATCH --exclusive\n", "#SBATCH --mem=0\n", "#SBATCH --export=ALL\n"])


def _setup(launch: Launch, place: Place) -> str:
    """What the job knows and its steps inherit: the folder, and the first host as the head."""
    base = bash.quote(place.folder) if place.folder else '"$SLURM_SUBMIT_DIR"'
    return (
        bash.secrets(*launch.nodes[:2])
        + f"dsdeploy_base={base}\n"
        + f'dsdeploy_job="$dsdeploy_base/{launch_name(launch)}-$SLURM_JOB_ID"\n\n'
        + bash.write_function(launch)
    )


def _functions(launch: Launch, place: Place) -> list[str]:
    """The processes of the first node and of the others; the same name may be on both."""
    found = [
        bash.function(
            _name(rank, process),
            [*in_place(process), "exec " + _command(launch, rank, process, place)],
        )
        for rank, node in enumerate(launch.nodes[:2])
        for process in node.processes
        if rank == 0 or launch.launcher == "each"
    ]
    inside = _apptainer(launch, launch.head, place) or ["--"]
    return [*found, *prepare_functions(launch, inside)]


def _name(rank: int, process: Process) -> str:
    return ("follower_" if rank else "head_") + part_name(process.name).replace("-", "_")


def _command(launch: Launch, rank: int, process: Process, place: Place) -> str:
    inside = _apptainer(launch, launch.nodes[rank], place) or ["--"]
    return bash.line([*inside, *map(bash.word, process.argv)])


def _apptainer(launch: Launch, node: Node, place: Place) -> list[str]:
    if place.container_runtime != "apptainer":
        return []
    image = launch.container.image
    words = ["apptainer", "exec"]
    words += {"nvidia": ["--nv"], "amd": ["--rocm"]}.get(node.devices.kind, [])
    for mount in node.mounts:
        words += ["--bind", _mount(mount)]
    words += ["--bind", '"$dsdeploy_job"', "--pwd", '"$PWD"']
    return [*words, bash.quote(image if image.startswith("/") else f"docker://{image}")]


def _pyxis(launch: Launch, node: Node, place: Place) -> list[str]:
    if place.container_runtime != "pyxis":
        return []
    mounts = ",".join([*map(_mount, node.mounts), '"$dsdeploy_job:$dsdeploy_job"'])
    image = f"--container-image={bash.quote(_enroot(launch.container.image))}"
    return [image, f"--container-mounts={mounts}", "--no-container-mount-home"]


def _enroot(image: str) -> str:
    """Which writes `#` behind a registry's name."""
    registry, slash, rest = image.partition("/")
    is_registry = slash and registry and ("." in registry or ":" in registry)
    return f"{registry}#{rest}" if is_registry else image


def _mount(mount: Mount) -> str:
    """A volume is a folder beside the jobs."""
    for path in (mount.source, mount.target):
        if set(path) & set(":,"):
            raise UsageError(f"{path!r} cannot be mounted under Slurm: it has a colon or a comma.")
    is_path = mount.source.startswith("/")
    source = bash.quote(mount.source) if is_path else f'"$dsdeploy_base"/volumes/{mount.source}'
    return f"{source}:{bash.quote(mount.target)}" + (":ro" if mount.read_only else "")


def _roles(launch: Launch, place: Place) -> str:
    """What runs in the job's own shell, and in its steps."""
    cases = [*_batch(launch, place), *(_prepare_step(launch) if launch.prepare else [])]
    cases += _mpi_step(launch) if launch.launcher == "mpi" else _node_step(launch)
    return bash.text(["case ${1:-batch} in", *cases, "esac"])


def _batch(launch: Launch, place: Place) -> list[str]:
    options = _pyxis(launch, launch.head, place)
    volumes = sorted({m.source for m in launch.head.mounts if not m.source.startswith("/")})
    folders = [f'"$dsdeploy_base"/volumes/{volume}' for volume in volumes]
    lines = [
        "mkdir -p -- " + " ".join(['"$dsdeploy_job"', *folders]),
        'cp -- "${BASH_SOURCE[0]}" "$dsdeploy_job/job.sh"',
        'mapfile -t dsdeploy_hosts < <(scontrol show hostnames "$SLURM_JOB_NODELIST")',
        'export DSDEPLOY_HEAD="${dsdeploy_hosts[0]}"',
    ]
    if launch.launcher == "mpi":
        lines += ['dsdeploy_folder="$dsdeploy_job/node-0"', *bash.writing(launch.head.processes)]
    if launch.prepare:
        where = ["--nodes=1", "--ntasks=1", '--nodelist="$DSDEPLOY_HEAD"']
        lines.append(_srun([*where, *options], "prepare"))
    copies = launch.head.processes[0].copies if launch.launcher == "mpi" else 1
    spread = [f"--ntasks={copies * len(launch.nodes)}", f"--ntasks-per-node={copies}"]
    mpi = ["--mpi=pmix"] if launch.launcher == "mpi" else []
    lines.append("exec " + _srun([*spread, *mpi, "--kill-on-bad-exit=1", *options], "node"))
    return ["batch)", *_indented(lines), "    ;;"]


def _srun(options: list[str], role: str) -> str:
    """Without `--cpu-bind=none` one task a node would be bound to one core."""
    return bash.line(["srun", "--cpu-bind=none", *options, "bash", '"$dsdeploy_job/job.sh"', role])


_KNOWN = {
    Symbol.HEAD: "dsdeploy_head=$DSDEPLOY_HEAD",
    Symbol.HERE: "dsdeploy_here=$SLURMD_NODENAME",
    Symbol.RANK: "dsdeploy_rank=$SLURM_NODEID",
}


def _on_node(launch: Launch, folder: str) -> list[str]:
    used = {symbol for rank in range(len(launch.nodes[:2])) for symbol in symbols_in(launch, rank)}
    return [f'dsdeploy_folder="$dsdeploy_job/{folder}"', *(_KNOWN[s] for s in Symbol if s in used)]


def _prepare_step(launch: Launch) -> list[str]:
    first = launch.head.processes[:1]
    lines = [*_on_node(launch, "node-0"), *bash.writing(first), *bash.prepared(launch)]
    return ["prepare)", *_indented(lines), "    ;;"]


def _mpi_step(launch: Launch) -> list[str]:
    """A rank: it finds the files that the job wrote, and becomes the process."""
    lines = [*_on_node(launch, "node-0"), _name(0, launch.head.processes[0])]
    return ["node)", *_indented(lines), "    ;;"]


def _node_step(launch: Launch) -> list[str]:
    lines = _on_node(launch, "node-$SLURM_NODEID")
    branches = []
    for rank, node in enumerate(launch.nodes[:2]):
        names = (_name(rank, process) for process in node.processes)
        branches.append([*bash.writing(node.processes), *bash.started(names)])
    if len(branches) == 1:
        lines += branches[0]
    else:
        head, follower = map(_indented, branches)
        lines += ["if ((SLURM_NODEID == 0)); then", *head, "else", *follower, "fi"]
    return ["node)", *_indented(lines), "    ;;"]


def _indented(lines: list[str]) -> list[str]:
    return [f"    {line}" for line in lines]
