"""dsdeploy tune: measure the native runner's kernels on this card, and remember the fastest."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from dsdeploy.cli.common import output_options
from dsdeploy.cli.runner_options import demand_installed
from dsdeploy.output import Output

if TYPE_CHECKING:
    from dsdeploy.runner.gpu.table import Entry
    from dsdeploy.runner.gpu.tune import Measured

_ROWS = (1, 8, 16, 32, 64, 128, 512, 2048, 8192)


@click.command("tune")
@click.argument("model", default="DeepSeek-V3")
@click.option("--device", default="cuda", show_default=True, help="cuda or cuda:N.")
@click.option(
    "--rows",
    type=click.IntRange(1),
    multiple=True,
    default=_ROWS,
    show_default=True,
    help="Tokens of a step to measure with.",
)
@click.option(
    "--context",
    type=click.IntRange(1),
    default=4096,
    show_default=True,
    help="Keys that each decoding query sees.",
)
@click.option(
    "--out",
    "path",
    type=click.Path(path_type=Path),
    help="Default: where the native runner looks for it.",
)
@output_options
def command(
    out: Output, model: str, device: str, rows: tuple[int, ...], context: int, path: Path | None
) -> None:
    """Measure who computes the products of MODEL fastest on this GPU, and write it down.

    Only the config of MODEL is read: a known name, or a checkpoint's folder. The native runner
    uses the table from its next start on; without one it takes tiles that do well on most cards.
    """
    demand_installed("torch", "triton")
    from dsdeploy.planning.models import find_model
    from dsdeploy.runner.gpu.matmul import arithmetic_of
    from dsdeploy.runner.gpu.table import Table, save_table, table_path
    from dsdeploy.runner.gpu.tiles import card_of
    from dsdeploy.runner.gpu.tune import gpu_named, measure, timer_of, trials, versions

    config, chosen = find_model(model).config, gpu_named(device)
    card = card_of(chosen)
    arithmetic, timer = arithmetic_of(chosen, False), timer_of(chosen)
    found: list[Measured] = []
    with out.status_line() as status:
        for trial in trials(config, sorted(set(rows)), context, chosen, card, arithmetic):
            first = trial.candidates[0].entry
            status.show(f"{trial.label}, {first.rows} rows: {len(trial.candidates)} candidates")
            found.append(measure(trial, timer))
    target = path or table_path(card)
    save_table(Table(card.name, versions(), tuple(m.entry for m in found)), target)
    out.table(card.name, _COLUMNS, map(_row, found), range(1, 6))
    for refusal in dict.fromkeys(r for m in found for r in m.refused):
        out.remark(f"note: {refusal}")
    out.line(f"{target}: {len(found)} products.")
    out.result({"card": card.name, "file": str(target), "products": [_facts(m) for m in found]})


_COLUMNS = ("product", "rows", "us", "GB/s", "TFLOP/s", "untuned us", "by")


def _row(measured: Measured) -> tuple[str, ...]:
    trial, entry = measured.trial, measured.entry
    seconds = entry.microseconds / 1e6
    return (
        trial.label,
        str(entry.rows),
        f"{entry.microseconds:.1f}",
        f"{trial.nbytes / seconds / 1e9:,.0f}",
        f"{trial.operations / seconds / 1e12:.1f}",
        f"{measured.default:.1f}",
        _by(entry),
    )


def _by(entry: Entry) -> str:
    cut = [f"{t.rows}x{t.columns}/{t.warps}/{t.stages}" for t in entry.tiles]
    if entry.decode:
        cut = [f"{entry.decode.heads} heads, {entry.decode.splits} splits"]
    return f"{entry.by} {', '.join(cut)}".rstrip()


def _facts(measured: Measured) -> dict[str, object]:
    trial, entry = measured.trial, measured.entry
    return {
        "product": trial.label,
        "rows": entry.rows,
        "by": entry.by,
        "microseconds": entry.microseconds,
        "untuned_microseconds": measured.default,
        "bytes": trial.nbytes,
        "operations": trial.operations,
        "refused": list(measured.refused),
    }
