"""Engines, what they were built for, and what runs containers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dsdeploy.deploy.backend import load_backend
from dsdeploy.doctor.facts import ContainerRuntime, EngineFound, Software, Torch
from dsdeploy.errors import DeployError
from dsdeploy.serving.engines import find_engine, found_engines

_PATIENCE = 20
_SILENT = "it does not answer"
_CONTAINER_MARKS = ("/.dockerenv", "/run/.containerenv")
_CDI = (Path("/etc/cdi"), Path("/var/run/cdi"))
# Torch's own file says what it is built for, and reading it takes no seconds of import.
_ASK_TORCH = """
import importlib.util, json, pathlib, runpy
spec = importlib.util.find_spec("torch")
if spec and spec.origin:
    found = runpy.run_path(str(pathlib.Path(spec.origin).parent / "version.py"))
    print(json.dumps([found.get(key) or "" for key in ("__version__", "cuda", "hip")]))
"""


def software(backend: str | None, python: Path | None) -> Software:
    """`python`: of the environment that engines are looked for in, where it is not our own."""
    engines = tuple(_engines(python))
    chosen = next((engine for engine in engines if engine.backend == backend), None)
    beside = python or (_python_of(chosen) if chosen else None)
    return Software(
        engines=engines,
        torch=torch_of(beside) if beside else None,
        runtimes=tuple(_runtimes()),
        in_container=any(map(os.path.exists, _CONTAINER_MARKS))
        or "KUBERNETES_SERVICE_HOST" in os.environ,
    )


def torch_of(python: Path) -> Torch | None:
    try:
        done = subprocess.run(
            [python, "-c", _ASK_TORCH], capture_output=True, text=True, timeout=_PATIENCE
        )
        return Torch(*json.loads(done.stdout)) if done.stdout else None
    except (OSError, subprocess.SubprocessError, ValueError):
        return None


def _engines(python: Path | None) -> Iterator[EngineFound]:
    for name in found_engines(python):
        try:
            engine = find_engine(load_backend(name), python)
        except DeployError:
            continue  # gone since
        yield EngineFound(name, engine.release, engine.where)


def _python_of(engine: EngineFound) -> Path:
    beside = Path(engine.where, "bin", "python")
    return beside if beside.exists() else Path(sys.executable)


def _runtimes() -> Iterator[ContainerRuntime]:
    for name, read in (("docker", docker), ("podman", podman)):
        try:
            done = subprocess.run(
                [name, "info", "--format", "{{json .}}"],
                capture_output=True, text=True, errors="replace", timeout=_PATIENCE,
            )  # fmt: skip
        except OSError:
            continue
        except subprocess.TimeoutExpired:
            yield ContainerRuntime(name, problem="it hangs")
            continue
        yield read(done.stdout, done.stderr, cdi_vendors(_CDI))


def docker(stdout: str, stderr: str, cdi: tuple[str, ...]) -> ContainerRuntime:
    """Of `docker info`, which tells of a daemon that is away in ServerErrors, or in plain words."""
    found = _document(stdout)
    version = str(found.get("ServerVersion") or "")
    if not version:
        said = [*(found.get("ServerErrors") or []), *stderr.strip().splitlines()[-1:], _SILENT]
        return ContainerRuntime("docker", problem=str(said[0]))
    known = {"nvidia", "amd", "ascend"} & set(found.get("Runtimes") or {})
    vendors = {"huawei" if name == "ascend" else name for name in known} | set(cdi)
    return ContainerRuntime("docker", version, gpus=tuple(sorted(vendors)))


def podman(stdout: str, stderr: str, cdi: tuple[str, ...]) -> ContainerRuntime:
    told = _document(stdout).get("version")
    version = str(told.get("Version", "")) if isinstance(told, dict) else ""
    problem = "" if version else [_SILENT, *stderr.strip().splitlines()][-1]
    return ContainerRuntime("podman", version, problem, gpus=cdi)


def cdi_vendors(folders: tuple[Path, ...]) -> tuple[str, ...]:
    """Vendors whose devices the Container Device Interface describes here, by its files' names."""
    names = [file.name for folder in folders for file in folder.glob("*.[yj]*")]
    return tuple(vendor for vendor in ("amd", "nvidia") if any(vendor in name for name in names))


def _document(text: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
