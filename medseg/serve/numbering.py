"""Label maps as 3D Slicer numbers them: 1 to n, in the order in which their names are given.

The MONAI Label module takes the value k of a mask for the k-th name that it was told, whatever a model's own
values are, and hands in masks numbered in the order of its segments. So names decide on both ways.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from medseg.boxes import label_boxes
from medseg.io.nifti import inspect_nifti, read_mask
from medseg.io.slicer import Segment, write_seg_nrrd
from medseg.labels import LabelMap
from medseg.review.folder import CASE_TAG, ReviewCase
from medseg.review.identity import labels_with_segments, match_segments
from medseg.review.refusal import Refusal, ReviewError
from medseg.volume import Mask


def label_numbers(labels: LabelMap) -> dict[str, int]:
    """Return the number that each label has in a served mask."""
    return {label.name: number for number, label in enumerate(labels.labels, start=1)}


def numbered(mask: Mask, labels: LabelMap) -> Mask:
    """Return a mask with the labels' places in the label map as values.

    Parameters
    ----------
    mask : label values; what is no label becomes background.
    """
    return _translated(mask, {value: number for number, value in enumerate(labels.values, start=1)}, labels)


def write_named(path: Path, upload: Path, names: Sequence[str], case: ReviewCase, labels: LabelMap) -> None:
    """Write a label map that Slicer numbered as segments with names, by which an import knows them.

    Parameters
    ----------
    path : target, ending in .seg.nrrd.
    upload : NIfTI label map; the value k is the k-th of `names`.

    Raises
    ------
    ReviewError
        If it is larger than the scan, holds values without a name, or names that are no label.
    ScanError, LabelError
        If it is no mask.
    """
    check_size(inspect_nifti(upload).grid.shape, case)
    mask = read_mask(upload)
    used = sorted(set(label_boxes(mask.array)))
    if used and used[-1] > len(names):
        raise ReviewError(
            Refusal.UNKNOWN_SEGMENT,
            f"{case.case}: the mask holds the value {used[-1]}, but only {len(names)} segments are named; submit it "
            "with all its segments",
        )
    found = match_segments([_segment(names[number - 1], number) for number in used], labels)
    translated = _translated(mask, {used[place]: value for place, value in found.items()}, labels)
    there = labels_with_segments([_segment(name, 0) for name in names], labels)
    kept = tuple(label for label in labels.labels if label.value in there)
    if not kept:
        raise ReviewError(Refusal.UNKNOWN_SEGMENT, f"{case.case}: none of its segments is one of the labels")
    part = LabelMap(labels=tuple(label.model_copy(update={"within": None}) for label in kept))
    write_seg_nrrd(path, translated, part, {CASE_TAG: case.case})


def check_size(shape: Sequence[int], case: ReviewCase, layers: int = 1) -> None:
    """Refuse a mask of more voxels than its scan, before they are read.

    Parameters
    ----------
    layers : how often the scan's voxels may be there.
    """
    if int(np.prod(shape, dtype=object)) > layers * int(np.prod(case.grid.shape, dtype=object)):
        raise ReviewError(
            Refusal.OUTSIDE_SCAN,
            f"{case.case}: the mask has {'x'.join(map(str, shape))} voxels, the scan "
            f"{'x'.join(map(str, case.grid.shape))}; draw it on the scan itself",
        )


def _segment(name: str, value: int) -> Segment:
    return Segment(id="", name=name, value=value, colour=(0, 0, 0))


def _translated(mask: Mask, values: dict[int, int], labels: LabelMap) -> Mask:
    table = np.zeros(max(int(mask.array.max()), *values, 0) + 1, np.uint16)
    for value, new in values.items():
        table[value] = new
    found = table[mask.array]
    return Mask(found.astype(labels.dtype, copy=False), mask.grid)
