"""Compare what a reader gave with the truth, at the positions in space that the reader itself claims."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from pitfalls.registry import Truth

TOLERANCE_HU = 0.6
"""Whole HU are stored, so half a unit is rounding."""

AIR_HU = -1000.0
"""Where the truth is padding, nothing brighter than air may stand."""

Word = Literal["right", "part", "wrong", "refused"]


@dataclass(frozen=True, slots=True)
class Placed:
    """A volume as a reader gave it: values (X, Y, Z) and the affine from index to RAS mm."""

    values: NDArray
    affine: NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Verdict:
    """How a reader did.

    Attributes
    ----------
    word : "right": all volumes, whole and to the voxel; "part": nothing false, but volumes are cut, left out or added;
        "wrong": some voxel holds what belongs elsewhere; "refused": no volume.
    error : largest error of a voxel in HU, of the volumes that came out.
    """

    word: Word
    error: float = 0.0


def judge(volumes: Sequence[Placed], truths: Sequence[Truth]) -> Verdict:
    """Return how well `volumes` tell `truths`, in any order."""
    if not volumes:
        return Verdict("refused")
    left, whole, worst = list(truths), True, 0.0
    for volume in volumes:
        matches = [(error_of(volume, truth), not covers(volume, truth), truth) for truth in left or truths]
        error, incomplete, best = min(matches, key=lambda match: (match[0] > TOLERANCE_HU, match[1], match[0]))
        left = [truth for truth in left if truth is not best]
        worst, whole = max(worst, error), whole and not incomplete
    if not worst <= TOLERANCE_HU:
        return Verdict("wrong", worst)
    return Verdict("right" if whole and len(volumes) == len(truths) else "part", worst)


def error_of(volume: Placed, truth: Truth) -> float:
    """Return the largest difference in HU between a volume and the truth at its voxels' own positions."""
    index = np.stack(np.meshgrid(*map(np.arange, volume.values.shape), indexing="ij"), axis=-1)
    expected = truth.field(index @ volume.affine[:3, :3].T + volume.affine[:3, 3])
    values = volume.values.astype(np.float64)
    padding = np.isnan(expected)
    errors = np.where(padding, np.maximum(values - AIR_HU, 0), np.abs(values - np.where(padding, 0, expected)))
    return float(np.inf if np.isnan(errors).any() else errors.max())


def covers(volume: Placed, truth: Truth) -> bool:
    """Whether the corner voxels of both lie at the same places, whatever the order of axes."""
    corners = corners_of(volume.values.shape, volume.affine)
    distances = np.linalg.norm(truth.corners[:, None] - corners[None], axis=-1)
    return bool(max(distances.min(axis=0).max(), distances.min(axis=1).max()) <= truth.slack_mm)


def corners_of(shape: Sequence[int], affine: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the (8, 3) centres of a grid's corner voxels."""
    index = np.array(list(product(*((0, size - 1) for size in shape[:3]))))
    return np.asarray(index @ affine[:3, :3].T + affine[:3, 3])
