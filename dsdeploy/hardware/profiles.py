"""Where profiles are found, and how their files become machines.

A name is looked for in ./profiles, in the user's folder of settings, then among the shipped ones;
anything with a slash or a suffix is a path. A file may extend another and vary single fields.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any, Literal, TypeVar

import click
from pydantic import BaseModel, ValidationError

from dsdeploy.errors import UsageError
from dsdeploy.hardware.profile import Accelerator, Disk, Link, Machine
from dsdeploy.strict_yaml import read_yaml

Kind = Literal["machines", "accelerators"]
_Model = TypeVar("_Model", bound=BaseModel)
_FIELDS = {field for model in (Machine, Accelerator, Disk, Link) for field in model.model_fields}


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
    return parse_accelerator(_find("accelerators", name))


def parsed(
    kind: Kind, parse: Callable[[ProfileFile], _Model]
) -> tuple[list[tuple[ProfileFile, _Model]], list[UsageError]]:
    """All of a kind that can be read, and what is wrong with the others."""
    whole, wrong = [], []
    for file in profile_files(kind).values():
        try:
            whole.append((file, parse(file)))
        except UsageError as error:
            wrong.append(error)
    return whole, wrong


def parse_accelerator(file: ProfileFile) -> Accelerator:
    return _validated(Accelerator, _merged("accelerators", file, ()), str(file))


def parse_machine(file: ProfileFile) -> Machine:
    raw = _merged("machines", file, ())
    if isinstance(raw.get("accelerator"), str):
        chip = _find("accelerators", raw["accelerator"], f"{file}: accelerator")
        raw["accelerator"] = parse_accelerator(chip)
    machine = _validated(Machine, raw, str(file))
    if machine.nodes > 1 and machine.inter_node is None:
        raise UsageError(
            f"{file}: {machine.nodes} nodes have no inter_node link.",
            "Say what joins them: inter_node: {kind: Ethernet, bandwidth: 25Gb/s}.",
        )
    return machine


def _find(kind: Kind, name: str, where: str = "") -> ProfileFile:
    sentence = f"{where}: there" if where else "There"
    if _is_path(name):
        path = Path(name).expanduser()
        if not path.is_file():
            raise UsageError(f"{sentence} is no file {path}.", "dsdeploy profiles list shows all.")
        return ProfileFile(path.stem, "path", path)
    known = profile_files(kind)
    if name in known:
        return known[name]
    near = get_close_matches(name, known, 3, 0.5)
    what = "machine" if kind == "machines" else "accelerator"
    raise UsageError(
        f"{sentence} is no {what} profile {name!r}.",
        f"Did you mean {' or '.join(near)}?" if near else "dsdeploy profiles list shows them.",
    )


def _is_path(name: str) -> bool:
    return os.sep in name or name.endswith((".yaml", ".yml"))


def _merged(kind: Kind, file: ProfileFile, seen: tuple[ProfileFile, ...]) -> dict[str, Any]:
    """The file's fields over those of what it extends."""
    raw = read_yaml(file.file, str(file))
    if not isinstance(raw, dict):
        raise UsageError(f"{file} is not a profile: it holds no fields.")
    parent = raw.pop("extends", None)
    if parent is None:
        return raw
    if not isinstance(parent, str) or file in seen:
        why = "extends itself" if file in seen else "extends no name"
        raise UsageError(f"{file} {why}.", "Write the name of another profile after extends.")
    base = _merged(kind, _base(kind, parent, file), (*seen, file))
    return _over(base, raw)


def _base(kind: Kind, parent: str, file: ProfileFile) -> ProfileFile:
    """A profile may extend the shipped one of its own name, which it hides; a path is meant from
    its own folder."""
    if _is_path(parent) and isinstance(file.file, Path):
        parent = str((file.file.parent / Path(parent).expanduser()).resolve())
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
        sentence, hint = first["msg"], "dsdeploy profiles schema has every field."
        if first["type"] == "extra_forbidden":
            sentence = "there is no such field"
            near = get_close_matches(str(first["loc"][-1]), _FIELDS, 1)
            hint = f"Did you mean {near[0]}?" if near else hint
        sentence = sentence.removeprefix("Value error, ").rstrip(".")
        raise UsageError(f"{where}: {place}: {sentence}{others}.", hint) from None
