"""dsdeploy profiles: machines and accelerators, shown, checked and detected."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import click
from pydantic import BaseModel

from dsdeploy.cli.common import output_options
from dsdeploy.errors import UsageError
from dsdeploy.output import Output
from dsdeploy.strict_yaml import dump_yaml
from dsdeploy.units import format_bytes


@click.group("profiles")
def command() -> None:
    """Machines as YAML: list, show, validate, detect, schema."""


@command.command("list")
@output_options
def list_profiles(out: Output) -> None:
    """All machines and accelerators that a plan can name."""
    from dsdeploy.hardware.profiles import parse_accelerator, parse_machine, parsed

    machines, wrong = parsed("machines", parse_machine)
    rows = [
        (file.name, m.description, f"{m.devices}", format_bytes(m.device_memory), file.origin)
        for file, m in machines
    ]
    out.table("machines", ("name", "what it is", "devices", "memory each", "whose"), rows, (2, 3))
    chips, wrong_chips = parsed("accelerators", parse_accelerator)
    about = [
        (file.name, chip.vendor, chip.architecture, _optional(chip.usable_memory),
         f"{format_bytes(chip.bandwidth)}/s", " ".join(chip.teraflops), file.origin)
        for file, chip in chips
    ]  # fmt: skip
    columns = ("name", "vendor", "architecture", "usable memory", "bandwidth", "computes", "whose")
    out.table("accelerators", columns, about, (3, 4))
    broken = [error.message for error in (*wrong, *wrong_chips)]
    for sentence in broken:
        out.remark(f"left out: {sentence}")
    out.result(
        {
            "machines": [_fields(m) | {"name": file.name} for file, m in machines],
            "accelerators": [_fields(chip) | {"name": file.name} for file, chip in chips],
            "left_out": broken,
        }
    )


def _optional(size: int | None) -> str:
    return "" if size is None else format_bytes(size)


@command.command("show")
@click.argument("name")
@output_options
def show(out: Output, name: str) -> None:
    """Everything that the machine or accelerator NAME, or a FILE, says."""
    from dsdeploy.hardware.profiles import load_accelerator, load_machine, profile_files

    machine = name in profile_files("machines") or name not in profile_files("accelerators")
    found = load_machine(name) if machine else load_accelerator(name)
    fields = _fields(found)
    out.line(dump_yaml(fields).rstrip("\n"))
    out.result(fields)


@command.command("validate")
@click.argument("file", type=click.Path(path_type=Path))
@output_options
def validate(out: Output, file: Path) -> None:
    """Whether FILE is a machine's profile; exit code 2 with the line or field if not."""
    from dsdeploy.hardware.profiles import load_machine

    if not file.is_file():
        raise UsageError(f"There is no file {file}.")
    machine = load_machine(str(file.absolute()))
    out.line(f"{file}: {machine.name}, {machine.devices} devices, is a machine's profile.")
    out.result({"valid": True, "name": machine.name})


@command.command("detect")
@click.option("--output", type=click.Path(path_type=Path), help="Write it there; default: print.")
@output_options
def detect_machine(out: Output, output: Path | None) -> None:
    """This machine as a profile, by NVML, amd-smi, rocm-smi or npu-smi, or the processor itself."""
    from dsdeploy.hardware.detect import detect

    machine = detect(Path.cwd())
    if output is not None:
        machine = machine.model_copy(update={"name": _name_of(output) or machine.name})
    fields = _fields(machine)
    text = "# Detected. The disk's rate is assumed.\n" + dump_yaml(fields)
    if output is None:
        out.line(text.rstrip("\n"))
    else:
        _write_new(output, text)
        out.line(f"{machine.description}: written to {output}.")
    out.result(fields)


@command.command("schema")
@click.option("--accelerator", is_flag=True, help="Of an accelerator in place of a machine.")
@output_options
def schema(out: Output, accelerator: bool) -> None:
    """The JSON Schema of a profile, for editors."""
    from dsdeploy.hardware.schema import profile_schema

    document = profile_schema("accelerator" if accelerator else "machine")
    out.line(json.dumps(document, indent=2))
    out.result(document)


def _fields(profile: BaseModel) -> dict[str, Any]:
    return profile.model_dump(mode="json", exclude_defaults=True)


def _name_of(file: Path) -> str:
    """`My Machine.yaml` -> my-machine."""
    return re.sub(r"[^a-z0-9.]+", "-", file.stem.lower()).strip("-.")


def _write_new(file: Path, text: str) -> None:
    try:
        with file.open("x", encoding="utf-8") as stream:
            stream.write(text)
    except FileExistsError:
        raise UsageError(
            f"{file} exists; it is left as it is.", "Give another name, or move it away."
        ) from None
