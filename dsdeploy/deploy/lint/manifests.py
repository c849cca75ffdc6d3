"""Compose files and Kubernetes manifests: the command lines of their containers."""

from __future__ import annotations

import re
from collections.abc import Iterator

import yaml

from dsdeploy.deploy.lint.docker import (
    assigned,
    health_seconds,
    is_published_widely,
    with_entry_point,
)
from dsdeploy.deploy.lint.documents import (
    fields,
    items,
    mappings,
    read_documents,
    scalar,
    word_of,
    words_of,
)
from dsdeploy.deploy.lint.found import (
    UNKNOWN,
    Container,
    Found,
    Patience,
    Reach,
    Variable,
    Word,
    substitute,
)
from dsdeploy.deploy.lint.script import found_in, read_script
from dsdeploy.deploy.lint.shell import split_words

_COMPOSE = re.compile(r"\$\$|\$\{[^}]*\}|\$\w+")
_KUBERNETES = re.compile(r"\$\$\(|\$\([\w.-]+\)")
_NO_IMAGE = Word("", (), 0, 0)


def read_compose(text: str, where: str) -> Iterator[Found]:
    for document in read_documents(text, where):
        for service in fields(fields(document).get("services")).values():
            yield from found_in(_service(fields(service), text))


def _service(service: dict[str, yaml.Node], text: str) -> Found:
    image = _image(service, text)
    entry, arguments = (_command(service.get(key), text) for key in ("entrypoint", "command"))
    return Found(
        tuple(with_entry_point(image, entry, arguments)),
        tuple(_service_variables(service, text)),
        Container(
            image.text, image.start, _service_reach(service), False, _service_memory(service)
        ),
        tuple(_health(service)),
    )


def _image(container: dict[str, yaml.Node], text: str) -> Word:
    return next(iter(words_of(container.get("image"), text)), _NO_IMAGE)


def _command(node: yaml.Node | None, text: str) -> list[Word]:
    """A string is split as a shell would."""
    if isinstance(node, yaml.ScalarNode):
        return list(split_words(word_of(node, text).piece))
    return [_interpolated(word) for word in words_of(node, text)]


def _interpolated(word: Word) -> Word:
    return substitute(word, _COMPOSE, lambda found: "$" if found == "$$" else UNKNOWN)


def _service_variables(service: dict[str, yaml.Node], text: str) -> Iterator[Variable]:
    node = service.get("environment")
    for word in words_of(node, text) if isinstance(node, yaml.SequenceNode) else []:
        yield assigned(_interpolated(word))
    for name, value in fields(node).items():
        if isinstance(value, yaml.ScalarNode):
            yield Variable(name, _interpolated(word_of(value, text)), value.start_mark.index)


def _service_reach(service: dict[str, yaml.Node]) -> Reach:
    if scalar(service.get("network_mode")) == "host":
        return "host"
    return "published" if any(map(_is_wide, items(service.get("ports")))) else "nobody"


def _is_wide(port: yaml.Node) -> bool:
    return is_published_widely(scalar(port) or scalar(fields(port).get("host_ip")) or "")


def _service_memory(service: dict[str, yaml.Node]) -> bool:
    mounts = [*items(service.get("volumes")), *items(service.get("tmpfs"))]
    places = [scalar(mount) or scalar(fields(mount).get("target")) or "" for mount in mounts]
    shared = "shm_size" in service or scalar(service.get("ipc")) == "host"
    return shared or any("/dev/shm" in place for place in places)


def _health(service: dict[str, yaml.Node]) -> Iterator[Patience]:
    check = fields(service.get("healthcheck"))
    if "test" in check:
        parts = ("start_period", "interval", "retries")
        total = health_seconds(*(scalar(check.get(part)) for part in parts))
        if total is not None:
            yield Patience("health check", total, check["test"].start_mark.index)


def read_kubernetes(text: str, where: str) -> Iterator[Found]:
    """Whatever kind has containers in it; and the scripts of a ConfigMap."""
    for document in read_documents(text, where):
        if scalar(fields(document).get("kind")) == "ConfigMap":
            for script in fields(fields(document).get("data")).values():
                for word in words_of(script, text):
                    yield from read_script(word.piece)
        for pod in mappings(document):
            for container in (*items(pod.get("initContainers")), *items(pod.get("containers"))):
                yield from found_in(_container(fields(container), pod, text))


def _container(container: dict[str, yaml.Node], pod: dict[str, yaml.Node], text: str) -> Found:
    image = _image(container, text)
    entry, arguments = (
        [_expanded(word) for word in words_of(container.get(key), text)]
        for key in ("command", "args")
    )
    on_host = scalar(pod.get("hostNetwork")) == "true"
    mounts = [scalar(fields(m).get("mountPath")) for m in items(container.get("volumeMounts"))]
    shared = "/dev/shm" in mounts or scalar(pod.get("hostIPC")) == "true"
    return Found(
        tuple(with_entry_point(image, entry, arguments)),
        tuple(_container_variables(container, text)),
        Container(image.text, image.start, "host" if on_host else "cluster", True, shared),
        tuple(_probes(container)),
    )


def _expanded(word: Word) -> Word:
    return substitute(word, _KUBERNETES, lambda found: "$(" if found == "$$(" else UNKNOWN)


def _container_variables(container: dict[str, yaml.Node], text: str) -> Iterator[Variable]:
    for entry in map(fields, items(container.get("env"))):
        name, value = entry.get("name"), entry.get("value")
        if isinstance(name, yaml.ScalarNode):
            word = _expanded(word_of(value, text)) if isinstance(value, yaml.ScalarNode) else None
            yield Variable(str(name.value), word, name.start_mark.index)


def _probes(container: dict[str, yaml.Node]) -> Iterator[Patience]:
    """A liveness probe begins when the startup probe, if there is one, has succeeded."""
    for key in ("startupProbe", "livenessProbe"):
        if key in container:
            probe = fields(container[key])
            delay, period, failures = (
                scalar(probe.get(name)) or default
                for name, default in (
                    ("initialDelaySeconds", "0"),
                    ("periodSeconds", "10"),
                    ("failureThreshold", "3"),
                )
            )
            if all(number.isdigit() for number in (delay, period, failures)):
                total = int(delay) + int(period) * int(failures)
                yield Patience(key, total, container[key].start_mark.index)
            return
