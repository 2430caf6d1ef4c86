"""Compare two models case by case."""

from __future__ import annotations

from collections import defaultdict
from statistics import fmean

import numpy as np

from medseg.quality.evaluate import Evaluation

BOOTSTRAPS = 2000


def case_dice(evaluation: Evaluation) -> dict[str, float]:
    """Return each case's mean Dice over its structures."""
    by_case = defaultdict(list)
    for row in evaluation.scores:
        if row.dice is not None:
            by_case[row.case].append(row.dice)
    return {case: fmean(values) for case, values in by_case.items()}


def difference(better: dict[str, float], other: dict[str, float]) -> tuple[float, float, float]:
    """Return the mean difference over cases and its 95 % interval, from bootstraps over cases."""
    gains = np.array([better[case] - other[case] for case in sorted(better.keys() & other.keys())])
    rows = np.random.default_rng(0).integers(len(gains), size=(BOOTSTRAPS, len(gains)))
    low, high = np.percentile(gains[rows].mean(axis=1), [2.5, 97.5])
    return round(float(gains.mean()), 4), round(float(low), 4), round(float(high), 4)
