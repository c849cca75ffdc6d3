"""Files of a Launch, for a target; written whole, and never over what somebody else made."""

from __future__ import annotations

import difflib
import os
from collections.abc import Callable, Iterable
from pathlib import Path

from dsdeploy.deploy.launch import Launch
from dsdeploy.deploy.targets.check import check
from dsdeploy.deploy.targets.compose import render_compose
from dsdeploy.deploy.targets.docker import render_docker
from dsdeploy.deploy.targets.kubernetes import render_kubernetes
from dsdeploy.deploy.targets.place import Place, RenderedFile
from dsdeploy.deploy.targets.shell import render_shell
from dsdeploy.deploy.targets.slurm import render_slurm
from dsdeploy.deploy.targets.systemd import render_systemd
from dsdeploy.deploy.targets.words import MARK
from dsdeploy.errors import UsageError
from dsdeploy.whole_files import replace_file

__all__ = ["TARGETS", "Place", "RenderedFile", "difference", "render", "write"]

_Renderer = Callable[[Launch, Place, tuple[str, ...]], tuple[RenderedFile, ...]]
_RENDERERS: dict[str, _Renderer] = {
    "shell": render_shell,
    "docker": render_docker,
    "compose": render_compose,
    "kubernetes": render_kubernetes,
    "slurm": render_slurm,
    "systemd": render_systemd,
}
TARGETS = tuple(_RENDERERS)
_READ_FOR_THE_MARK = 4096


def render(
    launch: Launch, target: str, place: Place, header: tuple[str, ...]
) -> tuple[RenderedFile, ...]:
    """The same for the same arguments. Raises UsageError for what the target cannot say; `header`
    stands as comments at the top of each file."""
    if target not in _RENDERERS:
        raise UsageError(f"There is no target {target!r}.", f"Known: {', '.join(TARGETS)}.")
    check(launch, place)
    return _RENDERERS[target](launch, place, header)


def write(files: Iterable[RenderedFile], folder: Path, overwrite: bool = False) -> None:
    """Each whole or not at all. Raises UsageError, before anything is written, for a file that
    dsdeploy did not make, unless it is to be overwritten."""
    files = tuple(files)
    foreign = [file.path for file in files if _is_foreign(folder / file.path)]
    if foreign and not overwrite:
        raise UsageError(
            f"{folder / foreign[0]} is there, and dsdeploy did not make it.",
            "Choose another folder, or say that it shall be overwritten.",
        )
    for file in files:
        path = folder / file.path
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_file(path, file.content.encode(), file.mode)


def difference(files: Iterable[RenderedFile], folder: Path) -> str:
    """What writing would change, as a unified diff; empty: nothing."""
    return "".join(_difference(file, folder / file.path) for file in files)


def _difference(file: RenderedFile, path: Path) -> str:
    there = path.read_bytes().decode("utf-8", "replace") if path.exists() else ""
    old = str(path) if path.exists() else os.devnull
    lines = difflib.unified_diff(_lines(there), _lines(file.content), old, file.path)
    return "".join(line if line.endswith("\n") else f"{line}\n" for line in lines)


def _lines(text: str) -> list[str]:
    return [f"{line}\n" for line in text.removesuffix("\n").split("\n")] if text else []


def _is_foreign(path: Path) -> bool:
    if not path.exists():
        return path.is_symlink()
    if not path.is_file():
        return True
    with path.open("rb") as stream:
        return MARK.encode() not in stream.read(_READ_FOR_THE_MARK)
