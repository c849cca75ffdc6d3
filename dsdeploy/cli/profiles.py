"""dsdeploy profiles: machines and accelerators, shown, checked and detected."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click
import yaml

from dsdeploy.cli.common import output_options
from dsdeploy.errors import UsageError
from dsdeploy.output import Output
from dsdeploy.units import format_bytes


@click.group("profiles")
def command() -> None:
    """Machines as YAML: list, show, validate, detect, schema."""


@command.command("list")
@output_options
def list_profiles(out: Output) -> None:
    """All machines and accelerators that a plan can name."""
    from dsdeploy.hardware.profiles import load_accelerator, parse_machine, profile_files

    files = profile_files("machines").values()
    machines = [(file, parse_machine(file)) for file in files]
    rows = [
        (m.name, m.description, f"{m.devices}", format_bytes(m.device_memory), file.origin)
        for file, m in machines
    ]
    out.table("machines", ("name", "what it is", "devices", "memory each", "whose"), rows, (2, 3))
    chips = [(file, load_accelerator(name)) for name, file in profile_files("accelerators").items()]
    about = [
        (file.name, chip.vendor, chip.architecture, _optional(chip.usable_memory),
         f"{format_bytes(chip.bandwidth)}/s", " ".join(chip.teraflops), file.origin)
        for file, chip in chips
    ]  # fmt: skip
    columns = ("name", "vendor", "architecture", "usable memory", "bandwidth", "computes", "whose")
    out.table("accelerators", columns, about, (3, 4))
    out.result(
        {
            "machines": [m.model_dump(mode="json", exclude_defaults=True) for _, m in machines],
            "accelerators": [c.model_dump(mode="json", exclude_defaults=True) for _, c in chips],
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
    fields = found.model_dump(mode="json", exclude_defaults=True)
    out.line(_as_yaml(fields).rstrip("\n"))
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
        machine = machine.model_copy(update={"name": output.stem.lower()})
    fields = machine.model_dump(mode="json", exclude_defaults=True)
    text = "# Detected. The disk's rate is assumed.\n" + _as_yaml(fields)
    if output is None:
        out.line(text.rstrip("\n"))
    else:
        with output.open("x", encoding="utf-8") as stream:
            stream.write(text)
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


def _as_yaml(fields: dict[str, Any]) -> str:
    return yaml.safe_dump(fields, sort_keys=False, allow_unicode=True)
