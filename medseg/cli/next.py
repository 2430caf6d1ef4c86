"""``medseg next``."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from medseg.cli.options import Device, Key, Pseudonymize
from medseg.cli.screen import console

if TYPE_CHECKING:
    from medseg.selection.worklist import Worklist

LOOKING = "looking at scans"


def next(
    scans: Annotated[Path, typer.Argument(metavar="SCANS", help="A folder of unlabelled scans: NIfTI and DICOM.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for next.csv; not inside SCANS.")],
    model: Annotated[
        Path | None, typer.Option("--model", "-m", help="Model folder; leave it out as long as nothing is labelled.")
    ] = None,
    n: Annotated[int, typer.Option("--n", help="How many scans a person will label.")] = 5,
    strategy: Annotated[
        str, typer.Option(help="uncertainty-diversity, random, or foreground-random.")
    ] = "uncertainty-diversity",
    labelled: Annotated[
        Path | None, typer.Option(help="Folder of the scans that are labelled already; they are never chosen.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of what is drawn.")] = 0,
    pseudonymize: Pseudonymize = False,
    key: Key = None,
    device: Device = "auto",
) -> None:
    """Choose which unlabelled scans a person should label next, the most useful first, and say why.

    With a model: scans that it doubts, and that are unlike the labelled ones and each other. Without one: scans that
    look as different as possible. Writes OUTPUT/next.csv; OUTPUT/sources.csv says which case is which file.

    Example: `medseg next scans/ --model runs/liver/model --labelled my_dataset/images --n 5 --output to_label`
    """
    from medseg.cli.progress import show_count
    from medseg.selection.strategies import strategy_named
    from medseg.selection.worklist import SelectionOptions, rank_scans

    options = SelectionOptions(
        count=n,
        strategy=strategy_named(strategy),
        labelled=labelled,
        seed=seed,
        device=device,
        key=key,
        pseudonymize=pseudonymize,
    )
    with show_count(LOOKING) as tell:
        worklist = rank_scans(scans, output, model, options, partial(tell, LOOKING))
    show_worklist(worklist, output)


def show_worklist(worklist: Worklist, output: Path) -> None:
    """Print the chosen scans as a table, and what was left out and why."""
    from rich.table import Table

    table = Table("rank", "case", "score", "why", title=f"{len(worklist.ranked)} of {worklist.available} scans")
    for item in worklist.ranked:
        table.add_row(str(item.rank), item.case, "" if item.score is None else f"{item.score:.3f}", item.why)
    screen = console()
    screen.print(table)
    for _, reason in worklist.left_out:
        screen.print(f"left out: {reason}", style="yellow")
    screen.print(f"Table: {output / 'next.csv'}")
