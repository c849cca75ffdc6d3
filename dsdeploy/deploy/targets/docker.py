"""A script of bash for each node, that runs containers by `docker run`."""

from __future__ import annotations

from dsdeploy.deploy.launch import Launch, Mount, Node, Process, Word
from dsdeploy.deploy.targets import bash
from dsdeploy.deploy.targets.check import check_one_node_of_mpi
from dsdeploy.deploy.targets.container import (
    command,
    container_name,
    device_files,
    groups,
    keeps_privileges,
)
from dsdeploy.deploy.targets.place import Place, RenderedFile
from dsdeploy.deploy.targets.shell import folder
from dsdeploy.deploy.targets.words import (
    WORKING_FOLDER,
    joined,
    launch_name,
    numbered,
    part_name,
    secrets_of,
    settings_of,
)


def render_docker(
    launch: Launch, place: Place, header: tuple[str, ...]
) -> tuple[RenderedFile, ...]:
    check_one_node_of_mpi(launch, "docker")
    return tuple(
        RenderedFile(
            numbered("docker", ".sh", rank, launch), _script(launch, rank, place, header), 0o755
        )
        for rank in range(len(launch.nodes))
    )


def _script(launch: Launch, rank: int, place: Place, header: tuple[str, ...]) -> str:
    node = launch.nodes[rank]
    return (
        bash.opening(header)
        + (folder(place, rank) if any(process.files for process in node.processes) else "")
        + bash.addresses(launch, rank, place)
        + bash.secrets(node)
        + "\n"
        + bash.write_function(launch)
        + "".join(_prepare_functions(launch, place) if rank == 0 else [])
        + "".join(_function(launch, node, process, place) for process in node.processes)
        + bash.supervision()
        + bash.text(bash.writing(process for process in node.processes if process.files))
        + bash.text(bash.prepared(launch) if rank == 0 else [])
        + bash.text(bash.started(map(bash.run_name, node.processes)))
    )


def _function(launch: Launch, node: Node, process: Process, place: Place) -> str:
    run = _run(launch, node, process, container_name(launch, process), place)
    lines = [
        *bash.exported_secrets(process),
        "exec " + bash.line([*run, *_inside(launch, command(launch, process))]),
    ]
    return bash.function(bash.run_name(process), lines)


def _prepare_functions(launch: Launch, place: Place) -> list[str]:
    """Containers like that of the first process, but for the command."""
    first = launch.head.processes[0]
    run = _run(launch, launch.head, first, f"{launch_name(launch)}-prepare", place)
    return [
        bash.function(
            name,
            [
                *bash.exported_secrets(first),
                "exec " + bash.line([*run, *_inside(launch, argv)]),
            ],
        )
        for name, argv in zip(bash.prepare_names(launch), launch.prepare, strict=True)
    ]


def _inside(launch: Launch, argv: tuple[Word, ...]) -> list[str]:
    """The image's own entry point is put aside: an argv is whole."""
    return [
        bash.word(joined("--entrypoint=", argv[0])),
        bash.quote(launch.container.image),
        *map(bash.word, argv[1:]),
    ]


def _run(launch: Launch, node: Node, process: Process, name: str, place: Place) -> list[str]:
    words: list[Word] = [
        place.container_program, "run", "--rm", "--init",
        "--name", name,
        "--stop-timeout", str(place.stop_seconds),
        "--shm-size", str(node.shared_memory),
        "--ulimit", "memlock=-1",
        *_network(launch, node, process),
        *_privileges(launch, node),
        *(f"--mount={_mount(mount)}" for mount in node.mounts),
    ]  # fmt: skip
    for name in secrets_of(process):
        words += ["-e", name]
    for name, value in settings_of(process).items():
        words += ["-e", joined(f"{name}=", value)]
    return [*map(bash.word, words), *(_own_folder(process) if process.files else ())]


def _network(launch: Launch, node: Node, process: Process) -> list[str]:
    """Processes of one node meet on the host's network, as nodes do, and launches of a group."""
    several = len(launch.nodes) > 1 or len(node.processes) > 1 or launch.group
    if launch.container.host_network or several:
        return ["--network", "host"]
    ports = (port.number for port in process.ports if not port.internal)
    return [word for port in ports for word in ("-p", f"127.0.0.1:{port}:{port}")]


def _privileges(launch: Launch, node: Node) -> list[str]:
    container, devices = launch.container, node.devices
    words = ["--gpus", str(devices.count)] if devices.kind == "nvidia" else []
    words += [f"--device={path}" for path in device_files(container, devices)]
    words += [f"--group-add={group}" for group in groups(container, devices)]
    words += [f"--cap-add={name}" for name in container.capabilities]
    if container.seccomp_unconfined:
        words += ["--security-opt", "seccomp=unconfined"]
    if container.privileged:
        words += ["--privileged"]
    if not keeps_privileges(container):
        words += ["--security-opt", "no-new-privileges"]
    return words


def _mount(mount: Mount) -> str:
    """Fields of CSV, so that a path may hold commas and quotes."""
    kind = "bind" if mount.source.startswith("/") else "volume"
    fields = [f"type={kind}", f"source={mount.source}", f"target={mount.target}"]
    return ",".join(map(_field, [*fields, *(["readonly"] if mount.read_only else [])]))


def _field(text: str) -> str:
    return '"' + text.replace('"', '""') + '"' if set(text) & set(',"') else text


def _own_folder(process: Process) -> list[str]:
    """The working folder, with the files in it; its path is known only to the script."""
    name = part_name(process.name)
    source = '\\"source=${dsdeploy_folder//\\"/\\"\\"}/' + name + '\\"'
    return [f'--mount "type=bind,{source},target={WORKING_FOLDER}"', f"--workdir {WORKING_FOLDER}"]
