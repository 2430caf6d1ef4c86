"""What `medseg segment --speed` trades: seconds, and Dice on held-out scans.

    MEDSEG_DATA=FOLDER python benchmarks/performance/speed_levels.py [--data left_atrium] [--rounds 3]

28 hippocampus MRs, of which each fits into one window, and 16 left atria of several windows. The levels take turns, in
one process; counted is the processor time of `Predictor.predict`, of which the median over the rounds is given. Beside
it how far the masks agree with those of `accurate`, which is float32 throughout: the mean share of equal voxels, and
the least Dice of a structure of a scan. Writes results/speed_levels_DATA.json.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from statistics import median

import numpy as np
from numpy.typing import NDArray

from medseg.config import SegmentConfig
from medseg.config.speed import SPEEDS
from medseg.inference.hardware import fit_threads, keep_memory
from medseg.inference.predictor import Predictor
from medseg.io.nifti import read_mask, read_nifti
from medseg.networks.model import load_model
from medseg.provenance import machine, package_versions

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

from held_out import held_out_cases  # noqa: E402
from scans import real_scans  # noqa: E402

ROOT = HERE.parents[1]
MODELS = {
    "hippocampus": ROOT / "sample_data/models/hippocampus",
    "left_atrium": ROOT / "benchmarks/models/left_atrium_16_semi",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", choices=[*MODELS], default="hippocampus")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    data = real_scans("hippocampus", "left_atrium") / arguments.data
    levels = compare(MODELS[arguments.data], data, arguments.rounds)
    result = {"levels": levels, "machine": machine(), "versions": package_versions()}
    (HERE / "results").mkdir(exist_ok=True)
    (HERE / "results" / f"speed_levels_{arguments.data}.json").write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(levels, indent=1))


def compare(folder: Path, data: Path, rounds: int) -> dict[str, dict[str, object]]:
    """Return what each level costs and gives."""
    keep_memory()
    fit_threads()
    model = load_model(folder)
    predictors = {name: Predictor(model, SegmentConfig(speed=name).inference(model.inference)) for name in SPEEDS}
    rows: dict[str, list[list[float]]] = {name: [] for name in predictors}
    for case in held_out_cases(data):
        volume = read_nifti(data / "images" / f"{case}.nii.gz")
        truth = read_mask(data / "labels" / f"{case}.nii.gz").array
        seconds: dict[str, list[float]] = {name: [] for name in predictors}
        masks: dict[str, NDArray] = {}
        for _ in range(rounds):
            for name, predictor in predictors.items():
                began = time.process_time()
                masks[name] = predictor.predict(volume).mask.array
                seconds[name].append(time.process_time() - began)
        for name, mask in masks.items():
            best, values = masks["accurate"], model.labels.values
            score = np.mean([dice(mask, truth, value) for value in values])
            agreement = (mask == best).mean(), min(dice(mask, best, value) for value in values)
            rows[name].append([median(seconds[name]), score, *agreement])
    return {name: summarise(np.array(found)) | predictors[name].config.model_dump() for name, found in rows.items()}


def summarise(rows: NDArray) -> dict[str, object]:
    """Return means over scans, and of the last column the least."""
    cpu, score, equal, _ = rows.mean(axis=0).tolist()
    return {
        "scans": len(rows),
        "cpu_s": cpu,
        "dice": score,
        "equal_voxels": equal,
        "least_dice_with_accurate": float(rows[:, 3].min()),
    }


def dice(one: NDArray, other: NDArray, value: int) -> float:
    """Return the Dice of a label in two masks; 1 if neither has it."""
    first, second = one == value, other == value
    total = first.sum() + second.sum()
    return float(2 * (first & second).sum() / total) if total else 1.0


if __name__ == "__main__":
    main()
