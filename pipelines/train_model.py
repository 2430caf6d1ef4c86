"""From a folder of scans and masks to a model, told step by step.

    python pipelines/train_model.py configs/hippocampus.yaml my_dataset runs/mine

`medseg train` does the same in one go. Read this to see the stages, or copy it to change one of them.
Each step keeps its result in the run folder, so the same command again goes on where it stopped.
"""

from __future__ import annotations

import sys
from pathlib import Path

from rich.console import Console

from medseg.catalog.datasets import read_dataset
from medseg.config import ExperimentConfig, load_config
from medseg.errors import MedsegError
from medseg.planning import describe_plan
from medseg.training.run import RunOptions, TrainingRun, run_training
from medseg.training.setup import set_up

screen = Console(highlight=False, markup=False, soft_wrap=True)


def main(config_file: Path, data: Path, run_folder: Path) -> TrainingRun:
    """Train on `data` as `config_file` says; everything made lies in `run_folder`."""
    config = load_config(config_file).with_data(data)

    show_dataset(config)
    show_plan(config, run_folder)
    return train(config, run_folder)


def show_dataset(config: ExperimentConfig) -> None:
    """Say what the dataset holds: its layout is recognised, an image without a mask is unlabelled."""
    dataset = read_dataset(config.dataset)
    screen.print(f"{dataset.name}: {len(dataset.cases)} cases, {len(dataset.labelled)} of them with a mask")
    screen.print(f"to learn: {dataset.labels.describe()}")


def show_plan(config: ExperimentConfig, run_folder: Path) -> None:
    """Measure the data, choose spacing, patch and network for them, and say why; plan.yaml may be edited."""
    for line in describe_plan(set_up(config, run_folder).plan):
        screen.print(f"{line.field}: {line.value}, because {line.reason}")


def train(config: ExperimentConfig, run_folder: Path) -> TrainingRun:
    """Prepare the scans, train, and score on held-out cases; validation.csv has every case."""
    run = run_training(config, run_folder, RunOptions(screen=True))
    if run.mean_dice is not None:
        screen.print(f"held-out mean Dice {run.mean_dice:.3f}")
    screen.print(f"model: {run.model}")
    return run


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    try:
        main(*map(Path, sys.argv[1:]))
    except MedsegError as error:
        sys.exit(f"Error: {error}")
    except KeyboardInterrupt:
        sys.exit("stopped; the same command goes on from what is done")
