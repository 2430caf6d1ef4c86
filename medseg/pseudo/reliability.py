"""From maps of a scan to a pseudo-label: what is learnt, with what weight, and what is ignored.

A voxel counts with w = [confidence >= threshold of its class] * [features agree] * [its part is plausible] *
(1 - entropy) * similarity of the scan, half of it next to another class. Where w would be 0 by one of the
conditions the label is 255, ignored: what teachers are not sure of is never called background.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage

from medseg.boxes import label_boxes
from medseg.catalog.pseudo_labels import PseudoLabelMaps
from medseg.config import PseudoLabelConfig
from medseg.geometry import Grid
from medseg.inference.uncertainty import borders
from medseg.labels import IGNORE_INDEX, LabelMap
from medseg.measures.features import SPECK_SHARE
from medseg.measures.structure import TOUCHING
from medseg.pseudo.maps import ScanMaps
from medseg.pseudo.probability import decision_names

SMALLER, LARGER = 0.5, 2.0
"""Parts of a structure may be this much smaller than the 1st percentile of those that people drew, and larger than
the 99th, before they are ignored."""


@dataclass(frozen=True, slots=True)
class PartRange:
    """Connected parts of one label, over the labelled cases.

    Attributes
    ----------
    low_ml, high_ml : 1st and 99th percentile of their volumes.
    most : largest number of them in one case.
    """

    low_ml: float
    high_ml: float
    most: int


@dataclass(frozen=True, slots=True)
class Gates:
    """What a scan's voxels are judged by.

    Attributes
    ----------
    thresholds : least confidence of each decision.
    doubtable : for each decision, whether features may speak against it.
    parts : what is known of each label value's parts; those that are missing are not judged.
    similarity : weight of the whole scan.
    """

    thresholds: Sequence[float]
    doubtable: Sequence[bool]
    parts: Mapping[int, PartRange]
    similarity: float = 1.0


@dataclass(frozen=True, slots=True, eq=False)
class Judged:
    """A pseudo-label, and the share of each decision's voxels that count, by name."""

    maps: PseudoLabelMaps
    kept: dict[str, float]


def judge(maps: ScanMaps, grid: Grid, labels: LabelMap, gates: Gates, config: PseudoLabelConfig) -> Judged:
    """Return the pseudo-label of a scan: what is not believed is ignored, the rest weighs as much as it is believed.

    Parameters
    ----------
    maps : what the teachers say of each voxel.
    grid : of the scan, which the maps lie on.
    config : which gates and weights are used.
    """
    believed = maps.confidence >= np.rint(255 * np.asarray(gates.thresholds))[maps.decided]
    if config.prototype_gate:
        believed &= ~(maps.doubted & np.asarray(gates.doubtable)[maps.decided])
    predicted = labels.painted[maps.decided]
    if config.component_filter:
        believed &= ~strange_parts(predicted, maps.confidence, grid.voxel_ml, gates.parts, config.thresholds[0])
    weight = np.full(maps.decided.shape, 255 * gates.similarity, dtype=np.float32)
    if config.entropy_weight:
        weight *= 1 - maps.uncertainty.astype(np.float32) / 255
    weight[borders(torch.from_numpy(maps.decided)).numpy()] *= config.boundary_weight
    label = np.where(believed, predicted, IGNORE_INDEX).astype(predicted.dtype)
    judged = PseudoLabelMaps(
        grid=grid,
        label=label,
        confidence=maps.confidence,
        uncertainty=maps.uncertainty,
        weight=np.where(believed, np.rint(weight), 0).astype(np.uint8),
    )
    return Judged(judged, _kept(maps.decided, believed, labels))


def strange_parts(
    predicted: NDArray,
    confidence: NDArray[np.uint8],
    voxel_ml: float,
    ranges: Mapping[int, PartRange],
    least_confidence: float,
) -> NDArray[np.bool_]:
    """Return the voxels of connected parts of a label whose size or number no person's mask has, or that are unsure.

    Of more parts than any labelled case has the largest are not strange.

    Parameters
    ----------
    predicted : (X, Y, Z) label values.
    least_confidence : mean confidence (0 to 1) that a part must have.
    """
    strange = np.zeros(predicted.shape, dtype=bool)
    boxes = label_boxes(predicted)
    for value, usual in ranges.items():
        if value not in boxes:
            continue
        box = boxes[value]
        numbers, count = ndimage.label(predicted[box] == value, TOUCHING)
        sizes = np.bincount(numbers.ravel(), minlength=count + 1)
        sure = np.bincount(numbers.ravel(), confidence[box].ravel(), minlength=count + 1)
        volumes = sizes * voxel_ml
        odd = (volumes < SMALLER * usual.low_ml) | (volumes > LARGER * usual.high_ml)
        odd |= sure < 255 * least_confidence * sizes
        odd[1 + np.argsort(-sizes[1:], kind="stable")[usual.most :]] = True
        odd[0] = False
        strange[box] |= odd[numbers]
    return strange


def part_ranges(masks: Sequence[Mapping[int, Sequence[float]]]) -> dict[int, PartRange]:
    """Return what is known of each label's parts from the volumes (ml) of them in each labelled case.

    Of a label that is all specks nothing is.
    """
    ranges = {}
    for value in sorted({value for mask in masks for value, volumes in mask.items() if volumes}):
        volumes = [volume for mask in masks for volume in mask.get(value, ())]
        low, high = np.percentile(volumes, [1, 99])
        ranges[value] = PartRange(float(low), float(high), max(len(mask.get(value, ())) for mask in masks))
    return ranges


def part_volumes(array: NDArray, grid: Grid, labels: LabelMap) -> dict[int, list[float]]:
    """Return the volumes (ml) of each label's connected parts, without specks; labels that don't occur are left out."""
    found = {}
    boxes = label_boxes(array)
    for value in labels.values:
        if value in boxes:
            numbers, _ = ndimage.label(array[boxes[value]] == value, TOUCHING)
            sizes = np.bincount(numbers.ravel())[1:]
            found[value] = (sizes[sizes >= SPECK_SHARE * sizes.sum()] * grid.voxel_ml).tolist()
    return found


def _kept(decided: NDArray[np.uint8], believed: NDArray[np.bool_], labels: LabelMap) -> dict[str, float]:
    names = decision_names(labels)
    total = np.bincount(decided.ravel(), minlength=len(names))
    kept = np.bincount(decided.ravel(), believed.ravel(), minlength=len(names))
    return {name: round(float(k / n), 6) for name, k, n in zip(names, kept, total, strict=True) if n}
