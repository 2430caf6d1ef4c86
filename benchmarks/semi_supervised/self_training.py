"""Offline pseudo-labels, measured: a round of self-training with the two teachers of `halves.py`.

    MEDSEG_DATA=FOLDER python benchmarks/semi_supervised/self_training.py --runs RUNS --student NAME [--max-seconds N]

As the pipeline does with two folds: each of two supervised teachers learnt from six of the twelve labelled hippocampi.
The students of the halves (`--student half_0`, `half_1`) learn from a half and pseudo-labels of the one teacher that
never saw the other half, which then scores them: results/halves_self_training.csv, once there are both. That decides.
The student of all twelve (`--student all`) learns from pseudo-labels of both teachers and is scored on the 28 held-out
scans: results/hippocampus_self_training_12_0.csv. Steps and recipe are those of `arms.py`. A stopped run goes on.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from arms import STEPS, configuration, keep
from halves import halves, keep_halves
from held_out import score
from pseudo_labels import CPU, train_teachers
from scans import real_scans, training_arguments

from medseg.catalog.datasets import read_dataset
from medseg.config import ExperimentConfig
from medseg.pseudo.label import Labeller
from medseg.training.run import RunOptions, TrainingRun, run_training

ARM = "self_training"
STUDENTS = ("half_0", "half_1", "all")


def main() -> None:
    parser = training_arguments(__doc__)
    parser.add_argument("--student", choices=STUDENTS, required=True)
    arguments = parser.parse_args()
    data = real_scans("hippocampus") / "hippocampus"
    run = train_student(data, arguments)
    if run is None or run.model is None:
        return
    if arguments.student == "all":
        config = configuration(data, "supervised", "12_0", STEPS)
        folder = arguments.runs / f"{ARM}_all"
        keep(f"hippocampus_{ARM}_12_0", student(config, folder), folder, score(run.model, data))
    else:
        keep_halves("halves", ARM, [arguments.runs / f"{ARM}_half_{half}" for half in range(2)])


def train_student(data: Path, arguments: argparse.Namespace) -> TrainingRun | None:
    """Return the student's run, with its pseudo-labels beside it; None when time ran out."""
    teachers = train_teachers(data, arguments)
    if teachers is None:
        return None
    number = STUDENTS.index(arguments.student)
    alone = number if number < 2 else None
    config = configuration(data, "supervised", "12_0", STEPS) if alone is None else halves(data, "supervised")[alone]
    folder = arguments.runs / f"{ARM}_{arguments.student}"
    labeller = Labeller(teachers, config.pseudo, CPU)
    labeller.label(read_dataset(config.dataset), folder / "pseudo_labels", share=config.pseudo.first_share, alone=alone)
    options = RunOptions("cpu", max_seconds=arguments.max_seconds, cache=arguments.runs / "cache", screen=True)
    return run_training(student(config, folder), folder, options)


def student(config: ExperimentConfig, folder: Path) -> ExperimentConfig:
    """Return the experiment that learns from the pseudo-labels in a folder."""
    changed = {"method": "pseudo-labels", "pseudo_labels": folder / "pseudo_labels", "labelled_weight": 0.5}
    return config.with_changes(unlabelled=changed)


if __name__ == "__main__":
    main()
