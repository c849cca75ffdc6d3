"""Manifests: a Deployment for one node, a LeaderWorkerSet for several, and what they need."""

from __future__ import annotations

from typing import Any

from dsdeploy.deploy.launch import Launch
from dsdeploy.deploy.targets.check import (
    check_followers_alike,
    check_one_node_of_mpi,
    check_runs_on,
)
from dsdeploy.deploy.targets.kubernetes_pod import (
    config_key,
    group_labels,
    labels,
    pod,
    secret_name,
)
from dsdeploy.deploy.targets.place import Place, RenderedFile
from dsdeploy.deploy.targets.words import api_name, comment, launch_name
from dsdeploy.errors import UsageError
from dsdeploy.strict_yaml import dump_yaml

_LARGEST_CONFIG = 1 << 20


def render_kubernetes(
    launch: Launch, place: Place, header: tuple[str, ...]
) -> tuple[RenderedFile, ...]:
    check_one_node_of_mpi(launch, "kubernetes")
    check_runs_on(launch, "kubernetes")
    check_followers_alike(launch, "kubernetes")
    several = len(launch.nodes) > 1
    manifests = [
        *_config_map(launch, place),
        *_claims(launch, place),
        _leader_worker_set(launch, place) if several else _deployment(launch, place),
        *_service(launch, place),
        _network_policy(launch, place),
    ]
    content = comment((*header, *_advice(launch, place))) + "---\n".join(map(dump_yaml, manifests))
    return (RenderedFile("kubernetes.yaml", content),)


def _advice(launch: Launch, place: Place) -> list[str]:
    """How to make the Secret, which is no part of this file."""
    if not launch.secrets:
        return []
    words = " ".join(f"--from-file={secret.name}=FILE" for secret in launch.secrets)
    return ["Before: kubectl create secret generic " + f"{secret_name(launch, place)} {words}"]


def _object(
    launch: Launch, place: Place, version: str, kind: str, name: str, **rest: Any
) -> dict[str, Any]:
    metadata: dict[str, Any] = {"name": name, "labels": labels(launch)}
    if place.namespace:
        metadata["namespace"] = place.namespace
    return {"apiVersion": version, "kind": kind, "metadata": metadata, **rest}


def _config_map(launch: Launch, place: Place) -> list[dict[str, Any]]:
    data = {
        config_key(rank, process, number): file.content
        for rank, node in enumerate(launch.nodes[:2])
        for process in node.processes
        for number, file in enumerate(process.files)
    }
    if sum(len(content.encode()) for content in data.values()) > _LARGEST_CONFIG:
        raise UsageError("The files of this launch are over 1 MiB, which no ConfigMap holds.")
    name = f"{launch_name(launch)}-files"
    return [_object(launch, place, "v1", "ConfigMap", name, data=data)] if data else []


def _claims(launch: Launch, place: Place) -> list[dict[str, Any]]:
    mode = "ReadWriteMany" if len(launch.nodes) > 1 else "ReadWriteOnce"
    spec: dict[str, Any] = {
        "accessModes": [mode],
        "resources": {"requests": {"storage": place.volume_size}},
        **({"storageClassName": place.storage_class} if place.storage_class else {}),
    }
    names = {m.source for node in launch.nodes for m in node.mounts if m.source[0] != "/"}
    return [
        _object(launch, place, "v1", "PersistentVolumeClaim", name, spec=spec)
        for name in sorted(names)
    ]


def _deployment(launch: Launch, place: Place) -> dict[str, Any]:
    spec = {
        "replicas": 1,
        # The devices of the old pod must be free before a new one can start.
        "strategy": {"type": "Recreate"},
        "selector": {"matchLabels": labels(launch, "head")},
        "template": pod(launch, 0, place),
    }
    return _object(launch, place, "apps/v1", "Deployment", launch_name(launch), spec=spec)


def _leader_worker_set(launch: Launch, place: Place) -> dict[str, Any]:
    template = {
        "size": len(launch.nodes),
        "restartPolicy": "RecreateGroupOnPodRestart",
        "leaderTemplate": pod(launch, 0, place),
        "workerTemplate": pod(launch, 1, place),
    }
    spec = {"replicas": 1, "startupPolicy": "LeaderCreated", "leaderWorkerTemplate": template}
    version, name = "leaderworkerset.x-k8s.io/v1", launch_name(launch)
    return _object(launch, place, version, "LeaderWorkerSet", name, spec=spec)


def _client_ports(launch: Launch) -> list[int]:
    ports = (port for process in launch.head.processes for port in process.ports)
    return list(dict.fromkeys(port.number for port in ports if not port.internal))


def _service(launch: Launch, place: Place) -> list[dict[str, Any]]:
    ports = [
        {"name": f"port-{number}", "port": number, "targetPort": number}
        for number in _client_ports(launch)
    ]
    spec = {"selector": labels(launch, "head"), "ports": ports}
    name = api_name(launch.name)
    return [_object(launch, place, "v1", "Service", name, spec=spec)] if ports else []


def _network_policy(launch: Launch, place: Place) -> dict[str, Any]:
    """Anyone may ask the clients' ports; the engine's own are among its pods and its group's."""
    own = group_labels(launch) or labels(launch)
    rules: list[dict[str, Any]] = [{"from": [{"podSelector": {"matchLabels": own}}]}]
    if launch.public and (ports := _client_ports(launch)):
        rules.append({"ports": [{"protocol": "TCP", "port": number} for number in ports]})
    spec = {
        "podSelector": {"matchLabels": labels(launch)},
        "policyTypes": ["Ingress"],
        "ingress": rules,
    }
    name = launch_name(launch)
    return _object(launch, place, "networking.k8s.io/v1", "NetworkPolicy", name, spec=spec)
