"""The share of one machine among several: `--part 2/8`, or read off the scheduler's variables."""

from __future__ import annotations

import os

from dsdeploy.building.output import Part
from dsdeploy.errors import UsageError


def parse_part(text: str) -> Part:
    """`2/8`, or `auto` from Slurm's array or Kubernetes' indexed job."""
    if text == "auto":
        return _part_from_environment()
    index, _, count = text.partition("/")
    if not (index.isdecimal() and count.isdecimal() and 1 <= int(index) <= int(count)):
        raise UsageError(f"--part {text} is not i/n.", "The first of four parts is --part 1/4.")
    return Part(int(index), int(count))


def _part_from_environment() -> Part:
    environment = os.environ
    if "SLURM_ARRAY_TASK_ID" in environment:
        first = _number("SLURM_ARRAY_TASK_MIN", "0")
        return _part(_number("SLURM_ARRAY_TASK_ID") - first, _number("SLURM_ARRAY_TASK_COUNT"))
    if "JOB_COMPLETION_INDEX" in environment:
        return _part(_number("JOB_COMPLETION_INDEX"), _number("JOB_COMPLETION_COUNT"))
    raise UsageError(
        "--part auto found neither SLURM_ARRAY_TASK_ID nor JOB_COMPLETION_INDEX.",
        "Run it in a Slurm array or an indexed Kubernetes job, or give --part i/n.",
    )


def _part(position: int, count: int) -> Part:
    if not 0 <= position < count:
        raise UsageError(
            f"--part auto: index {position} is not one of {count} parts.",
            "Number the array's tasks without gaps, for example --array=0-7.",
        )
    return Part(position + 1, count)


def _number(variable: str, default: str = "") -> int:
    text = os.environ.get(variable, default)
    if not text.isdecimal():
        raise UsageError(
            f"--part auto: {variable} is {text!r}, not a number.",
            f"Set {variable} in the job, or give --part i/n.",
        )
    return int(text)
