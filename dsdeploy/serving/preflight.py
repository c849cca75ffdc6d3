"""What would make a start fail after minutes, looked at before it, in a second."""

from __future__ import annotations

import errno
import os
import shutil
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from dsdeploy.checkpoint.audit import audit
from dsdeploy.checkpoint.reader import open_checkpoint
from dsdeploy.checkpoint.summary import summarise
from dsdeploy.deploy.driver import built_for, fit, newer_driver, read_driver
from dsdeploy.deploy.launch import Launch
from dsdeploy.deploy.wanted import Wanted
from dsdeploy.units import format_bytes

_LOG_SPACE = 2**30
_LEAST_SHARED = 2**28


@dataclass(frozen=True)
class Finding:
    what: str
    text: str
    fix: str = ""
    bad: bool = False


def preflight(launch: Launch, wanted: Wanted, folder: Path, here: bool) -> list[Finding]:
    """Of this machine, for the first node; `folder` holds logs. Where the engine runs elsewhere,
    only what is here is looked at."""
    found = list(_disk(folder))
    if here:
        found += [*_driver(launch, wanted), *_ports(launch, wanted.host), *_shared_memory(launch)]
    if here or Path(wanted.weights).is_dir():
        found += _checkpoint(wanted.weights)
    return found


def _checkpoint(weights: str) -> Iterator[Finding]:
    if not weights.startswith("/"):
        yield Finding("checkpoint", f"{weights}: the engine fetches it")
        return
    opened = open_checkpoint(Path(weights))
    errors = [finding for finding in audit(opened) if finding.severity == "error"]
    size = format_bytes(summarise(opened).file_bytes)
    if errors:
        yield Finding(
            "checkpoint",
            f"{weights}: {errors[0].message}",
            f"dsdeploy inspect {weights} says all of it.",
            bad=True,
        )
    else:
        yield Finding("checkpoint", f"{weights}, {size}, whole by its headers")


def _driver(launch: Launch, wanted: Wanted) -> Iterator[Finding]:
    """Of NVIDIA. What an image of the user's own was built for, nobody knows."""
    driver = read_driver() if launch.head.devices.kind == "nvidia" else None
    if driver is None:
        return
    text = f"{driver.release}, CUDA {driver.cuda}"
    built = "" if wanted.image else built_for(launch.backend, launch.release)
    fits = fit(built, driver.cuda) if built else "full"
    if fits == "full":
        yield Finding("driver", text)
        return
    engine = f"{launch.backend} {launch.release} is built for CUDA {built}"
    fix = f"{newer_driver(built)}; or an engine (--engine-python, --image) for an older CUDA"
    yield Finding("driver", f"{engine}, and the driver is {text}", fix, bad=fits == "none")


def _ports(launch: Launch, host: str) -> Iterator[Finding]:
    ports = [port for process in launch.head.processes for port in process.ports]
    taken = [port for port in ports if not _is_free(host, port.number)]
    for port in taken:
        yield Finding(
            "port",
            f"port {port.number} ({port.name}) is in use",
            f"ss -ltnp 'sport = :{port.number}' says by whom; --port gives clients another.",
            bad=True,
        )
    if not taken:
        numbers = ", ".join(str(port.number) for port in ports)
        yield Finding("port", f"{numbers} free")


def _is_free(host: str, number: int) -> bool:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as one:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            one.bind((host, number))
        except OSError as error:
            return error.errno != errno.EADDRINUSE
    return True


def _disk(folder: Path) -> Iterator[Finding]:
    there = next(each for each in (folder, *folder.parents) if each.is_dir())
    free = shutil.disk_usage(there).free
    text = f"{format_bytes(free)} free for logs in {folder}"
    fix = "Free some space, or set DSDEPLOY_STATE to a folder on another disk."
    yield Finding("disk", text, "" if free >= _LOG_SPACE else fix)


def _shared_memory(launch: Launch) -> Iterator[Finding]:
    shared = Path("/dev/shm")
    if not shared.is_dir() or not os.access(shared, os.W_OK):
        yield Finding("memory", "/dev/shm cannot be written", "mount -t tmpfs tmpfs /dev/shm", True)
        return
    size = shutil.disk_usage(shared).free
    few = launch.head.devices.count > 1 and size < _LEAST_SHARED
    yield Finding(
        "memory",
        f"/dev/shm {format_bytes(size)} free",
        "mount -o remount,size=32G /dev/shm (docker: --shm-size 32g)" if few else "",
    )
