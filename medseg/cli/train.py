"""``medseg train``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from medseg.cli.options import ConfigFile, DataFolder, Device, MaxSeconds, Overrides, RunFolder, experiment
from medseg.cli.screen import console, show_time_is_up
from medseg.errors import ConfigError
from medseg.text import shown

if TYPE_CHECKING:
    from medseg.training.run import TrainingRun

PRETRAIN = "pretrain"
"""Word in place of a folder: pre-train first."""


def train(
    output: RunFolder,
    config: ConfigFile = None,
    data: DataFolder = None,
    overrides: Overrides = None,
    method: Annotated[
        str | None,
        typer.Option(
            metavar="supervised|mix-teacher|pseudo-labels",
            help="What is learnt from scans without a mask: nothing, what an averaged teacher says of them at every "
            "step, or a folder of pseudo-labels (unlabelled.pseudo_labels).",
        ),
    ] = None,
    labelled_weight: Annotated[
        str | None,
        typer.Option(
            "--lambda",
            metavar="0..1|auto",
            help="Weight of the labelled scans' loss against the others'; 1 leaves the others out; auto: chosen by "
            "cross-validation on the labelled scans, which takes four trainings more.",
        ),
    ] = None,
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
    max_seconds: MaxSeconds = None,
    device: Device = "auto",
) -> None:
    """Train a network on a folder of scans and masks; writes the model folder OUTPUT/model.

    A run that was stopped, even by a power cut, goes on where its last checkpoint is when the same command is given
    again. Everything that was decided is in OUTPUT: config.yaml, plan.yaml, validation.csv, and the curves for
    TensorBoard. For several GPUs start it with torchrun.

    Example: `medseg train --config configs/hippocampus.yaml --data my_dataset --output runs/mine
    --set training.steps=2000`

    With scans that have no mask beside the labelled ones: `medseg train --data my_dataset --output runs/mine
    --method mix-teacher`
    """
    from medseg.training.pretraining import pretrain_then_train
    from medseg.training.run import RunOptions, run_training

    start = Path(init) if init and init != PRETRAIN else None
    run = pretrain_then_train if init == PRETRAIN else run_training
    options = RunOptions(device=device, folds=folds, max_seconds=max_seconds, init=start, screen=True)
    settings = experiment(config, data, [*(overrides or ()), *_of_unlabelled(method, labelled_weight)])
    if labelled_weight is not None and settings.unlabelled.method == "supervised":
        raise ConfigError("--lambda weighs labelled scans against others, which take no part; give --method, too")
    show_training(run(settings, output, options), output)


def _of_unlabelled(method: str | None, labelled_weight: str | None) -> list[str]:
    """Return the two options as overrides of the configuration, which checks them."""
    wishes = {"method": method, "labelled_weight": labelled_weight}
    return [f"unlabelled.{field}={wish}" for field, wish in wishes.items() if wish is not None]


def show_training(run: TrainingRun, output: Path) -> None:
    """Print where the model is and how good; ends with `UNFINISHED` where there is none yet."""
    screen = console()
    if run.model is None:
        show_time_is_up(output)
    if run.weight is not None:
        for trial in run.weight.trials:
            screen.print(f"lambda {trial.weight:g}: out-of-fold Dice {trial.mean:.4f}")
        kept = ": the unlabelled scans are left out" if run.weight.weight == 1 else ""
        screen.print(f"lambda {run.weight.weight:g} was chosen{kept}; {run.weight.reason}")
    dice = f"{run.mean_dice:.3f}" if run.mean_dice is not None else "not measured: no held-out cases"
    screen.print(f"Model: {run.model}\nHeld-out mean Dice: {dice}")
    if run.seen:
        screen.print(
            f"This is no measure of new scans: the model to start from has learnt from {len(run.seen)} of the held-out "
            f"cases ({shown(run.seen)}), or from other scans of their patients, unless those were others of the same "
            "names."
        )
    screen.print(f"Next: medseg segment SCANS --model {run.model} --output RESULTS")
