"""What no target can write, or what would be something else once written, is refused here."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import PurePosixPath

from dsdeploy.deploy.launch import File, Launch, Mount, Process, Secret, parts_of
from dsdeploy.deploy.targets.place import Place
from dsdeploy.deploy.targets.words import part_name, variable, words_of
from dsdeploy.errors import UsageError

_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
# DSDEPLOY_API_KEY is what the native runner reads.
_OF_THE_SHELL = re.compile(
    "_|BASH.*|DSDEPLOY_(?!API_KEY$).*|dsdeploy_.*|LWS_.*|UID|EUID|PPID|SHELLOPTS|RANDOM|SRANDOM|SECONDS|LINENO|GROUPS"
    "|FUNCNAME|DIRSTACK|HISTCMD|EPOCHSECONDS|EPOCHREALTIME|COMP_WORDBREAKS|POSIXLY_CORRECT"
)
_SECRET = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]*")
_ADDRESS = re.compile(r"[0-9A-Za-z][0-9A-Za-z.:_-]*|::[0-9A-Za-z.:]*")
_IMAGE = re.compile(r"[A-Za-z0-9/][A-Za-z0-9/_.:@+-]*")
_VOLUME = re.compile(r"[a-z0-9][a-z0-9.-]*")
_PLAIN = re.compile(r"[A-Za-z0-9_.:/@+,-]*")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


def check(launch: Launch, place: Place) -> None:
    """Raises UsageError with the first fault."""
    for what, text in _texts(launch, place):
        _check_text(what, text)
    _check_names(launch)
    for node in launch.nodes:
        for process in node.processes:
            _check_process(process)
            _check_copies(process, launch)
        for mount in node.mounts:
            _check_mount(mount)
    _check_container(launch)
    _check_secrets(launch.secrets)
    _check_place(launch, place)


def plain(what: str, value: str) -> str:
    """The value, where its place has no quoting."""
    if not _PLAIN.fullmatch(value) or value.startswith("-"):
        raise UsageError(f"{what} cannot be {value!r}: letters, digits and ._:/@+,- are allowed.")
    return value


def one_line(what: str, value: str) -> str:
    if _CONTROL.search(value):
        raise UsageError(f"{what} {value!r} has a control character, which cannot be written here.")
    return value


def _texts(launch: Launch, place: Place) -> Iterator[tuple[str, str]]:
    yield "The name", launch.name
    yield "The folder", place.folder
    for command in launch.prepare:
        yield from (("A word", str(part)) for word in command for part in parts_of(word))
    for process in (process for node in launch.nodes for process in node.processes):
        where = f"of the process {process.name!r}"
        yield f"The name {where}", process.name
        for word in words_of(process):
            yield from ((f"A word {where}", str(part)) for part in parts_of(word))
        for file in process.files:
            yield f"The file {file.path!r} {where}", file.content
            yield f"A path {where}", file.path


def _check_text(what: str, text: str) -> None:
    if "\x00" in text:
        raise UsageError(f"{what} holds a NUL, which nothing can be given.")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise UsageError(f"{what} holds half a character, which UTF-8 cannot write.") from None


def _check_names(launch: Launch) -> None:
    if not launch.nodes or not all(node.processes for node in launch.nodes):
        raise UsageError("A launch without a process is nothing to run.")
    for node in launch.nodes:
        names = [part_name(process.name) for process in node.processes]
        if "" in names or len(set(names)) < len(names):
            raise UsageError(
                "Each process of a node needs a name of letters and digits of its own; these are "
                + ", ".join(repr(process.name) for process in node.processes)
                + "."
            )
    commands = [*launch.prepare, *(p.argv for node in launch.nodes for p in node.processes)]
    if any(not command or not any(parts_of(command[0])) for command in commands):
        raise UsageError("A command without a program cannot be run.")


def _check_process(process: Process) -> None:
    for name in process.environment:
        if not _VARIABLE.fullmatch(name):
            raise UsageError(f"{name!r} is no name of an environment variable.")
        if _OF_THE_SHELL.fullmatch(name):
            raise UsageError(f"The variable {name} belongs to the shell or to dsdeploy.")
    paths = [file.path for file in process.files]
    if len(set(paths)) < len(paths):
        raise UsageError(f"The process {process.name!r} has two files of one name.")
    for file in process.files:
        _check_file(file)


def _check_file(file: File) -> None:
    path = PurePosixPath(file.path)
    if path.is_absolute() or str(path) != file.path or ".." in path.parts or file.path == ".":
        raise UsageError(f"The file {file.path!r} would lie outside of its working folder.")
    one_line("The path", file.path)
    if not 0 < file.mode <= 0o777:
        raise UsageError(f"The file {file.path!r} cannot have the mode {file.mode:o}.")


def _check_copies(process: Process, launch: Launch) -> None:
    if launch.launcher == "each" and process.copies != 1:
        raise UsageError(f"Only MPI starts copies; {process.name!r} wants {process.copies}.")
    if launch.launcher == "mpi" and len(launch.head.processes) > 1:
        raise UsageError("MPI starts the ranks of one process; this launch has several.")


def _check_mount(mount: Mount) -> None:
    one_line("The path", mount.target)
    if not mount.source.startswith("/") and not _VOLUME.fullmatch(mount.source):
        raise UsageError(
            f"{mount.source!r} can be no mount: neither an absolute path nor the name of a volume."
        )
    one_line("The path", mount.source)
    if not mount.target.startswith("/"):
        raise UsageError(f"{mount.target!r} can be no mount: it is not an absolute path.")


def _check_container(launch: Launch) -> None:
    container = launch.container
    if not _IMAGE.fullmatch(container.image):
        raise UsageError(f"{container.image!r} is no name of an image.")
    for device in container.devices:
        if not device.startswith("/dev/"):
            raise UsageError(f"{device!r} is no device.")
    for word in (*container.devices, *container.groups, *container.capabilities):
        plain("A device, group or capability", word)


def _check_secrets(secrets: Iterable[Secret]) -> None:
    known: dict[str, str] = {}
    for secret in secrets:
        if not _SECRET.fullmatch(secret.name) or _OF_THE_SHELL.fullmatch(variable(secret)):
            raise UsageError(f"{secret.name!r} can be no name of a secret: it becomes a variable.")
        other = known.setdefault(variable(secret), secret.name)
        if other != secret.name:
            raise UsageError(f"The secrets {other} and {secret.name} would be one variable.")


def _check_place(launch: Launch, place: Place) -> None:
    if place.addresses and len(place.addresses) != len(launch.nodes):
        raise UsageError(
            f"The launch has {len(launch.nodes)} nodes, and {len(place.addresses)} addresses are given."
        )
    for address in (*place.addresses, *place.peers.values()):
        if not _ADDRESS.fullmatch(address):
            raise UsageError(f"{address!r} is no address.")
    if place.folder and not place.folder.startswith("/"):
        raise UsageError(f"The folder {place.folder!r} is not an absolute path.")
    one_line("The folder", place.folder)
    for what, value in (("The namespace", place.namespace), ("The Secret", place.secret_name)):
        plain(what, value)


def check_bare(launch: Launch, target: str) -> None:
    """Without a container, a folder is where it is."""
    for mount in (mount for node in launch.nodes for mount in node.mounts):
        if mount.source.startswith("/") and mount.source != mount.target:
            raise UsageError(
                f"The target {target} has no containers, so {mount.source} cannot be at {mount.target}.",
                "Give the same path for both, or render for docker.",
            )


def check_one_node_of_mpi(launch: Launch, target: str) -> None:
    if launch.launcher == "mpi" and len(launch.nodes) > 1:
        raise UsageError(
            f"Ranks of MPI on {len(launch.nodes)} nodes cannot be started by the target {target}.",
            "Render for slurm, or for shell with mpirun on the nodes.",
        )


def check_runs_on(launch: Launch, target: str) -> None:
    """For a target that starts anew what has ended."""
    if launch.ends:
        raise UsageError(
            f"This launch is done at some time, and the target {target} keeps servers running.",
            "Render for shell, docker or slurm.",
        )


def check_followers_alike(launch: Launch, target: str) -> None:
    if any(node != launch.nodes[1] for node in launch.nodes[2:]):
        raise UsageError(f"The target {target} needs all nodes but the first to be alike.")


def check_alone(launch: Launch, target: str) -> None:
    if launch.group:
        raise UsageError(
            f"The target {target} gives no job the addresses of others, which {launch.name} needs.",
            "Render for shell, docker, compose, systemd or kubernetes.",
        )
