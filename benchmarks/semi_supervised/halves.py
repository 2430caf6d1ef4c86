"""Choose between arms on labelled cases alone: train on six of the twelve labelled hippocampi, score on the other six.

    MEDSEG_DATA=FOLDER python benchmarks/semi_supervised/halves.py --runs RUNS --arm NAME [--small] [--max-seconds N]

Both ways round, so that each of the twelve is scored once by a network of six labels. All other scans are unlabelled,
those of the 28 held-out cases among them, so these networks are never scored on the latter. A stopped run goes on, a
finished one is only read again. Writes results/halves_ARM.csv, a row a case, and prints the difference to the
supervised arm if that is there. `--small` is the ablation: every ingredient with a network and a budget small enough to
try them all (`SMALL`), in results/ablation_ARM.csv.
"""

from __future__ import annotations

import csv
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

from arms import ARMS, STEPS, configuration, labelled_cases, taught
from paired import difference
from scans import real_scans, training_arguments

from medseg.config import ExperimentConfig
from medseg.io.tables import write_csv
from medseg.training.run import RunOptions, run_training

RESULTS = Path(__file__).parent / "results"

SMALL = {"features": 8, "max_features": 64}
SMALL_STEPS = 800


def main() -> None:
    parser = training_arguments(__doc__)
    parser.add_argument("--arm", choices=[*ARMS], required=True)
    parser.add_argument("--half", type=int, choices=(0, 1), help="one way round; the table waits for the other")
    parser.add_argument("--small", action="store_true", help="with the network and the steps of the ablation")
    arguments = parser.parse_args()
    data = real_scans("hippocampus") / "hippocampus"
    study = "ablation" if arguments.small else "halves"
    folders = []
    for half, config in enumerate(halves(data, arguments.arm)):
        runs = {arm: arguments.runs / f"{study}_{arm}_{half}" for arm in ARMS}
        folders.append(runs[arguments.arm])
        if arguments.half not in (None, half):
            continue
        config = taught(config, arguments.arm, runs)
        options = RunOptions("cpu", max_seconds=arguments.max_seconds, cache=arguments.runs / "cache", screen=True)
        if run_training(sized(config, study), folders[-1], options).model is None:
            return
    keep_halves(study, arguments.arm, folders)


def halves(data: Path, arm: str) -> list[ExperimentConfig]:
    """Return the arm's experiment on either half of the twelve labelled cases, the other half held out."""
    first = labelled_cases(data, 6, 0)
    second = sorted(set(labelled_cases(data, 12, 0)) - set(first))
    config = configuration(data, arm, "12_0", STEPS)
    splits = [{"train": learnt, "validation": held} for learnt, held in ((first, second), (second, first))]
    return [config.with_changes(dataset=split) for split in splits]


def sized(config: ExperimentConfig, study: str) -> ExperimentConfig:
    """Return the experiment with the network and the steps of a study: those of `arms.py`, or the ablation's."""
    if study != "ablation":
        return config
    return config.with_changes(network=SMALL, training={"steps": SMALL_STEPS})


def keep_halves(study: str, arm: str, runs: Sequence[Path]) -> None:
    """Write and print each case's Dice by the network that had not learnt from it, once all runs ended."""
    tables = [run / "validation.csv" for run in runs]
    if not all(table.is_file() for table in tables):
        return
    dice = defaultdict(list)
    for table in tables:
        with table.open(newline="") as lines:
            for row in csv.DictReader(lines):
                dice[row["case"]].append(float(row["dice"]))
    rows = [[case, round(fmean(values), 4)] for case, values in sorted(dice.items())]
    write_csv(RESULTS / f"{study}_{arm}.csv", ["case", "dice"], rows)
    show(study, arm)


def show(study: str, arm: str) -> None:
    """Print the mean Dice of an arm, and how it compares."""
    mine, baseline = read(study, arm), read(study, "supervised")
    text = f"{study}, {arm}: mean Dice {fmean(mine.values()):.4f}"
    if baseline and arm != "supervised":
        mean, low, high = (100 * value for value in difference(mine, baseline))
        text += f", against supervised {mean:+.2f} [{low:+.2f}, {high:+.2f}] points"
    print(text)


def read(study: str, arm: str) -> dict[str, float]:
    """Return the Dice of each case; nothing while it is not measured."""
    path = RESULTS / f"{study}_{arm}.csv"
    if not path.is_file():
        return {}
    with path.open(newline="") as lines:
        return {row["case"]: float(row["dice"]) for row in csv.DictReader(lines)}


if __name__ == "__main__":
    main()
