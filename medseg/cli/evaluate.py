"""``medseg evaluate``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from medseg.cli.screen import console

if TYPE_CHECKING:
    from medseg.quality.evaluate import Evaluation

SOME_NOT_SCORED = 1

SHOWN = 10
"""Problems that are printed; all of them are in summary.json."""


def evaluate(
    predictions: Annotated[
        Path, typer.Argument(metavar="PREDICTIONS", help="What medseg segment wrote, or a folder of masks.")
    ],
    truths: Annotated[
        Path,
        typer.Argument(metavar="TRUTHS", help="True masks, called as the cases or their scans; or a dataset folder."),
    ],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Folder for scores.csv, summary.json and dice.png.")
    ] = None,
    labels: Annotated[
        Path | None,
        typer.Option(help="File with the names of the labels: YAML, dataset.json or model.json; default: the run's."),
    ] = None,
    tolerance: Annotated[
        float, typer.Option(min=0, help="Surface distance that still counts as equal in the NSD, mm.")
    ] = 2.0,
) -> None:
    """Compare predicted masks with true ones: Dice, IoU, HD95, NSD and volume error of each structure.

    A structure that the model missed, or invented, counts with a Dice of 0; one that is absent from both masks counts
    in no mean. Cases that can't be compared are named, and the exit code is 1.

    Of a run of `medseg segment`, the scans that it was given are compared; those that it could not segment count as
    missed. Of a plain folder of masks, every true mask is.

    Example: `medseg evaluate results/liver my_dataset/labels --output results/liver/evaluation`
    """
    from medseg.labels import load_label_map
    from medseg.quality.evaluate import evaluate_folder

    if labels is None and (predictions / "run.json").is_file():
        labels = predictions / "run.json"
    known = load_label_map(labels) if labels else None
    evaluation = evaluate_folder(predictions, truths, known, tolerance)
    if output:
        write_evaluation(evaluation, output)
    show_evaluation(evaluation)
    if evaluation.problems:
        raise typer.Exit(SOME_NOT_SCORED)


def show_evaluation(evaluation: Evaluation) -> None:
    """Print the scores as a table, what could not be compared, and what was not."""
    from medseg.quality.tables import score_table

    screen = console()
    screen.print(score_table(evaluation))
    for case, problem in evaluation.problems[:SHOWN]:
        screen.print(f"{case}: {problem}", style="yellow")
    if len(evaluation.problems) > SHOWN:
        screen.print(f"... and {len(evaluation.problems) - SHOWN} more; --output writes all of them", style="yellow")
    if evaluation.unmatched:
        screen.print(f"{len(evaluation.unmatched)} predictions have no true mask: not compared")
    if evaluation.not_run:
        screen.print(f"{len(evaluation.not_run)} true masks are of scans that the run was not given: not compared")


def write_evaluation(evaluation: Evaluation, folder: Path) -> None:
    """Write the scores as a table, a summary and a plot."""
    from medseg.quality.plots import plot_scores
    from medseg.quality.tables import write_scores, write_summary

    write_scores(evaluation.scores, folder / "scores.csv")
    write_summary(evaluation, folder / "summary.json")
    plot_scores(evaluation.scores, folder / "dice.png")
