"""A compose.yaml for each node. Files are inside of it, as configs."""

from __future__ import annotations

from typing import Any

from dsdeploy.deploy.launch import (
    Launch,
    Mount,
    Node,
    Peer,
    Port,
    Probes,
    Process,
    Symbol,
    Word,
)
from dsdeploy.deploy.targets.bash import known_symbols
from dsdeploy.deploy.targets.check import check_one_node_of_mpi, check_runs_on
from dsdeploy.deploy.targets.container import (
    command,
    device_files,
    groups,
    keeps_privileges,
)
from dsdeploy.deploy.targets.place import Place, RenderedFile
from dsdeploy.deploy.targets.words import (
    WORKING_FOLDER,
    asked_for,
    comment,
    known,
    launch_name,
    part_name,
    secrets_of,
    settings_of,
    spell,
    variable,
)
from dsdeploy.errors import UsageError
from dsdeploy.strict_yaml import dump_yaml

_ASK = (
    "import http.client, sys; port, path, timeout = sys.argv[1:]; "
    "connection = http.client.HTTPConnection('127.0.0.1', int(port), timeout=int(timeout)); "
    "connection.request('GET', path); sys.exit(connection.getresponse().status != 200)"
)


def render_compose(
    launch: Launch, place: Place, header: tuple[str, ...]
) -> tuple[RenderedFile, ...]:
    check_one_node_of_mpi(launch, "compose")
    check_runs_on(launch, "compose")
    several = len(launch.nodes) > 1
    return tuple(
        RenderedFile(
            f"node-{rank}/compose.yaml" if several else "compose.yaml",
            comment(header) + dump_yaml(_project(launch, rank, place)),
        )
        for rank in range(len(launch.nodes))
    )


def _project(launch: Launch, rank: int, place: Place) -> dict[str, Any]:
    node = launch.nodes[rank]
    prepared = _prepare_services(launch, place) if rank == 0 else {}
    services = {
        part_name(process.name): _service(launch, rank, process, place)
        | _order(list(prepared)[-1:])
        | {"restart": "unless-stopped"}
        for process in node.processes
    }
    volumes = [mount.source for mount in node.mounts if not mount.source.startswith("/")]
    configs = {
        _config(process, number): {"content": _escaped(file.content)}
        for process in node.processes
        for number, file in enumerate(process.files)
    }
    return {
        "name": launch_name(launch),
        "services": prepared | services,
        **({"configs": configs} if configs else {}),
        **({"volumes": {name: {"name": name} for name in volumes}} if volumes else {}),
    }


def _prepare_services(launch: Launch, place: Place) -> dict[str, Any]:
    """One after the other."""
    found: dict[str, Any] = {}
    for number, argv in enumerate(launch.prepare):
        service = _service(launch, 0, launch.head.processes[0], place)
        for key in ("ports", "healthcheck", "network_mode"):
            service.pop(key, None)
        service["entrypoint"] = _words(launch, 0, place, argv)
        found[f"prepare-{number}"] = service | _order(list(found)[-1:])
    return found


def _order(before: list[str]) -> dict[str, Any]:
    if not before:
        return {}
    return {
        "depends_on": {name: {"condition": "service_completed_successfully"} for name in before}
    }


def _service(launch: Launch, rank: int, process: Process, place: Place) -> dict[str, Any]:
    node = launch.nodes[rank]
    settings = {
        name: _words(launch, rank, place, (value,))[0]
        for name, value in settings_of(process).items()
    }
    secrets = {
        name: f"${{{variable(secret)}:?Set {variable(secret)}, the secret {secret.name}}}"
        for name, secret in secrets_of(process).items()
    }
    return {
        "image": launch.container.image,
        "init": True,
        "entrypoint": _words(launch, rank, place, command(launch, process)),
        "environment": settings | secrets,
        **_files(process),
        "volumes": [_volume(mount) for mount in node.mounts],
        "shm_size": node.shared_memory,
        "ulimits": {"memlock": -1},
        "stop_grace_period": f"{place.stop_seconds}s",
        **_network(launch, node, process),
        **_devices(launch, node),
        **_privileges(launch),
        **(_healthcheck(process.probes) if process.probes else {}),
    }


def _words(launch: Launch, rank: int, place: Place, words: tuple[Word, ...]) -> list[str]:
    asked = {symbol: asked_for(symbol) for symbol in (Symbol.HEAD, Symbol.HERE)}
    told = {s: _escaped(text) for s, text in known_symbols(launch, rank, place).items()}
    symbols: dict[Symbol, str] = asked | told

    def peer(peer: Peer) -> str:
        return place.peers.get(peer.launch) or asked_for(peer)

    return [spell(word, _escaped, known(symbols, peer)) for word in words]


def _escaped(text: str) -> str:
    """A dollar begins a variable of Compose, in any value."""
    return text.replace("$", "$$")


def _config(process: Process, number: int) -> str:
    return f"{part_name(process.name)}-{number}"


def _files(process: Process) -> dict[str, Any]:
    if not process.files:
        return {}
    if empty := [file.path for file in process.files if not file.content]:
        raise UsageError(f"Compose makes no empty file, as {empty[0]!r} is.")
    configs = [
        {
            "source": _config(process, number),
            "target": _escaped(f"{WORKING_FOLDER}/{file.path}"),
            "mode": f"0{file.mode:o}",
        }
        for number, file in enumerate(process.files)
    ]
    return {"working_dir": WORKING_FOLDER, "configs": configs}


def _volume(mount: Mount) -> dict[str, Any]:
    kind = "bind" if mount.source.startswith("/") else "volume"
    volume: dict[str, Any] = {
        "type": kind,
        "source": _escaped(mount.source),
        "target": _escaped(mount.target),
        "read_only": mount.read_only,
    }
    # A folder that is missing shall be an error, not an empty folder.
    return volume | ({"bind": {"create_host_path": False}} if kind == "bind" else {})


def _network(launch: Launch, node: Node, process: Process) -> dict[str, Any]:
    """On one node all processes share the network of the first, which publishes the ports."""
    if launch.container.host_network or len(launch.nodes) > 1 or launch.group:
        return {"network_mode": "host"}
    if process != node.processes[0]:
        return {"network_mode": f"service:{part_name(node.processes[0].name)}"}
    ports = [port for each in node.processes for port in each.ports if not port.internal]
    return {"ports": [_published(port) for port in ports]} if ports else {}


def _published(port: Port) -> dict[str, Any]:
    return {
        "target": port.number,
        "published": str(port.number),
        "host_ip": "127.0.0.1",
        "protocol": "tcp",
    }


def _devices(launch: Launch, node: Node) -> dict[str, Any]:
    container, devices = launch.container, node.devices
    found: dict[str, Any] = {}
    if devices.kind == "nvidia":
        wanted = {"driver": "nvidia", "count": devices.count, "capabilities": ["gpu"]}
        found["deploy"] = {"resources": {"reservations": {"devices": [wanted]}}}
    if files := device_files(container, devices):
        found["devices"] = [f"{path}:{path}" for path in files]
    if names := groups(container, devices):
        found["group_add"] = list(names)
    return found


def _privileges(launch: Launch) -> dict[str, Any]:
    container = launch.container
    options = ["seccomp=unconfined"] if container.seccomp_unconfined else []
    options += [] if keeps_privileges(container) else ["no-new-privileges:true"]
    return {
        **({"cap_add": list(container.capabilities)} if container.capabilities else {}),
        **({"security_opt": options} if options else {}),
        **({"privileged": True} if container.privileged else {}),
    }


def _healthcheck(probes: Probes) -> dict[str, Any]:
    """Asked from inside, by the Python that every engine's image has."""
    probe = probes.readiness
    words = ["python3", "-c", _ASK, str(probe.port), probe.path, str(probe.timeout)]
    return {
        "healthcheck": {
            "test": ["CMD", *map(_escaped, words)],
            "interval": f"{probe.period}s",
            "timeout": f"{probe.timeout + 1}s",
            "retries": probe.failures,
            "start_period": f"{probes.startup.seconds}s",
        }
    }
