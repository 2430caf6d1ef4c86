"""``medseg convert``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from medseg.cli.options import Key, Policies, Pseudonymize, Scans, SeriesRule, Workdir
from medseg.cli.screen import console, show_no_scan, show_unread

if TYPE_CHECKING:
    from medseg.batch.convert_folder import Conversion, ConversionSummary


def convert(
    scans: Scans,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the volumes; not inside SCANS.")],
    redo: Annotated[bool, typer.Option(help="Convert again what is already done.")] = False,
    policy: Policies = None,
    series_rule: SeriesRule = None,
    pseudonymize: Pseudonymize = False,
    key: Key = None,
    workdir: Workdir = None,
) -> None:
    """Write every sound scan as a NIfTI volume, and say of every other one why it is none.

    Writes OUTPUT/<case>.nii.gz with the scan's true place in space, OUTPUT/<case>.json with its geometry, modality and
    remarks, and OUTPUT/conversion.csv with a row for each scan. Patients' names are in none of them. The same command
    again does only what is new or changed. With --series-rule one series of each study is converted, and
    OUTPUT/selection.csv says why.

    Example: `medseg convert scans/ --output volumes/`
    """
    from medseg.batch.convert_folder import convert_folder
    from medseg.config import BatchConfig, parse_policies

    config = BatchConfig(
        key=key,
        pseudonymize=pseudonymize,
        redo=redo,
        series_rule=series_rule,
        workdir=workdir,
        ingest=parse_policies(policy or ()),
    )
    summary = convert_folder(scans, output, config, watcher=show_conversion)
    show_summary(summary)
    raise typer.Exit(summary.exit_code)


def show_conversion(result: Conversion) -> None:
    """Print one line on a scan: what it is, or why it was not converted."""
    if result.record is None:
        console().print(f"{result.status} {result.case} ({result.reason}): {result.message}", style="yellow")
        return
    geometry = result.record.geometry
    what = [result.record.modality, geometry.shape_text, f"{geometry.spacing_text} mm", geometry.axcodes]
    words = ", ".join(word for word in [*what, " ".join(result.record.flags)] if word)
    console().print(f"done {result.case}: {words}{' (by an earlier run)' if result.was_done else ''}")


def show_summary(summary: ConversionSummary) -> None:
    """Print how many scans were converted, and what is no scan counted by reason."""
    screen = console()
    show_unread(summary.unread)
    if not summary.results:
        show_no_scan(summary.left_out, summary.output)
        return
    for reason, count in summary.left_out.items():
        screen.print(f"left out: {count} files, {reason}")
    done = sum(result.status == "done" for result in summary.results)
    screen.print(f"{done} of {len(summary.results)} scans converted: see {summary.output / 'conversion.csv'}")
