"""``medseg index``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from medseg.cli.screen import console
from medseg.text import printable

if TYPE_CHECKING:
    from rich.table import Table

    from medseg.catalog.index import Catalog, CatalogEntry

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
    show_catalog(catalog)
    if not catalog.cases():
        raise typer.Exit(NOTHING_USABLE)


def show_catalog(catalog: Catalog) -> None:
    """Print the scans as a table, each refusal as a sentence, and what is no scan counted by reason."""
    screen = console()
    screen.print(scan_table(catalog.with_status("accepted")))
    for entry in catalog.with_status("refused"):
        screen.print(f"refused {printable(str(entry.path))} ({entry.reason}): {entry.message}", style="yellow")
    left_out: Counter[str] = Counter()
    for entry in catalog.with_status("skipped"):
        left_out[str(entry.reason)] += len(entry.files)
    for reason, count in left_out.most_common():
        screen.print(f"left out: {count} files, {reason}")


def scan_table(scans: Sequence[CatalogEntry]) -> Table:
    """Return a row for each scan."""
    from rich.table import Table

    table = Table(title=f"{len(scans)} scans")
    for column in ("case", "shape", "spacing mm", "axes", "modality", "remarks"):
        table.add_column(column)
    for scan in scans:
        shape = "x".join(map(str, scan.shape or ()))
        spacing = "x".join(f"{size:.3g}" for size in scan.spacing or ())
        table.add_row(scan.case_id, shape, spacing, scan.axcodes, scan.modality, " ".join(map(str, scan.flags)))
    return table
