"""Read a mask that a reviewer hands in, and lay it on the scan's grid: exactly, or not at all."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from medseg.boxes import label_boxes
from medseg.errors import GeometryError, LabelError, ReasonCode, ScanError
from medseg.io.nifti import read_mask
from medseg.io.nifti_header import ONE_FILE_ENDINGS
from medseg.io.slicer import COMPLETED, Segment, Segmentation, read_seg_nrrd
from medseg.labels import LabelMap
from medseg.measures.features import organs_of
from medseg.review.folder import CASE_TAG, ReviewCase
from medseg.review.identity import labels_with_segments, match_segments
from medseg.review.lattice import is_beside, place
from medseg.review.refusal import Refusal, ReviewError
from medseg.text import printable
from medseg.volume import Mask

SLICER_ENDING = ".seg.nrrd"
DICOM_ENDING = ".dcm"
ENDINGS = (SLICER_ENDING, *ONE_FILE_ENDINGS, DICOM_ENDING)

GEOMETRY_REFUSALS = {
    ReasonCode.GRID_MISMATCH: (
        Refusal.OFF_GRID,
        "its voxels are not the scan's ({}); correct the mask on the scan itself, without resampling",
    ),
    ReasonCode.FOV_TRUNCATED: (Refusal.OUTSIDE_SCAN, "{}; erase what lies beyond it"),
}


@dataclass(frozen=True, slots=True)
class Terms:
    """On which terms a file is read.

    Attributes
    ----------
    is_final : a person said elsewhere that the case is done; the segments' own status then does not count.
    renamed : names of segments, and the labels that they are, where a person says so.
    """

    is_final: bool = False
    renamed: Mapping[str, str] = field(default_factory=dict)


def read_corrected(path: Path, case: ReviewCase, labels: LabelMap, prediction: Mask, terms: Terms) -> Mask:
    """Return a reviewer's mask on the scan's grid.

    Parameters
    ----------
    path : .seg.nrrd, .nii, .nii.gz, or a DICOM segmentation called .dcm.
    case : what it must belong to.
    labels : of the model.
    prediction : what the model drew: a structure in it may be emptied, but not left out.

    Raises
    ------
    ReviewError
        With the reason; nothing is guessed.
    """
    try:
        return _read(path, case, labels, prediction, terms)
    except GeometryError as error:
        code, words = GEOMETRY_REFUSALS.get(error.code, (Refusal.UNREADABLE, "{}"))
        raise ReviewError(code, f"{case.case}: {words.format(error)}") from None
    except (ScanError, LabelError) as error:
        raise ReviewError(Refusal.UNREADABLE, f"{case.case}: {printable(str(error))}; save it again") from None
    except ReviewError as error:
        raise ReviewError(error.code, f"{case.case}: {error}") from None


def _read(path: Path, case: ReviewCase, labels: LabelMap, prediction: Mask, terms: Terms) -> Mask:
    name = path.name.lower()
    if name.endswith(ONE_FILE_ENDINGS):
        mask = read_mask(path)
        _check_values(mask, labels)
        _check_place(mask, case)
    elif name.endswith(SLICER_ENDING):
        segmentation = read_seg_nrrd(path)
        _check_case(segmentation, case)
        used = _used(segmentation)
        if not terms.is_final:
            _check_status(used)
        mask = _composed(segmentation, used, labels, terms)
        _check_complete(segmentation, labels, prediction, terms)
        _check_claimed(segmentation, mask)
    elif name.endswith(DICOM_ENDING):
        from medseg.io.dicom_seg_read import read_dicom_seg  # highdicom costs a second to import

        segmentation = read_dicom_seg(path)
        mask = _composed(segmentation, _used(segmentation), labels, terms)
    else:
        raise ReviewError(
            Refusal.UNREADABLE, f"{printable(path.name)} is none of {', '.join(ENDINGS)}; save it as one of them"
        )
    if mask.grid.shape == (1, 1, 1) and not mask.array.any():  # so Slicer saves a segmentation without a voxel
        return Mask(np.zeros(case.grid.shape, labels.dtype), case.grid)
    return Mask(place(mask.array, mask.grid, case.grid).astype(labels.dtype), case.grid)


def _used(segmentation: Segmentation) -> list[Segment]:
    """Return the segments that have voxels."""
    present = [label_boxes(layer) for layer in segmentation.layers]
    return [segment for segment in segmentation.segments if segment.value in present[segment.layer]]


def _check_values(mask: Mask, labels: LabelMap) -> None:
    unknown = sorted(set(label_boxes(mask.array)) - {*labels.values, labels.ignore})
    if unknown:
        raise ReviewError(
            Refusal.UNKNOWN_SEGMENT, f"the mask holds the values {unknown[:8]}; the labels are {labels.describe()}"
        )


def _check_place(mask: Mask, case: ReviewCase) -> None:
    """Refuse a whole mask that lies whole voxels beside its scan: what wrote it lost the scan's place."""
    if is_beside(mask.grid, case.grid):
        raise ReviewError(
            Refusal.OFF_GRID,
            "the mask has the scan's size, but not its place: what wrote it lost the scan's origin; write it with the "
            "scan's own header",
        )


def _check_case(segmentation: Segmentation, case: ReviewCase) -> None:
    others = {segment.tags.get(CASE_TAG, case.case) for segment in segmentation.segments} - {case.case}
    if others:
        raise ReviewError(
            Refusal.OTHER_CASE,
            f"the file was made from case {printable(min(others))}; save each case under its own name",
        )


def _check_status(used: list[Segment]) -> None:
    open_ones = [segment for segment in used if segment.status != COMPLETED]
    if open_ones:
        status = printable(open_ones[0].status) or "not stated"
        raise ReviewError(
            Refusal.UNFINISHED,
            f"{len(open_ones)} of {len(used)} segments are not completed ({printable(open_ones[0].name)!r}: {status}); "
            "complete them, or give the case a verdict in worklist.csv",
        )


def _check_complete(segmentation: Segmentation, labels: LabelMap, prediction: Mask, terms: Terms) -> None:
    """Refuse a file in which a structure that the model drew has no segment: deleted or merged, who knows."""
    drawn = set(label_boxes(prediction.array))
    there = labels_with_segments(segmentation.segments, labels, terms.renamed)
    lacking = [label.name for label in labels.labels if label.value in drawn - there]
    if lacking:
        raise ReviewError(
            Refusal.MISSING_SEGMENT,
            f"the file has no segment called {lacking[0]!r}, which the model drew; add it again, empty if the "
            "structure is not there",
        )


def _check_claimed(segmentation: Segmentation, mask: Mask) -> None:
    """Refuse a file with voxels that none of its segments claims: they would be lost."""
    lost = np.count_nonzero(segmentation.layers.any(axis=0) & (mask.array == 0))
    if lost:
        raise ReviewError(
            Refusal.UNKNOWN_SEGMENT,
            f"{lost} voxels belong to no segment of the file; add a segment that says what they are, or erase them",
        )


def _composed(segmentation: Segmentation, used: list[Segment], labels: LabelMap, terms: Terms) -> Mask:
    """Return the segments as one mask on the file's grid.

    A lesion may overlap the organ that it lies in, and is painted over it. Any other overlap is refused.
    """
    values = match_segments(used, labels, terms.renamed)
    around = _surroundings(labels)
    mask = np.zeros(segmentation.grid.shape, labels.dtype)
    for position in sorted(values, key=lambda position: len(around[values[position]])):
        value, region = values[position], segmentation.region(used[position])
        below = mask[region]
        clash = ~np.isin(below, (0, *around[value]))
        if clash.any():
            other = next(label.name for label in labels.labels if label.value == below[clash][0])
            raise ReviewError(
                Refusal.OVERLAP,
                f"{int(clash.sum())} voxels belong to both {printable(used[position].name)!r} and {other!r}; give "
                "each to one of them",
            )
        mask[region] = value
    return Mask(mask, segmentation.grid)


def _surroundings(labels: LabelMap) -> dict[int, set[int]]:
    """Return for each label value those of everything that it lies in."""
    organs = organs_of(labels)
    around: dict[int, set[int]] = {}
    for value in labels.values:
        found, todo = set[int](), list(organs.get(value, ()))
        while todo:
            outer = todo.pop()
            if outer not in found:
                found.add(outer)
                todo += organs.get(outer, ())
        around[value] = found - {value}
    return around
