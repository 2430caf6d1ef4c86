"""How well does expected Dice rank cases? Measured on a cross-validated run, on cases nobody fitted on.

    python benchmarks/quality_control/rank_cases.py RUN_FOLDER [--out ranking.json]

RUN_FOLDER is one that `medseg train --folds N` has finished: config.yaml, fingerprint.json and model/ with
one network a fold. Every training case is segmented again by the network that had not learnt from it; the
calibration is then fitted on all folds but one and judged on that one, in turn, so that neither the network
nor the calibration has seen a judged case. Compared with it are scores that need no fit.

If the dataset has validation cases, they are segmented by the whole ensemble and judged with the
calibration that the model carries: what a user gets.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from medseg.catalog.splits import k_folds
from medseg.config import load_config
from medseg.inference.hardware import choose_device
from medseg.networks.model import Model, load_model
from medseg.quality.calibration import FEATURES, Observation, expected_dice, fit_calibration, observe, rank
from medseg.training.setup import Setup, set_up
from medseg.training.validation import Validator, score
from medseg.volume import Case


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--device", default="auto")
    arguments = parser.parse_args()

    config = load_config(arguments.run / "config.yaml")
    setup = set_up(config, arguments.run)
    model = load_model(arguments.run / "model")
    if len(model.networks) < 2 or model.reference is None:
        sys.exit(f"{arguments.run}: its model has no folds; train with --folds 5")
    device = choose_device(arguments.device)
    folds = k_folds(setup.train, len(model.networks), config.training.seed)
    observed = [look(setup, model, [number], fold.validation, device) for number, fold in enumerate(folds)]
    result = {"run": config.name, "features": FEATURES, "out_of_fold": judge(observed)}
    if setup.held_out and model.reference.calibration:
        held_out = look(setup, model, range(len(model.networks)), setup.held_out, device)
        expected = [expected_dice(o.features, model.reference.calibration) for o in held_out]
        result["validation"] = rank(np.array(expected), dice_of(held_out)).model_dump()
    text = json.dumps(result, indent=2)
    print(text)
    if arguments.out:
        arguments.out.write_text(text + "\n", encoding="utf-8")


def look(
    setup: Setup, model: Model, networks: Sequence[int], cases: Sequence[Case], device: torch.device
) -> list[Observation]:
    """Segment and score cases with some of the model's networks."""
    labels = setup.dataset.labels
    validator = Validator(tuple(cases), setup.plan, labels, model.inference, device)
    comparisons = validator.compare([model.networks[number].to(device) for number in networks])
    rows = [(c.features, score([c], labels)) for c in comparisons]
    return observe(rows, model.reference)


def judge(folds: Sequence[Sequence[Observation]]) -> dict[str, object]:
    """Return the ranking of each fold by a calibration fitted on the others, and of single features."""
    expected: list[float] = []
    for left_out, fold in enumerate(folds):
        others = [o for number, part in enumerate(folds) if number != left_out for o in part]
        calibration = fit_calibration(others)
        if calibration is None:
            sys.exit(f"{len(others)} cases are too few to fit on")
        expected += [expected_dice(o.features, calibration) for o in fold]
    cases = [o for fold in folds for o in fold]
    dice = dice_of(cases)
    single = {
        name: rank(np.array([o.features[number] for o in cases]), dice).model_dump(exclude={"error"})
        for number, name in enumerate(FEATURES)
    }
    worst = float(np.quantile(dice, 0.1))
    return {
        "expected_dice": rank(np.array(expected), dice).model_dump(),
        "expected_dice_worst_tenth": rank(np.array(expected), dice, worst).model_dump(),
        "single_features": single,
    }


def dice_of(cases: Sequence[Observation]) -> np.ndarray:
    return np.array([o.dice for o in cases])


if __name__ == "__main__":
    main()
