"""``medseg pretrain``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from medseg.cli.options import ConfigFile, DataFolder, Device, MaxSeconds, Overrides, RunFolder, experiment
from medseg.cli.screen import console, show_time_is_up

if TYPE_CHECKING:
    from medseg.training.pretraining import PretrainingRun


def pretrain(
    output: RunFolder,
    config: ConfigFile = None,
    data: DataFolder = None,
    overrides: Overrides = None,
    max_seconds: MaxSeconds = None,
    device: Device = "auto",
) -> None:
    """Let a network learn what scans look like, before it learns what is drawn in them.

    Blocks of every scan are hidden and restored; masks are not needed, and held-out cases are left out. Writes
    OUTPUT/pretrained, which `medseg train --init` starts from. With `medseg train --init pretrain` both happen in one
    command. Where it was measured, on hippocampi, it did not help: compare both ways on scans of your own.

    Example: `medseg pretrain --data my_dataset --output runs/liver --set pretraining.steps=1000`
    """
    from medseg.training.pretraining import run_pretraining
    from medseg.training.run import RunOptions

    options = RunOptions(device=device, max_seconds=max_seconds, screen=True)
    show_pretraining(run_pretraining(experiment(config, data, overrides), output, options), output)


def show_pretraining(run: PretrainingRun, output: Path) -> None:
    """Print where the weights are and how well they restore; ends with `UNFINISHED` where there are none yet."""
    screen = console()
    if run.folder is None or run.explained is None:
        show_time_is_up(output)
    screen.print(f"Pre-trained weights: {run.folder} ({run.scans} scans)")
    screen.print(f"Of the hidden voxels' variance, {run.explained:.0%} is explained.")
    screen.print(f"Next: medseg train --init {run.folder} --output RUN, with the same --config and --data")
