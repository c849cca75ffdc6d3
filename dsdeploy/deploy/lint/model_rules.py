"""What does not go with the model's own numbers, where the model is known without the network."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from dsdeploy.deploy.backend import backend_names, load_backend
from dsdeploy.deploy.lint.calls import Call
from dsdeploy.deploy.lint.finding import Finding
from dsdeploy.deploy.lint.found import UNKNOWN
from dsdeploy.errors import DeployError
from dsdeploy.hardware.profile import Machine
from dsdeploy.model.formats import FORMATS
from dsdeploy.planning.layout import Layout, cannot_be_split
from dsdeploy.planning.memory import device_memory
from dsdeploy.planning.models import KNOWN, PlannedModel, find_model
from dsdeploy.planning.rules import Rules
from dsdeploy.units import format_bytes

_TENSOR = ("--tensor-parallel-size", "--tp-size", "--tp_size", "--tp")
_PIPELINE = ("--pipeline-parallel-size", "--pp-size", "--pp_size", "--pp")
_DATA = ("--data-parallel-size", "--dp-size", "--dp")
_EXPERT = ("--ep-size", "--expert-parallel-size", "--ep_size", "--ep")


def known_model(call: Call) -> PlannedModel | None:
    """A folder with a config.json, or one of those that ship with us, also as a folder's name."""
    text = call.model or ""
    names = {known.rpartition("/")[2].lower() for known in KNOWN}
    name = text.rstrip("/").rpartition("/")[2]
    try:
        if text and UNKNOWN not in text and (Path(text) / "config.json").is_file():
            return find_model(text)
        return find_model(name) if name.lower() in names else None
    except (DeployError, OSError):
        return None


def rules_of(call: Call) -> Rules:
    """Of the backend whose command this is."""
    for name in backend_names():
        backend = load_backend(name)
        if call.command in backend.command_lines:
            return backend.rules()
    raise LookupError(call.command)


def layout_of(call: Call) -> Layout | None:
    """None if it cannot be told."""
    sizes = [call.number(*names) for names in (_TENSOR, _PIPELINE, _DATA, _EXPERT)]
    if any(size is None or size < 1 for size in sizes):
        return None
    tensor, pipeline, data, expert = (size or 1 for size in sizes)
    if call.option("--enable-expert-parallel"):
        expert = tensor * data
    if call.engine == "vllm":
        return Layout(tensor, pipeline, data, expert)
    attention = call.number("--attn-dp-size", default=0)
    shares = attention or (data if call.option("--enable-dp-attention") else 1)
    if tensor % shares or tensor % expert:
        return None
    return Layout(tensor // shares, pipeline, shares, expert)


def fp8_quantization_flag(call: Call, model: PlannedModel) -> Iterator[Finding]:
    option = call.option("--quantization")
    if option and option.value == "fp8" and model.stored == "fp8":
        message = "These weights are FP8 already: --quantization fp8 is for BF16 weights, and quantises them per tensor."
        yield Finding(option.word.start, "error", "fp8-quantization-flag", message, "leave it out")


def fp8_tensor_parallel(call: Call, model: PlannedModel) -> Iterator[Finding]:
    layout, option = layout_of(call), call.option(*_TENSOR)
    if layout is None or option is None or call.value("--quantization") not in (None, "fp8"):
        return
    splits = rules_of(call).splits(layout)
    reason = cannot_be_split(model.config, splits, FORMATS[model.stored])
    if reason is not None:
        message = f"{model.stored.upper()} weights cannot be split so: {reason}."
        fix = "a tensor group of at most 16 devices, and pipeline stages"
        yield Finding(option.word.start, "error", "fp8-tensor-parallel", message, fix)


def memory_below_weights(call: Call, model: PlannedModel, machine: Machine) -> Iterator[Finding]:
    layout, rules = layout_of(call), rules_of(call)
    fraction, kept = rules.memory.fraction, FORMATS[model.stored]
    share = _share(call.value(fraction.flag), fraction.default)
    if layout is None or share is None or fraction.of not in ("total", "static"):
        return
    if call.option("--quantization") or cannot_be_split(model.config, rules.splits(layout), kept):
        return
    memory = device_memory(model.config, machine, rules, kept, layout, "bf16", False)
    allowed = share * memory.total
    if allowed < memory.weight_bytes:
        option = call.option(fraction.flag)
        message = (
            f"{fraction.flag} {share:g} allows {format_bytes(allowed)} of a device of {machine.name}, "
            f"and its weights alone are {format_bytes(memory.weight_bytes)}."
        )
        least = memory.weight_bytes / memory.total
        fix = (
            f"more than {least:.2f}" if least < fraction.most else "more devices, or other weights"
        )
        at = option.word.start if option else call.at
        yield Finding(at, "error", "memory-fraction-below-weights", message, fix)


def _share(text: str | None, default: float | None) -> float | None:
    if text is None:
        return default
    try:
        return float(text)
    except ValueError:
        return None


def check_model(call: Call, machine: Machine | None) -> Iterator[Finding]:
    model = known_model(call)
    if model is None:
        return
    yield from fp8_quantization_flag(call, model)
    yield from fp8_tensor_parallel(call, model)
    if machine is not None:
        yield from memory_below_weights(call, model, machine)
