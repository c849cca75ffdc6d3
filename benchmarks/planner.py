"""The planner beside what others have published: `python benchmarks/planner.py [--json FILE] [-v]`.

Reads tests/data/published.yaml, whose every row has its source.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

from measure import machine as this_machine
from report import Row, Target, document, markdown

ROOT = Path(__file__).parent.parent
sys.path.append(str(ROOT / "tests" / "planning"))

from published import PUBLISHED, Comparison, fits, speeds, weights  # noqa: E402

DSDEPLOY = Path(sys.executable).parent / "dsdeploy"


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
    rows: list[Row] = []
    judged = list(fits(PUBLISHED["fits"]))
    agree = [row for row, verdict in judged if row["runs"] == (verdict != "no")]
    how = f"{len(judged)} published rows"
    rows.append(
        Row("what runs: the planner agrees", 100 * len(agree) / len(judged), "%", None, how)
    )
    found = list(speeds(PUBLISHED["speed"]))
    rows += _shares(found)
    command = ("plan", "DeepSeek-V3", "--profile", "8xh200")
    rows.append(Row("plan for 8xh200, whole command", seconds_of(*command), "s", Target("<", 0.7)))
    many = ROOT / "benchmarks" / "8x8xh100.yaml"
    command = ("plan", "DeepSeek-V3", "--profile", str(many))
    rows.append(Row("plan for 8 nodes, whole command", seconds_of(*command), "s", Target("<", 2)))
    command = ("render", "DeepSeek-V3", "--profile", "8xh200", "--target", "kubernetes", "--stdout")
    rows.append(
        Row("render for 8xh200, whole command", seconds_of(*command), "s", Target("<", 0.7))
    )
    if arguments.verbose:
        _show(judged, found)
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


def _show(judged: list[Any], found: list[Comparison]) -> None:
    for row, verdict in judged:
        if row["runs"] != (verdict != "no"):
            print("fits", row["machine"], row["backend"], row["precision"], row["runs"], verdict)
    for row, planned, logged in weights(PUBLISHED["weights"]):
        print("weights", row["machine"], row["backend"], row["precision"],
              f"{planned / 2**30:.2f} GiB planned, {logged / 2**30:.2f} logged")  # fmt: skip
    for comparison in found:
        row, interval = comparison.row, comparison.interval
        if not comparison.inside:
            side = "slower" if comparison.published < interval.low else "faster"
            print(side, row["machine"], row["backend"], row["precision"], row["layout"],
                  row.get("batch"), row.get("input"), row.get("output"), row["what"],
                  f"{comparison.published:.0f} not in {interval.low:.0f} to {interval.high:.0f}",
                  row["source"][:60])  # fmt: skip


if __name__ == "__main__":
    main()
