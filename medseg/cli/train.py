"""``medseg train``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from medseg.cli.options import ConfigFile, DataFolder, Device, Overrides, experiment
from medseg.cli.screen import console

if TYPE_CHECKING:
    from medseg.training.run import TrainingRun

PRETRAIN = "pretrain"
"""Word in place of a folder: pre-train first."""


def train(
    output: Annotated[Path, typer.Option("--output", "-o", help="Run folder; a stopped run in it goes on.")],
    config: ConfigFile = None,
    data: DataFolder = None,
    overrides: Overrides = None,
    folds: Annotated[
        int, typer.Option(help="Cross-validate with so many folds and ensemble them; 0: one network.")
    ] = 0,
    init: Annotated[
        str | None,
        typer.Option(
            metavar="FOLDER|pretrain",
            help="Start from a model folder, or from pre-trained weights, instead of random ones; "
            "pretrain: pre-train first, in this run.",
        ),
    ] = None,
    max_seconds: Annotated[float | None, typer.Option(help="Stop after this time; the same command goes on.")] = None,
    device: Device = "auto",
) -> None:
    """Train a network on a folder of scans and masks; writes the model folder OUTPUT/model.

    A run that was stopped, even by a power cut, goes on where its last checkpoint is when the same command is given
    again. Everything that was decided is in OUTPUT: config.yaml, plan.yaml, validation.csv, and the curves for
    TensorBoard. For several GPUs start it with torchrun.

    Example: `medseg train --config configs/hippocampus.yaml --data my_dataset --output runs/mine
    --set training.steps=2000`
    """
    from medseg.training.pretraining import pretrain_then_train
    from medseg.training.run import RunOptions, run_training

    start = Path(init) if init and init != PRETRAIN else None
    run = pretrain_then_train if init == PRETRAIN else run_training
    options = RunOptions(device=device, folds=folds, max_seconds=max_seconds, init=start, screen=True)
    show_training(run(experiment(config, data, overrides), output, options), output)


def show_training(run: TrainingRun, output: Path) -> None:
    """Print where the model is and how good, or how to go on."""
    screen = console()
    if run.model is None:
        screen.print(f"Time is up: the checkpoint is in {output}; the same command goes on from it.")
        return
    dice = f"{run.mean_dice:.3f}" if run.mean_dice is not None else "not measured: no held-out cases"
    screen.print(f"Model: {run.model}\nHeld-out mean Dice: {dice}")
    screen.print(f"Next: medseg segment SCANS --model {run.model} --output RESULTS")
