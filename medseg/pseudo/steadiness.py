"""Do rounds still help? Decisions from the pseudo-labels of two rounds."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from medseg.catalog.pseudo_labels import LABEL, PseudoLabelRecord
from medseg.geometry import reorder
from medseg.io.nifti import read_mask
from medseg.labels import IGNORE_INDEX
from medseg.training.promotion import Verdict

MOST_DRIFT = 0.2
"""Relative change of a structure's mean volume over the unlabelled scans from round to round: beyond, teachers and
students lead each other astray."""

LEAST_CHURN = 0.01
"""Share of foreground voxels whose label changed from round to round: below, another round learns nothing new."""


def drifted(now: Sequence[PseudoLabelRecord], before: Sequence[PseudoLabelRecord]) -> Verdict:
    """Return whether a structure's mean volume over the unlabelled scans, but those left out, drifted too far."""
    known, counted = ({record.case: record for record in side if _counts(record)} for side in (before, now))
    pairs = [(counted[case], known[case]) for case in sorted(known.keys() & counted.keys())]
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
        label, earlier = (read_mask(path) for path in paths)  # one that a person saved may have its axes otherwise
        new, old = reorder(label.array, label.grid, earlier.grid), earlier.array
        foreground = np.isin(new, (0, IGNORE_INDEX), invert=True) | np.isin(old, (0, IGNORE_INDEX), invert=True)
        total += int(foreground.sum())
        changed += int((foreground & (new != old)).sum())
    return changed / total if total else 1.0


def _counts(record: PseudoLabelRecord) -> bool:
    return bool(record.volumes_ml) and record.status not in ("left-out", "rejected")
