"""``medseg distill``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from medseg.cli.options import Device, MaxSeconds, ModelConfigFile, Overrides, RunFolder, experiment
from medseg.cli.train import show_training


def distill(
    teacher: Annotated[Path, typer.Argument(metavar="TEACHER", help="Model folder of the trained, larger network.")],
    data: Annotated[
        Path, typer.Option("--data", "-d", help="Dataset folder that the teacher was trained on, or more scans of it.")
    ],
    output: RunFolder,
    width: Annotated[
        float, typer.Option(help="Feature maps of the student, as a share of the teacher's: 0.5 half, 0.25 quarter.")
    ] = 0.5,
    coarse: Annotated[
        bool, typer.Option("--coarse", help="Leave out the teacher's finest stage; much faster, a little less exact.")
    ] = False,
    config: ModelConfigFile = None,
    overrides: Overrides = None,
    max_seconds: MaxSeconds = None,
    device: Device = "auto",
) -> None:
    """Teach a narrower network what a trained one answers; writes the model folder OUTPUT/model.

    The student has the teacher's plan with fewer feature maps: at half the width a quarter of the multiplications.
    It learns from the masks, and from the teacher's probabilities on all scans of the dataset, with masks and
    without; held-out cases stay out. Without --config it is trained as the teacher was.

    Example: `medseg distill runs/liver/model --data my_dataset --width 0.5 --output runs/liver_half`
    """
    from medseg.training.fine_tuning import experiment_of
    from medseg.training.run import RunOptions, run_training

    base = None if config else experiment_of(teacher)
    wishes = [
        f"distillation.teachers={json.dumps([str(teacher.resolve())])}",
        f"distillation.width={width}",
        f"distillation.coarse={coarse}",
        "unlabelled.method=supervised",
    ]
    options = RunOptions(device=device, max_seconds=max_seconds, screen=True)
    show_training(run_training(experiment(config, data, [*wishes, *(overrides or ())], base), output, options), output)
