"""``medseg pseudo-label``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from medseg.cli.options import Device, Overrides
from medseg.cli.screen import console

if TYPE_CHECKING:
    from medseg.pseudo.label import Labelling

SHOWN = 5
"""Scans that are named; all of them are in the table."""


def pseudo_label(
    run: Annotated[Path, typer.Option("--run", help="Run folder of medseg train, best with --folds.")],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Folder for the pseudo-labels; a stopped one goes on.")
    ],
    data: Annotated[
        Path | None, typer.Option("--data", "-d", help="Dataset folder, if it has moved since training.")
    ] = None,
    overrides: Overrides = None,
    device: Device = "auto",
) -> None:
    """Label the unlabelled scans of a dataset with the networks of a training run, for a student to learn from.

    For every scan that has no mask: OUTPUT/CASE/label.nii.gz (255 where the networks are not sure enough),
    confidence, uncertainty and weight maps, and a record. How sure is sure enough is measured on labelled scans that a
    network had not learnt from, so train with `--folds`. Scans that don't seem to belong are left out, with the reason.

    Look at OUTPUT/pseudo_labels.csv, worst first: write accepted or rejected into the column status, or correct a
    label.nii.gz by hand. Then let a student learn from all of them.

    Example: `medseg pseudo-label --run runs/teacher --output runs/pseudo --set pseudo.precision=0.97`, then
    `medseg train --config configs/hippocampus.yaml --data my_dataset --output runs/student
    --set unlabelled.method=pseudo-labels --set unlabelled.pseudo_labels=runs/pseudo`
    """
    from medseg.cli.progress import show_count
    from medseg.inference.hardware import choose_device
    from medseg.pseudo.label import Labeller
    from medseg.pseudo.teachers import read_run

    chosen = choose_device(device)
    teaching = read_run(run, data, overrides or (), chosen)
    with show_count("labelled scans") as progress:
        labeller = Labeller(teaching.teachers, teaching.config.pseudo, chosen, progress)
        labelling = labeller.label(teaching.dataset, output)
    show_labelling(labelling)


def show_labelling(labelling: Labelling) -> None:
    """Print how many scans can be learnt from, what was left out and why, and where to look."""
    from medseg.catalog.pseudo_labels import SUMMARY

    screen = console()
    left_out = [record for record in labelling.records if record.status == "left-out"]
    usable = sum(record.learnt_from for record in labelling.records)
    screen.print(f"{usable} of {len(labelling.records)} unlabelled scans can be learnt from ({labelling.made} new)")
    for record in left_out[:SHOWN]:
        screen.print(f"left out {record.case}: {record.reason}", style="yellow")
    if len(left_out) > SHOWN:
        screen.print(f"... and {len(left_out) - SHOWN} more; the table has all of them", style="yellow")
    screen.print(f"Look at: {labelling.folder / SUMMARY}")
