"""Self-training, told step by step: teachers label, fresh students learn, and only what is not worse is promoted.

    python pipelines/self_training.py configs/hippocampus.yaml my_dataset runs/self
    python pipelines/self_training.py configs/hippocampus.yaml my_dataset runs/self --pause --set pseudo.rounds=1

The dataset holds scans with and without masks. With --pause it stops after each round's pseudo-labels: look at
round_1/pseudo_labels/pseudo_labels.csv, write accepted or rejected into the column status or correct a label.nii.gz,
and give the same command again. It also goes on with what a kill or --max-seconds left behind.
"""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path

from rich.console import Console

from medseg.catalog.datasets import read_dataset
from medseg.config import ExperimentConfig, load_config
from medseg.errors import MedsegError
from medseg.pseudo.rounds import Promotion, RoundsOptions, self_train
from medseg.training.promotion import by_case

screen = Console(highlight=False, markup=False, soft_wrap=True)


def main(config: ExperimentConfig, run_folder: Path, options: RoundsOptions) -> int:
    """Train in rounds; everything made lies in `run_folder`. Returns 0, or 1 if there is something left to do."""
    show_dataset(config)
    outcome = self_train(config, run_folder, options)
    if outcome.promotion is None:
        screen.print(outcome.waiting)
        return 1
    show_rounds(outcome.promotion)
    show_promotion(outcome.promotion, run_folder)
    return 0


def show_dataset(config: ExperimentConfig) -> None:
    """Say how many scans have masks and how many wait for pseudo-labels."""
    dataset = read_dataset(config.dataset)
    screen.print(f"{dataset.name}: {len(dataset.labelled)} labelled and {len(dataset.unlabelled)} unlabelled scans")


def show_rounds(promotion: Promotion) -> None:
    """Say how students did on labelled scans that were held out from them and from whoever labelled for them."""
    for report in promotion.rounds:
        dice = by_case(report.scores).values()
        mean = f"held-out Dice {sum(dice) / len(dice):.3f}: " if dice else ""
        screen.print(f"round {report.number}: {mean}{report.reason}")


def show_promotion(promotion: Promotion, run_folder: Path) -> None:
    """Say which model to use, and why."""
    screen.print(f"{'promoted' if promotion.promoted else 'the supervised model is kept'}: {promotion.reason}")
    screen.print(f"model: {run_folder / promotion.model}")


def tell(what: str, done: int, total: int) -> None:
    """Say when teachers have looked at all scans of a kind."""
    if done == total:
        screen.print(f"looked at {total} {what}")


def arguments() -> argparse.Namespace:
    """Return what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", type=Path, help="configuration file (YAML); its sections pseudo and unlabelled rule")
    parser.add_argument("data", type=Path, help="dataset folder; images without masks are unlabelled")
    parser.add_argument("output", type=Path, help="run folder")
    parser.add_argument("--set", dest="overrides", action="append", default=[], metavar="FIELD=VALUE")
    parser.add_argument("--pause", action="store_true", help="stop after each round's pseudo-labels for a review")
    parser.add_argument("--max-seconds", type=float, help="stop after this time; the same command goes on")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, or one GPU such as cuda:1")
    return parser.parse_args()


if __name__ == "__main__":
    logging.basicConfig(format="%(message)s")
    wanted = arguments()
    rounds_options = RoundsOptions(wanted.device, wanted.max_seconds, wanted.pause, screen=True, progress=tell)
    try:
        experiment = load_config(wanted.config, wanted.overrides).with_data(wanted.data)
        sys.exit(main(experiment, wanted.output, rounds_options))
    except MedsegError as error:
        sys.exit(f"Error: {error}")
    except KeyboardInterrupt:
        sys.exit("stopped; the same command goes on from what is done")
