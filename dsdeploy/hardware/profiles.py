"""Where profiles are found, and how their files become machines.

A name is looked for in ./profiles, in the user's folder of settings, then among the shipped ones;
anything with a slash or a suffix is a path. A file may extend another and vary single fields.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any, Literal, TypeVar

import click
from pydantic import BaseModel, ValidationError

from dsdeploy.errors import UsageError
from dsdeploy.hardware.profile import Accelerator, Machine
from dsdeploy.strict_yaml import load_yaml

Kind = Literal["machines", "accelerators"]
_Model = TypeVar("_Model", bound=BaseModel)


@dataclass(frozen=True)
class ProfileFile:
    """`origin` says whose it is: project (./profiles), user, or shipped."""

    name: str
    origin: str
    file: Traversable

    def __str__(self) -> str:
        return str(self.file) if isinstance(self.file, Path) else f"{self.name}.yaml"


def user_folder() -> Path:
    return Path(click.get_app_dir("dsdeploy")) / "profiles"


def profile_files(kind: Kind) -> dict[str, ProfileFile]:
    """By name; the nearest of those that share one. Machines of a user may lie directly in the
    folder, without one of their own."""
    found: dict[str, ProfileFile] = {}
    for origin, folder in (
        ("shipped", files("dsdeploy.profiles")),
        ("user", user_folder()),
        ("project", Path("profiles")),
    ):
        direct = [folder] if kind == "machines" and origin != "shipped" else []
        for place in [*direct, folder / kind]:
            found |= {file.name: file for file in _yaml_files(place, origin)}
    return found


def _yaml_files(folder: Traversable, origin: str) -> Iterator[ProfileFile]:
    if not folder.is_dir():
        return
    for file in sorted(folder.iterdir(), key=lambda file: file.name):
        if file.name.endswith(".yaml"):
            yield ProfileFile(file.name.removesuffix(".yaml"), origin, file)


def load_machine(name_or_path: str) -> Machine:
    """Raises UsageError with the file, the field and what is wrong with it."""
    return parse_machine(_find("machines", name_or_path))


def load_accelerator(name: str) -> Accelerator:
    file = _find("accelerators", name)
    return _validated(Accelerator, _merged("accelerators", file, ()), str(file))


def parse_machine(file: ProfileFile) -> Machine:
    raw = _merged("machines", file, ())
    if isinstance(raw.get("accelerator"), str):
        chip = _find("accelerators", raw["accelerator"], f"{file}: accelerator")
        raw["accelerator"] = _merged("accelerators", chip, ())
    machine = _validated(Machine, raw, str(file))
    if machine.nodes > 1 and machine.inter_node is None:
        raise UsageError(
            f"{file}: {machine.nodes} nodes have no inter_node link.",
            "Say what joins them: inter_node: {kind: Ethernet, bandwidth: 25Gb/s}.",
        )
    return machine


def _find(kind: Kind, name: str, where: str = "") -> ProfileFile:
    if os.sep in name or name.endswith((".yaml", ".yml")):
        path = Path(name).expanduser()
        if not path.is_file():
            raise UsageError(f"There is no profile {name}.", "dsdeploy profiles list shows them.")
        return ProfileFile(path.stem, "path", path)
    known = profile_files(kind)
    if name in known:
        return known[name]
    near = get_close_matches(name, known, 3, 0.5)
    what = "machine" if kind == "machines" else "accelerator"
    sentence = f"{where}: there" if where else "There"
    raise UsageError(
        f"{sentence} is no {what} profile {name!r}.",
        f"Did you mean {' or '.join(near)}?" if near else "dsdeploy profiles list shows them.",
    )


def _merged(kind: Kind, file: ProfileFile, seen: tuple[str, ...]) -> dict[str, Any]:
    """The file's fields over those of what it extends."""
    raw = load_yaml(file.file.read_text(encoding="utf-8"), str(file))
    if not isinstance(raw, dict):
        raise UsageError(f"{file} is not a profile: it holds no fields.")
    parent = raw.pop("extends", None)
    if parent is None:
        return raw
    if not isinstance(parent, str) or parent in seen:
        why = "extends itself" if parent in seen else "extends no name"
        raise UsageError(f"{file} {why}.", "Write the name of another profile after extends.")
    base = _merged(kind, _base(kind, parent, file), (*seen, parent))
    return _over(base, raw)


def _base(kind: Kind, parent: str, file: ProfileFile) -> ProfileFile:
    """A profile may extend the shipped one of its own name, which it hides."""
    if parent == file.name and file.origin != "shipped":
        shipped = _yaml_files(files("dsdeploy.profiles") / kind, "shipped")
        for candidate in shipped:
            if candidate.name == parent:
                return candidate
    return _find(kind, parent, f"{file}: extends")


def _over(base: Mapping[str, Any], fields: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in fields.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = _over(merged[key], value) if both else value
    return merged


def _validated(model: type[_Model], raw: object, where: str) -> _Model:
    try:
        return model.model_validate(raw)
    except ValidationError as error:
        first, *more = error.errors()
        place = ".".join(map(str, first["loc"]))
        others = f" ({len(more)} more)" if more else ""
        sentence = first["msg"].removeprefix("Value error, ").rstrip(".")
        raise UsageError(
            f"{where}: {place}: {sentence}{others}.", "dsdeploy profiles schema has every field."
        ) from None
