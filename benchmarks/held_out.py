"""Score a model on held-out cases or others, and read a run's pace: shared by the benchmarks."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory

from medseg.batch.segment_folder import segment_folder
from medseg.networks.model import load_model
from medseg.quality.evaluate import Evaluation, Pair, evaluate_pairs

HELD_OUT = 16
"""Cases kept from a dataset that names none for validation: a fifth of the left atrium's 80."""


def held_out_cases(data: Path) -> list[str]:
    """Return the cases that measure: the dataset's own, or some drawn once from those that it never labels."""
    splits = json.loads((data / "splits.json").read_text())
    if "validation" in splits:
        return list(splits["validation"])
    labelled = {case for name, cases in splits.items() if name.startswith("labelled_") for case in cases}
    return sorted(random.Random(0).sample(sorted(set(splits["train"]) - labelled), HELD_OUT))


def training_pool(data: Path) -> list[str]:
    """Return the cases that training may see, labelled or not."""
    return sorted(set(json.loads((data / "splits.json").read_text())["train"]) - set(held_out_cases(data)))


def score(model: Path, data: Path, cases: Sequence[str] | None = None) -> Evaluation:
    """Segment scans with the model folder as a user does, and compare with their masks.

    Parameters
    ----------
    cases : which scans; None: those held out.
    """
    cases = held_out_cases(data) if cases is None else cases
    labels = load_model(model, backend="auto").labels
    with TemporaryDirectory() as temporary:
        scans, results = Path(temporary) / "scans", Path(temporary) / "results"
        scans.mkdir()
        for case in cases:
            shutil.copy(data / "images" / f"{case}.nii.gz", scans)
        segment_folder(scans, model, results)
        pairs = [
            Pair(case, results / "cases" / case / "mask.nii.gz", data / "labels" / f"{case}.nii.gz") for case in cases
        ]
        return evaluate_pairs(pairs, labels)


def step_seconds(run_folder: Path) -> list[float]:
    """Return the seconds a step took in each stretch between two log lines; a pause of the machine is one of them."""
    lines = (run_folder / "fit" / "events.jsonl").read_text().splitlines()
    steps = [event for event in map(json.loads, lines) if event["event"] == "step"]
    return [
        (b["elapsed_s"] - a["elapsed_s"]) / (b["step"] - a["step"]) for a, b in pairwise(steps) if b["step"] > a["step"]
    ]
