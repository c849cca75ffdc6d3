"""Python sources in a wheel or a folder, and the release that they are."""

from __future__ import annotations

import ast
import re
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

VERSION = re.compile(r"^(?:__version__|Version:)\s*=?\s*[\"']?([0-9][^\"'\s]*)", re.MULTILINE)


@dataclass(frozen=True)
class Sources:
    """`paths` maps a module's name to its file; `read` gives the text of a file."""

    paths: dict[str, str]
    read: Callable[[str], str]
    release: str
    trees: dict[str, ast.Module] = field(default_factory=dict)

    def tree(self, module: str) -> ast.Module:
        if module not in self.trees:
            self.trees[module] = ast.parse(self.read(self.paths[module]))
        return self.trees[module]

    def texts(self) -> Iterator[tuple[str, str]]:
        return ((module, self.read(path)) for module, path in self.paths.items())


def open_sources(place: Path, package: str, release: str | None = None) -> Sources:
    """Of a wheel, of a folder that an engine is installed in, or of a snapshot of its repository."""
    names, read = _wheel(place) if place.is_file() else _folder(place)
    root = _root_of(names, package)
    inside = [name for name in names if name.startswith(f"{root}{package}/")]
    paths = {_module_name(name[len(root) :]): name for name in inside if name.endswith(".py")}
    found = release or _release(names, read, root, package)
    return Sources(paths, read, found.partition("+")[0])


def _wheel(path: Path) -> tuple[list[str], Callable[[str], str]]:
    archive = zipfile.ZipFile(path)
    return archive.namelist(), lambda name: archive.read(name).decode()


def _folder(path: Path) -> tuple[list[str], Callable[[str], str]]:
    files = [file for pattern in ("*.py", "METADATA") for file in path.rglob(pattern)]
    names = [file.relative_to(path).as_posix() for file in files]
    return names, lambda name: (path / name).read_text(encoding="utf-8")


def _root_of(names: list[str], package: str) -> str:
    """What stands before the package's folder: "" in a wheel, "python/" in some repositories."""
    init = f"{package}/__init__.py"
    roots = [name.removesuffix(init) for name in names if ("/" + name).endswith("/" + init)]
    if not roots:
        raise SystemExit(f"There is no {init}: give the folder that {package} lies in, or a wheel.")
    return min(roots, key=len)


def _module_name(path: str) -> str:
    return path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def _release(names: list[str], read: Callable[[str], str], root: str, package: str) -> str:
    """A wheel's metadata goes before a version file, which may be a placeholder in a repository."""
    metadata = re.compile(rf"{root}{package}[^/]*\.dist-info/METADATA")
    versions = [f"{root}{package}/{name}.py" for name in ("version", "_version", "__init__")]
    for name in [*filter(metadata.fullmatch, names), *versions]:
        found = VERSION.search(read(name)) if name in names else None
        if found:
            return found[1]
    raise SystemExit(f"Nothing says which release of {package} this is: add --release.")
