"""``medseg unite``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from medseg.cli.report import show_review
from medseg.cli.screen import console


def unite(
    results: Annotated[Path, typer.Argument(metavar="RESULTS", help="Folder into which all shards were segmented.")],
    report: Annotated[bool, typer.Option(help="Write report.html and worklist.csv, too.")] = True,
) -> None:
    """Write the tables and the report of a batch that was segmented in shards, once all of them have ended.

    Writes what `medseg segment` without `--shard` would have written at its end. Neither scans nor model are needed.
    Exit codes: 0 all cases done, 1 some not, 2 a shard is missing or does not belong to the others, 3 none is done.

    Example: `medseg unite results/liver`
    """
    from medseg.batch.shards import unite_shards
    from medseg.batch.summary import DONE, STATUSES, exit_code

    run = unite_shards(results)
    counts = {status: run["cases"][status] for status in STATUSES}
    done = sum(counts[status] for status in DONE)
    console().print(f"{done} of {sum(counts.values())} cases done in {len(run['shards'])} shards")
    for status, count in counts.items():
        if count and status not in DONE:
            console().print(f"{count} {status}: see {results / 'cases.csv'}", style="yellow")
    if report and any(counts.values()):
        from medseg.quality.report import write_report

        show_review(write_report(results))
    raise typer.Exit(exit_code([status for status, count in counts.items() if count]))
