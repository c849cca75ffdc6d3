"""Measures on this card who computes a model's products fastest, at each number of rows."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version

import torch
from torch import Tensor

from dsdeploy.errors import UsageError
from dsdeploy.model.config import ModelConfig
from dsdeploy.runner.device import device_named
from dsdeploy.runner.gpu.matmul import Arithmetic
from dsdeploy.runner.gpu.table import Entry
from dsdeploy.runner.gpu.tiles import Card
from dsdeploy.runner.gpu.trials import (
    Candidate,
    Operands,
    Trial,
    decode_trial,
    expert_trial,
    linear_shapes,
    linear_trial,
)
from dsdeploy.runner.ops import INTERPRETED, HeadShape

_CONTEXT = 4096
_FURTHEST = 0.02
"""From what the first candidate computes, relative: what rounding to BF16 and FP8 explains."""
_LIBRARIES = ("torch", "triton", "deep_gemm", "flash_mla")
Timer = Callable[[Callable[[], object]], float]


@dataclass(frozen=True)
class Measured:
    trial: Trial
    entry: Entry
    """The fastest."""
    default: float
    """Microseconds of the first candidate."""
    refused: tuple[str, ...]
    """Who did not compute it, or not that, and why."""


def trials(
    config: ModelConfig, rows: Sequence[int], context: int,
    device: torch.device, card: Card, arithmetic: Arithmetic,
) -> Iterator[Trial]:  # fmt: skip
    """One after the other, so that only one's operands are in memory."""
    operands = Operands.on(device)
    shape = HeadShape.of(config, 1)
    slots = config.n_routed_experts + (config.n_shared_experts == 1)
    for count in rows:
        for label, (outputs, k) in linear_shapes(config).items():
            yield linear_trial(label, outputs, k, count, operands, card, arithmetic)
        yield expert_trial(config, slots, count, operands, card, arithmetic)
    dtype = torch.float32 if device.type == "cpu" else arithmetic.dtype
    for count in rows:
        if count * min(context, _CONTEXT) <= 128 * _CONTEXT:
            yield decode_trial(shape, count, context, dtype, operands, card)


def measure(trial: Trial, timer: Timer) -> Measured:
    """Raises RuntimeError when the first candidate itself does not compute."""
    first = trial.candidates[0]
    expected = first.compute().clone()
    default = timer(first.compute)
    best, refused = replace(first.entry, microseconds=default), []
    for candidate in trial.candidates[1:]:
        reason = _unfit(candidate, expected)
        if reason:
            refused.append(f"{_name(candidate.entry)}: {reason}")
            continue
        microseconds = timer(candidate.compute)
        if microseconds < best.microseconds:
            best = replace(candidate.entry, microseconds=microseconds)
    return Measured(trial, best, default, tuple(refused))


def _unfit(candidate: Candidate, expected: Tensor) -> str | None:
    """A library may be built for another card, and a tile be too large for this one."""
    try:
        found = candidate.compute()
        distance = float((found - expected).norm() / expected.norm())
    except Exception as error:
        return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
    return None if distance <= _FURTHEST else f"is {distance:.1%} from what it should be"


def _name(entry: Entry) -> str:
    return entry.by if entry.by != "triton" else f"triton {entry.tiles or entry.decode}"


def gpu_named(name: str) -> torch.device:
    """Raises UsageError where there is none, unless the interpreter computes in its place."""
    device = device_named(name)
    if device.type == "cuda" or (device.type == "cpu" and INTERPRETED):
        return device
    raise UsageError(
        f"{name!r} is no GPU, whose kernels could be measured.",
        "Run it on the machine that serves, with --device cuda.",
    )


def timer_of(device: torch.device) -> Timer:
    """Microseconds of a call, the median of many with the caches cold; of one in the interpreter."""
    if device.type == "cpu":
        return _once
    from triton.testing import do_bench

    return lambda call: 1000 * float(do_bench(call, warmup=5, rep=25, return_mode="median"))


def _once(call: Callable[[], object]) -> float:
    begun = time.perf_counter()
    call()
    return 1e6 * (time.perf_counter() - begun)


def versions() -> dict[str, str]:
    """Of what was measured, where it is installed."""
    found = {}
    for name in _LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
