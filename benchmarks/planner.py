"""The planner beside what others have published: `python benchmarks/planner.py [--json FILE] [-v]`.

Reads tests/data/published.yaml, whose every row has its source. Speeds that were measured while
serving include prefill, so they are compared with decoding and prefill together.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import yaml
from measure import machine as this_machine
from report import Row, Target, document, markdown

from dsdeploy.deploy.backend import backend_names, load_backend
from dsdeploy.hardware.profiles import load_machine
from dsdeploy.model.formats import FORMATS
from dsdeploy.planning.interval import Interval
from dsdeploy.planning.layout import Layout
from dsdeploy.planning.memory import device_memory
from dsdeploy.planning.models import find_model
from dsdeploy.planning.planner import Wish, plan
from dsdeploy.planning.speed import Roofline

ROOT = Path(__file__).parent.parent
PUBLISHED = ROOT / "tests" / "data" / "published.yaml"
DSDEPLOY = Path(sys.executable).parent / "dsdeploy"
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
    """The engines' documents call SGLang on AMD SGLang; here it is a backend of its own."""
    vendor = load_machine(row["machine"]).accelerator.vendor
    return {"amd": "rocm"}.get(vendor, row["backend"])


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


def seconds_of(*arguments: str) -> float:
    """Of the whole command, the median of seven."""
    times = []
    for _ in range(7):
        begun = time.perf_counter()
        subprocess.run([DSDEPLOY, *arguments], capture_output=True, check=True)
        times.append(time.perf_counter() - begun)
    return median(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, help="save the table there as well")
    parser.add_argument("-v", "--verbose", action="store_true", help="show each row that differs")
    arguments = parser.parse_args()
    published = yaml.safe_load(PUBLISHED.read_text(encoding="utf-8"))
    rows: list[Row] = []
    judged = list(fits(published["fits"]))
    agree = [row for row, verdict in judged if row["runs"] == (verdict != "no")]
    how = f"{len(judged)} published rows"
    rows.append(
        Row("what runs: the planner agrees", 100 * len(agree) / len(judged), "%", None, how)
    )
    found = list(speeds(published["speed"]))
    rows += _shares(found)
    command = ("plan", "DeepSeek-V3", "--profile", "8xh200")
    rows.append(Row("plan for 8xh200, whole command", seconds_of(*command), "s", Target("<", 0.7)))
    many = ROOT / "benchmarks" / "8x8xh100.yaml"
    command = ("plan", "DeepSeek-V3", "--profile", str(many))
    rows.append(Row("plan for 8 nodes, whole command", seconds_of(*command), "s", Target("<", 2)))
    if arguments.verbose:
        _show(judged, found, published)
    facts = this_machine(ROOT)
    print(markdown(facts, rows))
    if arguments.json:
        arguments.json.write_text(json.dumps(document(facts, rows), indent=2) + "\n")


def _shares(found: list[Comparison]) -> Iterator[Row]:
    inside = sum(comparison.inside for comparison in found)
    how = f"{inside} of {len(found)}"
    yield Row("published speeds inside the interval", 100 * inside / len(found), "%", None, how)
    for what in ("decode", "prefill", "total"):
        some = [comparison for comparison in found if comparison.row["what"] == what]
        inside = sum(comparison.inside for comparison in some)
        if some:
            name = f"of these, {what}"
            yield Row(name, 100 * inside / len(some), "%", None, f"{inside} of {len(some)}")
    width = median(comparison.interval.high / comparison.interval.low for comparison in found)
    yield Row("width of the intervals, high / low", width, "x", None, "median")


def _show(judged: list[Any], found: list[Comparison], published: dict[str, Any]) -> None:
    for row, verdict in judged:
        if row["runs"] != (verdict != "no"):
            print("fits", row["machine"], row["backend"], row["precision"], row["runs"], verdict)
    for row, planned, logged in weights(published["weights"]):
        print("weights", row["machine"], row["backend"], row["precision"],
              f"{planned / 2**30:.2f} GiB planned, {logged / 2**30:.2f} logged")  # fmt: skip
    sides: Counter[tuple[str, ...]] = Counter()
    for comparison in found:
        row, interval = comparison.row, comparison.interval
        side = (
            "in" if comparison.inside else "slow" if comparison.published < interval.low else "fast"
        )
        sides[(row["backend"], row["machine"], row["what"], row.get("phase", ""), side)] += 1
        if side != "in":
            print(side, row["machine"], row["backend"], row["precision"], row["layout"],
                  row.get("batch"), row.get("input"), row.get("output"), row["what"],
                  row.get("phase"), "mtp" if row.get("mtp") else "",
                  f"{comparison.published:.0f} not in {interval.low:.0f} to {interval.high:.0f}",
                  row["source"][:60])  # fmt: skip
    for key, count in sorted(sides.items()):
        print(count, *key)


if __name__ == "__main__":
    main()
