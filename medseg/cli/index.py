"""``medseg index``."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from medseg.cli.options import Key, Policies, Scans, SeriesRule, Workdir
from medseg.cli.screen import console, show_unread
from medseg.text import printable, shown, shown_sizes

if TYPE_CHECKING:
    from rich.table import Table

    from medseg.catalog.entries import Catalog, CatalogEntry

NOTHING_USABLE = 3


def index(
    scans: Scans,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Also write the catalogue here, as .csv or .parquet.")
    ] = None,
    html: Annotated[
        Path | None, typer.Option("--html", metavar="PAGE", help="Also write a page with a picture of each scan.")
    ] = None,
    policy: Policies = None,
    series_rule: SeriesRule = None,
    key: Key = None,
    workdir: Workdir = None,
) -> None:
    """List every scan of a folder, and say of every file why it is none.

    Reads headers only. A series that is not a sound volume (a missing slice, mixed orientations, ...) is refused with
    its reason; nothing is guessed. Zip archives are unpacked meanwhile. With --output the same command again opens only
    what is new or changed. With --series-rule one series of each study is accepted, and each other one says why not.

    Example: `medseg index scans/ --output catalog.csv --html catalog.html`
    """
    from medseg.catalog.index import index_scans
    from medseg.catalog.memory import Memory, remembering
    from medseg.catalog.table import check_table, write_catalog
    from medseg.catalog.unpack import Archives
    from medseg.config import parse_policies

    rules, ingest = None, parse_policies(policy or ())
    if series_rule:
        from medseg.catalog.series_rules import read_series_rules  # it loads pydicom

        rules = read_series_rules(series_rule)
    with ExitStack() as stack:
        archives, memory = stack.enter_context(Archives(workdir)), Memory()
        if output:
            check_table(output)
            memory = stack.enter_context(remembering(output, scans, ingest))
        catalog = index_scans(scans, key=key, policy=ingest, rules=rules, archives=archives, memory=memory)
        if html:
            from medseg.quality.catalog_page import write_catalog_page

            write_catalog_page(catalog, html, archives.fetch)
    if output:
        write_catalog(catalog, output)
    show_catalog(catalog, memory.note)
    if not catalog.cases():
        raise typer.Exit(NOTHING_USABLE)


def show_catalog(catalog: Catalog, note: str = "") -> None:
    """Print the scans as a table, each refusal as a sentence, and what is no scan counted by reason."""
    screen = console()
    if note:
        screen.print(f"everything was read again: what the last index remembered is not used, because {note}")
    screen.print(scan_table(catalog.with_status("accepted")))
    for entry in catalog.with_status("refused"):
        screen.print(f"refused {printable(str(entry.path))} ({entry.reason}): {entry.message}", style="yellow")
    left_out: dict[str, list[str]] = defaultdict(list)
    for entry in catalog.with_status("skipped"):
        left_out[str(entry.reason)] += [path.name for path in entry.files]
    for reason, names in sorted(left_out.items(), key=lambda item: -len(item[1])):
        screen.print(f"left out: {len(names)} files, {reason}: {printable(shown(names))}")
    show_unread(catalog.unread)


def scan_table(scans: Sequence[CatalogEntry]) -> Table:
    """Return a row for each scan."""
    from rich.table import Table

    table = Table(title=f"{len(scans)} scans")
    for column in ("case", "shape", "spacing mm", "axes", "modality", "remarks"):
        table.add_column(column)
    for scan in scans:
        shape = shown_sizes(scan.shape or ())
        spacing = shown_sizes(scan.spacing or (), ".3g")
        table.add_row(scan.case_id, shape, spacing, scan.axcodes, scan.modality, " ".join(map(str, scan.flags)))
    return table
