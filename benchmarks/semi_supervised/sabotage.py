"""Do unlabelled scans that can only mislead do harm? Hippocampus, twelve labelled, the unlabelled scans spoilt.

    MEDSEG_DATA=FOLDER python benchmarks/semi_supervised/sabotage.py --runs RUNS --others KIND [--max-seconds N]

KIND is what lies among the scans without masks: `noise` (of the size, grid and histogram of real ones), `left_atrium`
(another organ, MR as well), or `hippocampus` (the true ones, for comparison); 40 of each. Three guards are asked:

- looks: how many scans `medseg train --method mix-teacher` leaves out because they don't look like the labelled ones;
- lambda: with all of them in (`unlabelled.leave_out=false`), which weight the labelled scans get by cross-validation
  (`lambda=auto`): 1 leaves the others out;
- teachers: how many scans the teachers of `halves.py` leave out when they write pseudo-labels, and why.

Networks and steps are those of the ablation. What time doesn't suffice for is left out of the result.

A stopped run goes on. Writes results/sabotage_KIND.json.
"""

from __future__ import annotations

import argparse
import json
import re
from collections import Counter
from pathlib import Path

import nibabel
import numpy as np
from arms import STEPS, configuration, labelled_cases
from halves import sized
from held_out import training_pool
from pseudo_labels import CPU, train_teachers
from scans import real_scans, training_arguments

from medseg.catalog.datasets import read_dataset
from medseg.config import ExperimentConfig
from medseg.pseudo.label import Labeller
from medseg.training.labelled_weight import Choice
from medseg.training.run import RunOptions, run_training
from medseg.training.setup import set_up
from medseg.training.strangers import find_strangers

OTHERS = 40
KINDS = ("noise", "left_atrium", "hippocampus")


def main() -> None:
    parser = training_arguments(__doc__)
    parser.add_argument("--others", choices=KINDS, required=True, help="what the scans without masks are")
    arguments = parser.parse_args()
    data = real_scans("hippocampus", "left_atrium")
    folder = arguments.runs / f"sabotage_{arguments.others}"
    config = experiment(data, arguments.others, folder / "dataset")
    record = {"scans": OTHERS, "left_out_by_looks": left_out_by_looks(config, folder, arguments.runs / "cache")}
    if choice := chosen_weight(config, folder / "run", arguments):
        record["labelled_weight"], record["because"] = choice.weight, choice.reason
        record["trials"] = {f"{trial.weight:g}": round(trial.mean, 4) for trial in choice.trials}
    reasons = reasons_to_leave_out(data, config, folder, arguments)
    if reasons is not None:
        record["left_out_by_teachers"], record["reasons"] = sum(reasons.values()), reasons
    text = json.dumps(record, indent=2)
    (Path(__file__).parent / "results" / f"sabotage_{arguments.others}.json").write_text(text + "\n")
    print(text)


def experiment(data: Path, kind: str, dataset: Path) -> ExperimentConfig:
    """Return the experiment on a dataset made here: twelve labelled hippocampi, and scans of a kind without masks."""
    config = sized(configuration(data / "hippocampus", "mix_teacher", "12_0", STEPS), "ablation")
    cases = labelled_cases(data / "hippocampus", 12, 0)
    if not dataset.is_dir():
        make_dataset(data, kind, cases, dataset)
    where = {"folder": dataset, "splits": None, "train": cases, "validation": []}
    return config.with_changes(dataset=where, unlabelled={"labelled_weight": "auto", "leave_out": False})


def make_dataset(data: Path, kind: str, labelled: list[str], dataset: Path) -> None:
    for part in ("images", "labels"):
        (dataset / part).mkdir(parents=True)
        for case in labelled:
            (dataset / part / f"{case}.nii.gz").symlink_to(data / "hippocampus" / part / f"{case}.nii.gz")
    organ = data / ("left_atrium" if kind == "left_atrium" else "hippocampus")
    for number, case in enumerate(sorted(set(training_pool(organ)) - set(labelled))[:OTHERS]):
        source, target = organ / "images" / f"{case}.nii.gz", dataset / "images" / f"{case}.nii.gz"
        if kind == "noise":
            shuffled(source, number, target)
        else:
            target.symlink_to(source)


def shuffled(source: Path, seed: int, target: Path) -> None:
    """Write a scan whose voxels changed places: noise with the same histogram and grid."""
    scan = nibabel.load(source)
    voxels = np.random.default_rng(seed).permutation(np.asarray(scan.dataobj).ravel()).reshape(scan.shape)
    nibabel.Nifti1Image(voxels, scan.affine, scan.header).to_filename(target)


def left_out_by_looks(config: ExperimentConfig, folder: Path, cache: Path) -> int:
    """Count the scans that online training leaves out."""
    setup = set_up(config, folder / "looks")
    return len(find_strangers(setup.unlabelled, setup, folder / "looks", cache))


def chosen_weight(config: ExperimentConfig, folder: Path, arguments: argparse.Namespace) -> Choice | None:
    """Train with `lambda=auto` and return what it chose; None when time ran out before."""
    options = RunOptions("cpu", max_seconds=arguments.max_seconds, cache=arguments.runs / "cache", screen=True)
    run_training(config, folder, options)
    path = folder / "labelled_weight.json"
    return Choice.model_validate_json(path.read_text()) if path.exists() else None


def reasons_to_leave_out(
    data: Path, config: ExperimentConfig, folder: Path, arguments: argparse.Namespace
) -> dict[str, int] | None:
    """Count what teachers say of scans that they leave out; None when time ran out."""
    teachers = train_teachers(data / "hippocampus", arguments, "ablation")
    if teachers is None:
        return None
    records = Labeller(teachers, config.pseudo, CPU).label(read_dataset(config.dataset), folder / "labels").records
    return dict(Counter(without_figures(record.reason) for record in records if record.status == "left-out"))


def without_figures(reason: str) -> str:
    """Return a reason as it reads for every scan that it holds for."""
    return re.sub(r"\([^)]*\)|\d[\d.e-]*", "#", reason)


if __name__ == "__main__":
    main()
