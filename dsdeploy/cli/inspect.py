"""dsdeploy inspect: what a checkpoint is, and whether it is whole."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from dsdeploy.cli.common import output_options, workers_option
from dsdeploy.cli.hub_options import SCHEME, Reach, reach_options
from dsdeploy.errors import ExitCode
from dsdeploy.output import Output
from dsdeploy.units import format_bytes, format_count

if TYPE_CHECKING:
    from dsdeploy.checkpoint.findings import Finding
    from dsdeploy.checkpoint.manifest import Manifest
    from dsdeploy.checkpoint.reader import Checkpoint
    from dsdeploy.checkpoint.summary import Summary

_SHOWN = 25


@click.command("inspect")
@click.argument("checkpoint")
@click.option("--deep", is_flag=True, help="Read the data as well: values, zeros, hashes.")
@workers_option
@output_options
@reach_options
def command(out: Output, reach: Reach, checkpoint: str, deep: bool, workers: int) -> None:
    """Say what CHECKPOINT, a folder or hf://OWNER/NAME[@REVISION], is, and whether it is whole.

    Exit code 4 when something is wrong with it. --deep compares with MANIFEST.json as well,
    where there is one.
    """
    from dsdeploy.checkpoint.audit import audit
    from dsdeploy.checkpoint.deep import inspect_data
    from dsdeploy.checkpoint.summary import summarise

    opened, manifest = _open(out, reach, checkpoint)
    summary = summarise(opened)
    show_summary(out, checkpoint, summary)
    findings = audit(opened)
    hashes: dict[str, str] = {}
    if deep:
        with out.progress("read", summary.file_bytes) as bar:
            hashes, more = inspect_data(opened, manifest, workers, bar.advance)
        findings = sorted([*findings, *more], key=lambda finding: finding.severity != "error")
        rows = [(name, digest) for name, digest in hashes.items()]
        out.table("sha256", ["file", "sha256"], rows)
    errors = sum(finding.severity == "error" for finding in findings)
    show_findings(out, findings, errors, deep)
    out.result(
        {
            "checkpoint": checkpoint,
            **asdict(summary),
            "tensor_bytes": summary.tensor_bytes,
            "whole": errors == 0,
            "findings": [asdict(finding) for finding in findings],
            "sha256": hashes,
        }
    )
    if errors:
        sys.exit(ExitCode.INTEGRITY)


def _open(out: Output, reach: Reach, text: str) -> tuple[Checkpoint, Manifest | None]:
    from dsdeploy.checkpoint.manifest import read_manifest
    from dsdeploy.checkpoint.reader import open_checkpoint
    from dsdeploy.cli.hub_source import open_repository

    if text.startswith(SCHEME):
        store = open_repository(text, reach, out, None).store
        return open_checkpoint(store), store.stated()
    return open_checkpoint(Path(text)), read_manifest(Path(text))


def show_summary(out: Output, where: str, summary: Summary) -> None:
    dense, moe, mtp = summary.dense_layers, summary.moe_layers, summary.mtp_layers
    experts = f"{summary.routed_experts} routed and {summary.shared_experts} shared"
    scales = f", FP8 scales {summary.scale_format}" if summary.scale_format else ""
    of_mtp = f", and {format_count(summary.mtp_parameters)} in the MTP layer" if mtp else ""
    files = "per-rank files of the demo" if summary.ranks else "shards"
    rows = [
        ("model", f"{summary.variant} ({summary.architecture}{scales})"),
        ("parameters", f"{summary.parameters:,} ({format_count(summary.parameters)}){of_mtp}"),
        ("layers", f"{dense} dense, {moe} mixture of experts, {mtp} multi-token prediction"),
        ("experts", f"{experts} a layer, {summary.experts_per_token} a token"),
        ("tensors", f"{summary.tensors:,}"),
        ("tensor bytes", f"{summary.tensor_bytes:,} ({format_bytes(summary.tensor_bytes)})"),
        ("files", f"{summary.files} {files}, {format_bytes(summary.file_bytes)}"),
    ]
    out.table(where, ["", ""], rows)
    out.bar([(dtype, size) for dtype, size in summary.bytes_by_dtype.items()])


def show_findings(out: Output, findings: list[Finding], errors: int, deep: bool) -> None:
    for finding in findings[:_SHOWN]:
        where = f" [{finding.file}]" if finding.file and finding.file not in finding.message else ""
        say = out.problem if finding.severity == "error" else out.line
        say(f"{finding.severity}: {finding.message}{where}.")
        if finding.fix:
            say(f"  fix: {finding.fix}")
    if len(findings) > _SHOWN:
        out.line(f"... and {len(findings) - _SHOWN} more; --json lists them all.")
    if errors:
        out.line(f"Not whole: {errors} error(s).")
    elif deep:
        out.line("Whole: headers, index and data agree.")
    else:
        out.line("Whole: headers and index agree (--deep reads the data as well).")
