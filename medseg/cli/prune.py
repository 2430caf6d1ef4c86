"""``medseg prune``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from medseg.cli.options import Device, MaxSeconds, ModelConfigFile, Overrides, RunFolder, experiment
from medseg.cli.screen import console
from medseg.cli.train import show_training
from medseg.errors import ConfigError


def prune(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="Model folder of a trained U-Net.")],
    output: RunFolder,
    keep: Annotated[float, typer.Option(help="Share of the feature maps of each stage that stay.")] = 0.7,
    data: Annotated[
        Path | None,
        typer.Option("--data", "-d", help="Dataset folder to fine-tune on; without it the model is cut only."),
    ] = None,
    steps: Annotated[int | None, typer.Option(help="Steps of the fine-tuning; default: 500.")] = None,
    config: ModelConfigFile = None,
    overrides: Overrides = None,
    max_seconds: MaxSeconds = None,
    device: Device = "auto",
) -> None:
    """Cut the feature maps that matter least out of a trained network, and fine-tune what is left.

    Writes OUTPUT/pruned, the model as it was cut, and with --data the fine-tuned model folder OUTPUT/model. Both are
    models like any other. At 0.7 of the maps half of the multiplications are left. Without --config it is trained as
    the model was.

    Example: `medseg prune runs/liver/model --keep 0.7 --data my_dataset --output runs/liver_pruned`
    """
    from medseg.training.fine_tuning import Wishes, experiment_of, for_fine_tuning
    from medseg.training.pruning import prune_and_fine_tune, save_pruned
    from medseg.training.run import RunOptions

    if data is None:
        if steps is not None or config or overrides or max_seconds:
            raise ConfigError("--steps, --config, --set and --max-seconds are about fine-tuning, which needs --data")
        console().print(f"Model: {save_pruned(model, keep, output)}\nFine-tune it: the same command with --data")
        return
    as_trained = experiment(config, data, None, None if config else experiment_of(model))
    tuned = experiment(None, data, overrides, for_fine_tuning(as_trained, Wishes(steps=steps)))
    options = RunOptions(device=device, max_seconds=max_seconds, screen=True)
    show_training(prune_and_fine_tune(tuned, model, keep, output, options), output)
