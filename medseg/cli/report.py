"""``medseg report``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from medseg.cli.screen import console

if TYPE_CHECKING:
    from medseg.quality.review import Review


def report(
    results: Annotated[Path, typer.Argument(metavar="RESULTS", help="Folder that medseg segment wrote.")],
    viewer: Annotated[
        str,
        typer.Option(
            metavar="URL",
            help="Link each case to a medseg serve of the same scans and key, not to its own view.html: the address "
            "that it shows. It holds the token, so the page lets in whoever has it.",
        ),
    ] = "",
) -> None:
    r"""Check segmented cases without true masks, and write a page and a table: what to look at first, and why.

    Writes RESULTS/report.html, which opens offline, and RESULTS/worklist.csv. Cases with a page to scroll through scan
    and mask (view.html, which medseg segment writes with medseg\[viewer]) link to it. `medseg segment` does the same
    at its end; this does it again, for example after cases were added. Neither scans nor model are needed.

    Example: `medseg report results/liver`
    """
    from medseg.quality.report import write_report

    show_review(write_report(results, viewer))


def show_review(review: Review) -> None:
    """Print how many cases have flags, and where the page is."""
    from medseg.quality.report import REPORT

    flagged = sum(bool(case.flags) for case in review.cases)
    console().print(f"Review:             {review.folder / REPORT} ({flagged} of {len(review.cases)} cases have flags)")
