"""Score a model on the held-out hippocampus cases, and read a run's pace: shared by the benchmarks."""

from __future__ import annotations

import json
import shutil
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory

from medseg.batch.segment_folder import segment_folder
from medseg.networks.model import load_model
from medseg.quality.evaluate import Evaluation, Pair, evaluate_pairs


def score(model: Path, data: Path) -> Evaluation:
    """Segment the held-out scans with the model folder as a user does, and compare with their masks."""
    held_out = json.loads((data / "splits.json").read_text())["validation"]
    labels = load_model(model).labels
    with TemporaryDirectory() as temporary:
        scans, results = Path(temporary) / "scans", Path(temporary) / "results"
        scans.mkdir()
        for case in held_out:
            shutil.copy(data / "images" / f"{case}.nii.gz", scans)
        segment_folder(scans, model, results)
        pairs = [
            Pair(case, results / "cases" / case / "mask.nii.gz", data / "labels" / f"{case}.nii.gz")
            for case in held_out
        ]
        return evaluate_pairs(pairs, labels)


def step_seconds(run_folder: Path) -> list[float]:
    """Return the seconds a step took in each stretch between two log lines; a pause of the machine is one of them."""
    lines = (run_folder / "fit" / "events.jsonl").read_text().splitlines()
    steps = [event for event in map(json.loads, lines) if event["event"] == "step"]
    return [
        (b["elapsed_s"] - a["elapsed_s"]) / (b["step"] - a["step"]) for a, b in pairwise(steps) if b["step"] > a["step"]
    ]
