"""dsdeploy download: a repository's files, whole and verified, or gone on with."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from dsdeploy.cli.common import output_options
from dsdeploy.cli.hub_options import Reach, reach_options
from dsdeploy.errors import DeployError, ExitCode, UsageError
from dsdeploy.output import Output
from dsdeploy.units import format_bytes, parse_bytes

if TYPE_CHECKING:
    from dsdeploy.hub.download import Order, Result
    from dsdeploy.hub.folder import Begun, Survey

_SHOWN = 20


@click.command("download")
@click.argument("source", metavar="REPO|FOLDER")
@click.option("--revision", help="Branch, tag or commit; default: main.")
@click.option("--to", "target", type=click.Path(path_type=Path), help="Default: ./NAME.")
@click.option("--include", multiple=True, metavar="GLOB", help="Only these files, of any kind.")
@click.option("--exclude", multiple=True, metavar="GLOB", help="Not these.")
@click.option(
    "--workers", type=click.IntRange(1, 64), default=8, show_default=True, help="Connections."
)
@click.option("--max-rate", metavar="BYTES", help="A second, of all together, as in 100MB.")
@click.option("--verify", is_flag=True, help="Read the folder again instead, without network.")
@click.option("--overwrite", is_flag=True, help="Replace other files in the folder.")
@click.option("--dry-run", is_flag=True, help="Say what would come; write nothing.")
@output_options
@reach_options
def command(
    out: Output,
    reach: Reach,
    source: str,
    revision: str | None,
    target: Path | None,
    include: tuple[str, ...],
    exclude: tuple[str, ...],
    workers: int,
    max_rate: str | None,
    verify: bool,
    overwrite: bool,
    dry_run: bool,
) -> None:
    """Download the model of a repository (OWNER/NAME), or copy a FOLDER that was downloaded.

    Without code, pickles and images, unless --include names them. Each file is verified by its
    hash before it gets its name. Killed at any moment, the same command goes on.
    """
    from dsdeploy.hub.download import Order, download, preview
    from dsdeploy.hub.source import find_source

    found = find_source(source, revision, reach.endpoint, reach.retries)
    folder = target or Path(found.name)
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{folder} is a file.", "Give a folder to --to.")
    rate = parse_bytes(max_rate) if max_rate else None
    order = Order(folder, include, exclude, overwrite, workers, rate, reach.retries)
    if verify:
        _verify(out, order)
        return
    if dry_run:
        _show_plan(out, order, *preview(found, order, out))
        return
    try:
        _report(out, order, download(found, order, out))
    except KeyboardInterrupt:
        raise DeployError(
            f"Interrupted; what has come stays in {folder}.",
            "Run the same command again to go on.",
            ExitCode.INTERRUPTED,
        ) from None


def _show_plan(out: Output, order: Order, begun: Begun, found: Survey) -> None:
    from dsdeploy.checkpoint.direct import free_bytes

    files, free = begun.listing.files, free_bytes(order.target)
    total = sum(file.size for file in files)
    there = total - found.missing_bytes
    rows = [(file.path, format_bytes(file.size)) for file in files[:_SHOWN]]
    out.table(f"{len(files)} files for {order.target}", ["file", "size"], rows, right=[1])
    if len(files) > _SHOWN:
        out.line(f"... and {len(files) - _SHOWN} more; --json lists them all.")
    out.line(
        f"{format_bytes(total)} in all, {format_bytes(there)} there, "
        f"{format_bytes(found.missing_bytes)} to come, {format_bytes(free)} free."
    )
    out.result(
        {
            "target": str(order.target),
            "source": dict(begun.listing.source),
            "files": [{"path": file.path, "bytes": file.size} for file in files],
            "bytes": total,
            "missing_bytes": found.missing_bytes,
            "free_bytes": free,
            "in_the_way": [file.path for file in found.in_the_way],
        }
    )


def _report(out: Output, order: Order, result: Result) -> None:
    files = result.manifest.files.values()
    total = sum(record.size for record in files)
    if result.fetched_bytes:
        out.line(f"{order.target}: {len(files)} files, {format_bytes(total)}, whole and verified.")
    else:
        out.line(f"{order.target} is complete already: {len(files)} files, {format_bytes(total)}.")
    out.result(
        {
            "target": str(order.target),
            "source": dict(result.manifest.source),
            "files": len(files),
            "bytes": total,
            "fetched_bytes": result.fetched_bytes,
            "retries": result.retries,
        }
    )


def _verify(out: Output, order: Order) -> None:
    from dsdeploy.checkpoint.manifest import MANIFEST_NAME
    from dsdeploy.hub.folder import find_damage, read_held

    manifest = read_held(order.target).manifest
    if manifest is None:
        raise UsageError(
            f"{order.target} has no {MANIFEST_NAME}: it is not whole, or not a download of ours.",
            "Run the same command without --verify: what is there already is kept.",
        )
    total = sum(record.size for record in manifest.files.values())
    with out.progress("verify", total) as bar:
        damage = find_damage(manifest, order.target, order.workers, bar.advance)
    out.result({"target": str(order.target), "bytes": total, "damage": damage})
    if not damage:
        out.line(f"{order.target}: {len(manifest.files)} files, {format_bytes(total)}, undamaged.")
        return
    for sentence in damage:
        out.problem(f"error: {sentence}.")
    out.problem("  fix: Remove these files and run the same command without --verify.")
    sys.exit(ExitCode.INTEGRITY)
