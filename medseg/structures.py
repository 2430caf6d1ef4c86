"""What one mask on its scan is like, in numbers: the structures' sizes, places and intensities.

Training masks and predicted masks are measured by the same function, so that a prediction can be compared
with what people drew (`medseg.reference`). None of the numbers needs a true mask.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field
from scipy import ndimage

from medseg.boxes import Box, label_boxes
from medseg.geometry import AXIS_NAMES, Grid
from medseg.labels import LabelMap
from medseg.volume import Mask, Volume

TOUCHING = np.ones((3, 3, 3), dtype=bool)
"""Neighbourhood of a component: 26, as in the clean-up."""

SPECK_SHARE = 0.001
"""Components smaller than this share of their structure are not counted: people's masks have single stray
voxels, too, and a report that complains about those is not read."""

SAMPLED_VOXELS = 1_000_000
"""Voxels looked at for the intensities of a whole scan, evenly spaced."""


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Intensity(_Part):
    """Intensities of one channel somewhere, in the scan's units (HU for CT)."""

    mean: float = Field(description="Mean")
    sd: float = Field(ge=0, description="Standard deviation")


class StructureFeatures(_Part):
    """One label of a mask, found in at least one voxel."""

    volume_ml: float = Field(gt=0, description="Volume, ml")
    components: int = Field(ge=0, description="26-connected components without specks")
    largest_share: float = Field(gt=0, le=1, description="Share of the largest component in the volume")
    borders: str = Field("", description="Sides of the scan that it touches: letters of L, R, P, A, I, S")
    centroid_mm: tuple[float, float, float] = Field(description="Centre of mass, world mm, RAS+")
    intensity: tuple[Intensity, ...] = Field(description="Intensities inside it, one entry a channel")
    outside_share: float | None = Field(
        None, ge=0, le=1, description="Share in components that don't touch the organ it lies in; null: no such organ"
    )


class TargetUncertainty(_Part):
    """How sure the network was of one target (label or region), measured on the network's grid."""

    confidence: float | None = Field(description="Mean probability inside the target; null: not found")
    entropy: float | None = Field(description="Mean entropy inside it, 0 (sure) to 1 (undecided)")
    border_entropy: float | None = Field(description="Mean entropy of its outermost voxels")
    soft_dice: float | None = Field(description="Dice of the target with its own probabilities")
    soft_ml: float = Field(ge=0, description="Sum of its probabilities everywhere, as a volume, ml")
    agreement: float | None = Field(
        None, description="Mean Dice of single folds and mirrorings with their average; null: there was only one pass"
    )


class CaseFeatures(_Part):
    """All that is known of a segmented case without a true mask."""

    channels: tuple[Intensity, ...] = Field(description="Intensities of the whole scan, one entry a channel")
    structures: dict[str, StructureFeatures] = Field(description="The labels that were found, by name")
    uncertainty: dict[str, TargetUncertainty] = Field(default_factory=dict, description="By target")


def measure_scan(volume: Volume) -> tuple[Intensity, ...]:
    """Return mean and standard deviation of each whole channel, from evenly spaced voxels."""
    step = max(1, round((volume.array[0].size / SAMPLED_VOXELS) ** (1 / 3)))
    return tuple(_intensity(channel[::step, ::step, ::step]) for channel in volume.array)


def measure_structures(volume: Volume, mask: Mask, labels: LabelMap) -> dict[str, StructureFeatures]:
    """Return what each label of a mask is like; labels that don't occur are left out.

    Parameters
    ----------
    volume : the scan, all its channels.
    mask : on the scan's grid; values that `labels` doesn't know are background.

    Notes
    -----
    512x512x256 with a liver, two kidneys and a lesion: 0.3 s, most of it for the components.
    """
    boxes = label_boxes(mask.array)
    organs = organs_of(labels)
    return {
        label.name: _measure(volume, mask, label.value, boxes[label.value], organs.get(label.value, ()))
        for label in labels.labels
        if label.value in boxes
    }


def organs_of(labels: LabelMap) -> dict[int, tuple[int, ...]]:
    """Return, for label values that lie in an organ, the values of that organ.

    The organ is the label that `Label.within` names, else what the smallest larger region has beyond the
    region of the label: of "kidney with tumour" around "tumour" the kidney.

    Examples
    --------
    >>> organs_of(LabelMap.parse({"whole": [1, 2], "tumour": 2}))
    {2: (1,)}
    """
    values = {label.name: label.value for label in labels.labels}
    found: dict[int, tuple[int, ...]] = {
        label.value: (values[label.within],) for label in labels.labels if label.within
    }
    for region in sorted(labels.regions, key=lambda r: len(r.values)):  # the innermost speaks for its labels
        around = [r for r in labels.regions if set(r.values) > set(region.values)]
        if around:
            outer = min(around, key=lambda r: len(r.values))
            rest = tuple(value for value in outer.values if value not in region.values)
            for value in region.values:
                found.setdefault(value, rest)
    return found


def _measure(volume: Volume, mask: Mask, value: int, box: Box, organ: tuple[int, ...]) -> StructureFeatures:
    inside = mask.array[box] == value
    components, count = ndimage.label(inside, TOUCHING)
    sizes = np.bincount(components.ravel(order="K"), minlength=count + 1)[1:]
    total = int(sizes.sum())
    x, y, z = _centroid(inside, box, mask.grid)
    return StructureFeatures(
        volume_ml=total * mask.grid.voxel_ml,
        components=int(np.count_nonzero(sizes >= max(1, SPECK_SHARE * total))),
        largest_share=float(sizes.max() / total),
        borders=_borders(box, mask.grid),
        centroid_mm=(x, y, z),
        intensity=tuple(_intensity(channel[box][inside]) for channel in volume.array),
        outside_share=_outside_share(mask.array, box, components, sizes, organ) if organ else None,
    )


def _intensity(values: NDArray[np.float32]) -> Intensity:
    mean = float(values.mean(dtype=np.float64))
    return Intensity(mean=mean, sd=float(np.sqrt(np.mean((values - mean) ** 2, dtype=np.float64))))


def _centroid(inside: NDArray[np.bool_], box: Box, grid: Grid) -> tuple[float, float, float]:
    index = np.ones(4)
    for axis, side in enumerate(box):
        counts = np.count_nonzero(inside, axis=tuple(other for other in range(3) if other != axis))
        index[axis] = side.start + np.average(np.arange(len(counts)), weights=counts)
    x, y, z, _ = (float(round(position, 3)) for position in grid.affine @ index)
    return x, y, z


def _borders(box: Box, grid: Grid) -> str:
    """Return the anatomical letters of the sides that a box touches; an axis of one voxel has none."""
    orientation = grid.to_canonical()
    letters = ""
    for world, (axis, flip) in enumerate(zip(orientation.axes, orientation.flips, strict=True)):
        size, side = grid.shape[axis], box[axis]
        if size > 1:
            at_start, at_end = side.start == 0, side.stop == size
            low, high = (at_end, at_start) if flip else (at_start, at_end)
            letters += AXIS_NAMES[world][0] * low + AXIS_NAMES[world][1] * high
    return letters


def _outside_share(
    array: NDArray, box: Box, components: NDArray, sizes: NDArray[np.intp], organ: tuple[int, ...]
) -> float:
    """Return the share of a structure in components of which no voxel has a neighbour in the organ."""
    wide = tuple(slice(max(0, s.start - 1), s.stop + 1) for s in box)
    near_organ = ndimage.binary_dilation(np.isin(array[wide], organ), TOUCHING)
    inner = tuple(slice(s.start - w.start, s.stop - w.start) for s, w in zip(box, wide, strict=True))
    attached = np.unique(components[near_organ[inner]])
    return float(1 - sizes[attached[attached > 0] - 1].sum() / sizes.sum())
