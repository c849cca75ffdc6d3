"""Which release of an engine would run, and where its programs are."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from dsdeploy.deploy.backend import Backend, backend_names, installed_release, load_backend
from dsdeploy.errors import DeployError, ExitCode, UsageError
from dsdeploy.ssh import run

OWN = "native"
_PATIENCE = 60
_ASK = "import importlib.metadata, sys; print(importlib.metadata.version(sys.argv[1]))"


@dataclass(frozen=True)
class Engine:
    release: str | None
    """None where nobody can tell."""
    search_path: str
    """The folder of its programs; empty: they are on PATH."""
    where: str
    """For people."""


def find_engine(backend: Backend, python: Path | None) -> Engine:
    """`python` is of the environment that the engine is installed in; else this one, or the one
    that its program on PATH belongs to. Raises DeployError where there is none."""
    name = backend.distribution
    if python is not None:
        return _of_python(name, python)
    own = Path(sys.executable).parent
    release = installed_release(backend)
    if name is None or release is not None:
        return Engine(release, str(own), str(own.parent))
    program = shutil.which(name)
    interpreter = _interpreter(Path(program)) if program else None
    if interpreter is None:
        raise DeployError(
            f"{name} is not installed in this environment, and no {name} is on PATH.",
            "Name its environment with --engine-python /path/to/venv/bin/python, or a container "
            "with --runtime docker.",
            ExitCode.ENGINE,
        )
    return _of_python(name, interpreter)


def engine_on(backend: Backend, host: str, ssh_config: Path | None, python: Path | None) -> Engine:
    """On another machine, all of whose peers have it in the same place."""
    interpreter = str(python or "python3")
    folder = str(python.parent) if python else ""
    where = f"{folder or 'PATH'} on {host}"
    name = backend.distribution
    if name is None:
        return Engine(None, folder, where)
    done = run(host, [interpreter, "-c", _ASK, name], ssh_config)
    if done.returncode != 0:
        raise DeployError(
            f"{name} is not installed for {interpreter} on {host}.",
            f"ssh {host} {interpreter} -m pip install {name}",
            ExitCode.ENGINE,
        )
    return Engine(done.stdout.strip(), folder, where)


def engine_in(program: str, backend: Backend, image: str, fetch: bool) -> Engine:
    """In an image: the engine's own one holds the newest release that is known; another, `image`, is
    asked. `fetch`: also when it must come first."""
    if shutil.which(program) is None:
        raise DeployError(
            f"There is no {program} here.",
            "Install it, or name the engine's environment with --engine-python.",
            ExitCode.ENGINE,
        )
    if not image or backend.distribution is None:
        return Engine(None, "", f"{image or 'its image'}, by {program}")
    pull = f"--pull={'missing' if fetch else 'never'}"
    ask = [program, "run", "--rm", pull, "--entrypoint", "python3", image, "-c", _ASK]
    # What is shown while it is fetched goes to the terminal.
    done = subprocess.run([*ask, backend.distribution], stdout=subprocess.PIPE, text=True)
    if done.returncode != 0:
        return Engine(None, "", f"{image}, by {program}; it does not say which release it has")
    return Engine(done.stdout.strip(), "", f"{image}, by {program}")


def found_engines(python: Path | None) -> tuple[str, ...]:
    """The backends whose engine is there. Of one that is no package of Python nobody can tell, but
    for our own."""
    return tuple(name for name in backend_names() if _is_found(load_backend(name), python))


def _is_found(backend: Backend, python: Path | None) -> bool:
    if backend.distribution is None:
        return backend.name == OWN and python is None
    try:
        find_engine(backend, python)
    except DeployError:
        return False
    return True


def _of_python(distribution: str | None, python: Path) -> Engine:
    if not os.access(python, os.X_OK):
        raise UsageError(
            f"{python} is no program that could be run.", "--engine-python /path/to/venv/bin/python"
        )
    folder = Path(os.path.abspath(python)).parent  # a link of a venv must not be followed
    if distribution is None:
        return Engine(None, str(folder), str(folder.parent))
    release = _release(distribution, python)
    return Engine(release, str(folder), str(folder.parent))


def _release(distribution: str, python: Path) -> str:
    try:
        done = subprocess.run(
            [python, "-c", _ASK, distribution],
            capture_output=True, text=True, timeout=_PATIENCE, check=True,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        raise DeployError(
            f"{distribution} is not installed for {python}.",
            f"{python} -m pip install {distribution}",
            ExitCode.ENGINE,
        ) from None
    return done.stdout.strip()


def _interpreter(program: Path) -> Path | None:
    """That a script of Python begins with."""
    with program.open("rb") as stream:
        first = stream.readline(4096)
    if not first.startswith(b"#!"):
        return None
    path = Path(first[2:].decode("utf-8", "replace").strip())
    return path if path.is_absolute() and path.exists() else None
