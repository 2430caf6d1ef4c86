"""Choose between arms on labelled cases alone: train on six of the twelve labelled hippocampi, score on the other six.

    MEDSEG_DATA=FOLDER python benchmarks/semi_supervised/halves.py --runs RUNS --arm NAME [--max-seconds N]

Both ways round, so that each of the twelve is scored once by a network of six labels; the other 168 training scans are
unlabelled. A stopped run goes on, a finished one is only read again. Writes results/halves_ARM.csv, a row a case, and
prints the difference to the supervised arm if that is there.
"""

from __future__ import annotations

import argparse
import csv
import os
import sys
from collections import defaultdict
from pathlib import Path
from statistics import fmean

from arms import ARMS, STEPS, configuration, labelled_cases
from paired import difference

from medseg.config import ExperimentConfig
from medseg.io.tables import write_csv
from medseg.training.run import RunOptions, run_training

RESULTS = Path(__file__).parent / "results"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, required=True, help="folder of the run folders")
    parser.add_argument("--arm", choices=[*ARMS], required=True)
    parser.add_argument("--max-seconds", type=float, help="stop with a checkpoint after this time")
    arguments = parser.parse_args()
    if not os.environ.get("MEDSEG_DATA"):
        sys.exit("set MEDSEG_DATA to the folder that holds hippocampus/")
    data = Path(os.environ["MEDSEG_DATA"]) / "hippocampus"
    dice = defaultdict(list)
    for half, config in enumerate(halves(data, arguments.arm)):
        folder = arguments.runs / f"halves_{arguments.arm}_{half}"
        options = RunOptions("cpu", max_seconds=arguments.max_seconds, cache=arguments.runs / "cache", screen=True)
        run = run_training(config, folder, options)
        if run.model is None:
            return
        for score in run.scores:
            dice[score.case].append(score.dice)
    rows = [[case, round(fmean(values), 4)] for case, values in sorted(dice.items())]
    write_csv(RESULTS / f"halves_{arguments.arm}.csv", ["case", "dice"], rows)
    show(arguments.arm)


def halves(data: Path, arm: str) -> list[ExperimentConfig]:
    """Return the arm's experiment on either half of the twelve labelled cases, the other half held out."""
    first = labelled_cases(data, 6, 0)
    second = sorted(set(labelled_cases(data, 12, 0)) - set(first))
    config = configuration(data, arm, "12_0", STEPS)
    splits = [{"train": learnt, "validation": held} for learnt, held in ((first, second), (second, first))]
    return [config.model_copy(update={"dataset": config.dataset.model_copy(update=split)}) for split in splits]


def show(arm: str) -> None:
    """Print the mean Dice of an arm, and how it compares."""
    mine, baseline = read(arm), read("supervised")
    text = f"{arm}: mean Dice {fmean(mine.values()):.4f}"
    if baseline and arm != "supervised":
        mean, low, high = (100 * value for value in difference(mine, baseline))
        text += f", against supervised {mean:+.2f} [{low:+.2f}, {high:+.2f}] points"
    print(text)


def read(arm: str) -> dict[str, float]:
    """Return the Dice of each case; nothing while it is not measured."""
    path = RESULTS / f"halves_{arm}.csv"
    if not path.is_file():
        return {}
    with path.open(newline="") as lines:
        return {row["case"]: float(row["dice"]) for row in csv.DictReader(lines)}


if __name__ == "__main__":
    main()
