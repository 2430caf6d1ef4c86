"""``medseg index``."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from medseg.cli.screen import console

if TYPE_CHECKING:
    from rich.table import Table

    from medseg.catalog.index import Catalog

NOTHING_USABLE = 3


def index(
    scans: Annotated[Path, typer.Argument(metavar="SCANS", help="A folder of scans: NIfTI and DICOM, in any tree.")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Also write the catalogue here, as .csv or .parquet.")
    ] = None,
    key: Annotated[Path | None, typer.Option(help="Key file for the pseudonyms of DICOM series.")] = None,
) -> None:
    """List every scan of a folder, and say of every file why it is none.

    Reads headers only. A series that is not a sound volume (a missing slice, mixed orientations, ...) is refused with
    its reason; nothing is guessed.

    Example: `medseg index scans/ --output catalog.csv`
    """
    from medseg.catalog.index import index_scans, write_catalog

    catalog = index_scans(scans, key=key)
    if output:
        write_catalog(catalog, output)
    console().print(catalog_table(catalog))
    if not catalog.cases():
        raise typer.Exit(NOTHING_USABLE)


def catalog_table(catalog: Catalog) -> Table:
    """Return scans and refusals a row each, and what is no scan counted by reason."""
    from rich.table import Table

    table = Table(title=f"{len(catalog.cases())} scans")
    for column in ("case", "status", "shape", "spacing mm", "axes", "modality", "remarks"):
        table.add_column(column)
    for entry in [*catalog.with_status("accepted"), *catalog.with_status("refused")]:
        shape = "x".join(map(str, entry.shape)) if entry.shape else ""
        spacing = "x".join(f"{size:.3g}" for size in entry.spacing) if entry.spacing else ""
        remarks = entry.message or " ".join(map(str, entry.flags))
        table.add_row(
            entry.case_id or str(entry.path), entry.status, shape, spacing, entry.axcodes, entry.modality, remarks
        )
    left_out: Counter[str] = Counter()
    for entry in catalog.with_status("skipped"):
        left_out[str(entry.reason)] += len(entry.files)
    if left_out:
        table.caption = "left out: " + ", ".join(f"{count} files {reason}" for reason, count in left_out.items())
    return table
