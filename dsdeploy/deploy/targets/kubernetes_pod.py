"""The pod of one node."""

from __future__ import annotations

from typing import Any

from dsdeploy.deploy.launch import Launch, Mount, Node, Probe, Process
from dsdeploy.deploy.targets.container import command, keeps_privileges
from dsdeploy.deploy.targets.kubernetes_words import given_command, given_settings
from dsdeploy.deploy.targets.place import Place
from dsdeploy.deploy.targets.words import (
    WORKING_FOLDER,
    launch_name,
    part_name,
    secrets_of,
    service_name,
)
from dsdeploy.errors import UsageError

_RESOURCES = {
    "nvidia": "nvidia.com/gpu",
    "amd": "amd.com/gpu",
    "huawei": "huawei.com/Ascend910",
}
# Device plugins bring these along.
_OF_PLUGINS = ("/dev/kfd", "/dev/dri", "/dev/nvidia", "/dev/davinci", "/dev/hisi_", "/dev/devmm_")


def labels(launch: Launch, component: str = "") -> dict[str, str]:
    own = {"app.kubernetes.io/name": launch_name(launch)} | group_labels(launch)
    return own | ({"app.kubernetes.io/component": component} if component else {})


def group_labels(launch: Launch) -> dict[str, str]:
    return {"app.kubernetes.io/part-of": service_name(launch.group)} if launch.group else {}


def secret_name(launch: Launch, place: Place) -> str:
    return place.secret_name or f"{launch_name(launch)}-secrets"


def config_key(rank: int, process: Process, number: int) -> str:
    return f"{min(rank, 1)}-{part_name(process.name)}-{number}"


def pod(launch: Launch, rank: int, place: Place) -> dict[str, Any]:
    """A PodTemplateSpec. All followers have that of rank 1."""
    node, container = launch.nodes[rank], launch.container
    groups = [int(group) for group in container.groups if group.isdecimal()]
    prepared = _init_containers(launch, place) if rank == 0 else []
    spec: dict[str, Any] = {
        **({"initContainers": prepared} if prepared else {}),
        "containers": [_container(launch, rank, process, place) for process in node.processes],
        "volumes": _volumes(launch, rank),
        "terminationGracePeriodSeconds": place.stop_seconds,
        "automountServiceAccountToken": False,
        # A Service named after an engine would set variables that the engine reads as its own.
        "enableServiceLinks": False,
        **({"securityContext": {"supplementalGroups": groups}} if groups else {}),
    }
    if container.host_network:
        spec |= {"hostNetwork": True, "dnsPolicy": "ClusterFirstWithHostNet"}
    component = "follower" if rank else "head"
    return {"metadata": {"labels": labels(launch, component)}, "spec": spec}


def _container(launch: Launch, rank: int, process: Process, place: Place) -> dict[str, Any]:
    node = launch.nodes[rank]
    ports = [
        {"name": f"port-{n}", "containerPort": n} for n in {p.number: 0 for p in process.ports}
    ]
    return {
        "name": part_name(process.name),
        **_same(launch, rank, process, place),
        "command": given_command(launch, process, command(launch, process)),
        **({"ports": ports} if ports else {}),
        **(_resources(node) if process == node.processes[0] else {}),
        **_probes(process),
    }


def _init_containers(launch: Launch, place: Place) -> list[dict[str, Any]]:
    """They run one after the other, and have what the first process has."""
    first = launch.head.processes[0]
    return [
        {
            "name": f"prepare-{number}",
            **_same(launch, 0, first, place),
            "command": given_command(launch, first, argv),
            **_resources(launch.head),
        }
        for number, argv in enumerate(launch.prepare)
    ]


def _same(launch: Launch, rank: int, process: Process, place: Place) -> dict[str, Any]:
    """What a process and the preparation beside it share."""
    own_folder = {"workingDir": WORKING_FOLDER} if process.files else {}
    return {
        "image": launch.container.image,
        **own_folder,
        "env": _environment(launch, process, place),
        "volumeMounts": _volume_mounts(launch.nodes[rank], rank, process),
        "securityContext": _security(launch),
    }


def _environment(launch: Launch, process: Process, place: Place) -> list[dict[str, Any]]:
    """What is referred to comes first: only variables above a line are known to it."""
    address = {"fieldRef": {"fieldPath": "status.podIP"}}
    found: list[dict[str, Any]] = [{"name": "DSDEPLOY_HERE", "valueFrom": address}]
    for name, secret in secrets_of(process).items():
        reference = {"name": secret_name(launch, place), "key": secret.name}
        found.append({"name": name, "valueFrom": {"secretKeyRef": reference}})
    for name, value in given_settings(launch, process).items():
        found.append({"name": name, "value": value})
    return found


def _resources(node: Node) -> dict[str, Any]:
    """Devices cannot be shared: the first process of a node has them all."""
    if node.devices.kind == "none" or not node.devices.count:
        return {}
    return {"resources": {"limits": {_RESOURCES[node.devices.kind]: node.devices.count}}}


def _security(launch: Launch) -> dict[str, Any]:
    container = launch.container
    foreign = [path for path in container.devices if not path.startswith(_OF_PLUGINS)]
    if foreign and not container.privileged:
        raise UsageError(
            f"Kubernetes gives {foreign[0]} to no container that is not privileged.",
            "Leave it out and ask for it by its device plugin.",
        )
    return {
        **({"privileged": True} if container.privileged else {}),
        "allowPrivilegeEscalation": keeps_privileges(container),
        **(
            {"capabilities": {"add": list(container.capabilities)}}
            if container.capabilities
            else {}
        ),
        "seccompProfile": {
            "type": "Unconfined" if keeps_privileges(container) else "RuntimeDefault"
        },
    }


def _probes(process: Process) -> dict[str, Any]:
    if not process.probes:
        return {}
    return {
        "startupProbe": _probe(process.probes.startup),
        "readinessProbe": _probe(process.probes.readiness),
        "livenessProbe": _probe(process.probes.liveness),
    }


def _probe(probe: Probe) -> dict[str, Any]:
    return {
        "httpGet": {"path": probe.path, "port": probe.port},
        "periodSeconds": probe.period,
        "timeoutSeconds": probe.timeout,
        "failureThreshold": probe.failures,
    }


def _mount_name(number: int) -> str:
    return f"mount-{number}"


def _volume_mounts(node: Node, rank: int, process: Process) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = [{"name": "shm", "mountPath": "/dev/shm"}]
    for number, mount in enumerate(node.mounts):
        path = _mount_path(mount.target)
        entry = {"name": _mount_name(number), "mountPath": path, "readOnly": mount.read_only}
        found.append(entry)
    if process.files:
        found.append({"name": f"work-{part_name(process.name)}", "mountPath": WORKING_FOLDER})
    for number, file in enumerate(process.files):
        path = _mount_path(f"{WORKING_FOLDER}/{file.path}")
        key = config_key(rank, process, number)
        found.append({"name": "files", "mountPath": path, "subPath": key, "readOnly": True})
    return found


def _mount_path(path: str) -> str:
    if ":" in path:
        raise UsageError(f"Kubernetes takes no colon in a path: {path!r}.")
    return path


def _volumes(launch: Launch, rank: int) -> list[dict[str, Any]]:
    node = launch.nodes[rank]
    shared = {"medium": "Memory", "sizeLimit": str(node.shared_memory)}
    found: list[dict[str, Any]] = [{"name": "shm", "emptyDir": shared}]
    found += [
        {"name": _mount_name(number), **_source(mount)} for number, mount in enumerate(node.mounts)
    ]
    found += [
        {"name": f"work-{part_name(process.name)}", "emptyDir": {}}
        for process in node.processes
        if process.files
    ]
    items = [
        {
            "key": config_key(rank, process, n),
            "path": config_key(rank, process, n),
            "mode": file.mode,
        }
        for process in node.processes
        for n, file in enumerate(process.files)
    ]
    config = {"name": f"{launch_name(launch)}-files", "items": items}
    return [*found, *([{"name": "files", "configMap": config}] if items else [])]


def _source(mount: Mount) -> dict[str, Any]:
    if mount.source.startswith("/"):
        return {"hostPath": {"path": mount.source, "type": "Directory"}}
    return {"persistentVolumeClaim": {"claimName": mount.source}}
