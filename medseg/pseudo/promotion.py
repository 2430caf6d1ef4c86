"""Is a student good enough, and do rounds still help? Decisions from held-out labelled scans and from the labels."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

import numpy as np
from pydantic import BaseModel, ConfigDict

from medseg.catalog.pseudo_labels import LABEL, PseudoLabelRecord
from medseg.io.nifti import read_mask
from medseg.labels import IGNORE_INDEX
from medseg.quality.metrics import StructureScore
from medseg.training.labelled_weight import paired_difference

TARGET_TOLERANCE = 0.01
"""Dice by which a single structure may fall, if that is also within a standard error: with few cases, less is
chance; more, and a small structure starves for the others' sake."""

MOST_DRIFT = 0.2
"""Relative change of a structure's mean volume over the unlabelled scans from round to round: beyond, teachers and
students lead each other astray."""

LEAST_CHURN = 0.01
"""Share of foreground voxels whose label changed from round to round: below, another round learns nothing new."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """A decision and its reason."""

    passed: bool
    reason: str


class HeldOutScore(BaseModel):
    """Dice of one structure of one labelled scan, by a network that had not learnt from it; null: nothing to find."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    case: str
    target: str
    dice: float | None


def held_out_scores(scores: Iterable[StructureScore]) -> tuple[HeldOutScore, ...]:
    """Return what promotion is decided by."""
    return tuple(HeldOutScore(case=score.case, target=score.target, dice=score.dice) for score in scores)


def by_case(scores: Iterable[HeldOutScore]) -> dict[str, float]:
    """Return the mean Dice of each case."""
    found: dict[str, list[float]] = {}
    for score in scores:
        if score.dice is not None:
            found.setdefault(score.case, []).append(score.dice)
    return {case: fmean(values) for case, values in found.items()}


def compare(student: Sequence[HeldOutScore], supervised: Sequence[HeldOutScore]) -> Verdict:
    """Return whether students are not worse than supervised networks on the same held-out scans.

    They pass if the mean paired difference of the cases' Dice is not below 0, and no structure's is below both
    -`TARGET_TOLERANCE` and minus its standard error.
    """
    ours, theirs = by_case(student), by_case(supervised)
    if not ours.keys() & theirs.keys():
        return Verdict(False, "no labelled scan was held out from both")
    gain, error = paired_difference(ours, theirs)
    measured = f"held-out Dice {gain:+.4f} ± {error:.4f} over {len(ours.keys() & theirs.keys())} labelled cases"
    if gain < 0:
        return Verdict(False, f"students are worse than supervised networks: {measured}")
    for target in sorted({score.target for score in supervised}):
        of_target = [[score for score in scores if score.target == target] for scores in (student, supervised)]
        one, other = by_case(of_target[0]), by_case(of_target[1])
        if not one.keys() & other.keys():
            continue
        loss, error = paired_difference(one, other)
        if loss < -max(TARGET_TOLERANCE, error):
            return Verdict(False, f"students lose {target}: Dice {loss:+.4f} ± {error:.4f}, though {measured} in all")
    return Verdict(True, f"students are not worse than supervised networks: {measured}")


def fell(now: Mapping[str, float], before: Mapping[str, float]) -> Verdict:
    """Return whether held-out Dice fell by more than a standard error of the paired difference."""
    change, error = paired_difference(now, before)
    reason = f"held-out Dice changed by {change:+.4f} ± {error:.4f}"
    return Verdict(change < 0 and -change > error, reason)


def drifted(now: Sequence[PseudoLabelRecord], before: Sequence[PseudoLabelRecord]) -> Verdict:
    """Return whether a structure's mean volume over the unlabelled scans drifted too far."""
    known = {record.case: record for record in before if record.volumes_ml}
    pairs = [(record, known[record.case]) for record in now if record.volumes_ml and record.case in known]
    worst = Verdict(False, "volumes are steady")
    largest = MOST_DRIFT
    for name in sorted({name for record, _ in pairs for name in record.volumes_ml}):
        new, old = (np.mean([pair[side].volumes_ml.get(name, 0.0) for pair in pairs]) for side in (0, 1))
        drift = abs(new / old - 1) if old else (np.inf if new else 0.0)
        if drift > largest:
            largest = float(drift)
            worst = Verdict(True, f"the mean volume of {name} went from {old:.3g} to {new:.3g} ml in one round")
    return worst


def churn(now: Path, before: Path, cases: Sequence[str]) -> float:
    """Return the share of foreground voxels, in either of two folders, whose label differs."""
    changed = total = 0
    for case in cases:
        paths = [folder / case / LABEL for folder in (now, before)]
        if not all(path.is_file() for path in paths):
            continue
        new, old = (read_mask(path).array for path in paths)
        foreground = np.isin(new, (0, IGNORE_INDEX), invert=True) | np.isin(old, (0, IGNORE_INDEX), invert=True)
        total += int(foreground.sum())
        changed += int((foreground & (new != old)).sum())
    return changed / total if total else 1.0
