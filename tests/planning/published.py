"""Rows of tests/data/published.yaml beside what the planner says of them.

Speeds that were measured while serving include prefill, so they are compared with decoding and
prefill together.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from dsdeploy.deploy.backend import backend_names, load_backend
from dsdeploy.hardware.profiles import load_machine
from dsdeploy.model.formats import FORMATS
from dsdeploy.planning.interval import Interval
from dsdeploy.planning.layout import Layout
from dsdeploy.planning.memory import device_memory
from dsdeploy.planning.models import find_model
from dsdeploy.planning.planner import Wish, plan
from dsdeploy.planning.speed import Roofline

PUBLISHED = yaml.safe_load(
    (Path(__file__).parent.parent / "data" / "published.yaml").read_text(encoding="utf-8")
)
RULES = {name: load_backend(name).rules() for name in backend_names()}


@dataclass(frozen=True)
class Comparison:
    row: dict[str, Any]
    interval: Interval
    published: float

    @property
    def inside(self) -> bool:
        return self.published in self.interval


def speeds(rows: list[dict[str, Any]]) -> Iterator[Comparison]:
    """Of the rows that say how the model lay, how many requests there were and how long."""
    for row in rows:
        lengths = "context" in row or ("input" in row and "output" in row)
        whole = row["what"] == "prefill" and "input" in row
        if "layout" in row and ("batch" in row or whole) and (lengths or whole):
            yield Comparison(row, _modelled(row), row["tokens_per_second"])


def backend_of(row: dict[str, Any]) -> str:
    """SGLang on AMD and vLLM on Ascend are backends of their own here."""
    vendor = load_machine(row["machine"]).accelerator.vendor
    ported = {
        ("amd", "sglang"): "rocm",
        ("amd", "vllm"): "rocm-vllm",
        ("huawei", "vllm"): "vllm-ascend",
    }
    return ported.get((vendor, row["backend"]), row["backend"])


def _setting(row: dict[str, Any]) -> tuple[Any, ...]:
    return (
        find_model(row["model"]).config, load_machine(row["machine"]), RULES[backend_of(row)],
        FORMATS[row["precision"]], Layout(**row["layout"]), "bf16",
    )  # fmt: skip


def _modelled(row: dict[str, Any]) -> Interval:
    """With as many requests at once as find room: the others wait."""
    roofline = Roofline(*_setting(row))
    given, answer = row.get("input", 0), row.get("output", 0)
    if row["what"] == "prefill":
        return roofline.prefill(given or row["context"])
    context = row.get("context") or given + answer // 2
    mtp = row.get("mtp", False)
    room = device_memory(*_setting(row), mtp).largest_concurrency(context)
    decode = roofline.decode(max(1, min(row["batch"], room)), context, mtp)
    if row.get("phase") != "serving" and row["what"] != "total":
        return decode
    prefill = roofline.prefill(max(given, 1))
    counted = answer + given if row["what"] == "total" else answer
    return Interval(
        counted / (answer / decode.low + given / prefill.low),
        counted / (answer / decode.high + given / prefill.high),
    )


def fits(rows: list[dict[str, Any]]) -> Iterator[tuple[dict[str, Any], str]]:
    """(row, the planner's verdict) with one request of 4,096 tokens."""
    for row in rows:
        wish = Wish(context=4096, concurrency=1, precision=row["precision"])
        rules = {backend_of(row): RULES[backend_of(row)]}
        outcome = plan(find_model(row["model"]), load_machine(row["machine"]), rules, wish)
        yield row, outcome.chosen.verdict if outcome.chosen else "no"


def weights(rows: list[dict[str, Any]]) -> Iterator[tuple[dict[str, Any], float, float]]:
    """(row, bytes by the planner, bytes logged)"""
    for row in rows:
        memory = device_memory(*_setting(row), row["mtp"])
        yield row, memory.weight_bytes, row.get("gib", row.get("gb", 0)) * 2**30
