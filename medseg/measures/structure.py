"""The one look at a mask: where each label is, in which components, and what the scan is like inside.

Everything that is said of structures is derived from it: what quality is judged by
(`medseg.measures.features`) and what people read (`medseg.measures.measure`). Structures come one at a
time, so that memory holds the voxels of one label, not of all.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from medseg.boxes import Box, label_boxes
from medseg.geometry import AXIS_NAMES, Grid
from medseg.labels import Label, LabelMap
from medseg.measures.intensity import Intensity
from medseg.volume import Mask, Volume

TOUCHING = np.ones((3, 3, 3), dtype=bool)
"""Voxels that share a corner belong to one component (26 neighbours), as in the clean-up."""

Position = tuple[float, float, float]


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """Some voxels of a scan: those of a label, or of one component of it.

    Attributes
    ----------
    volume : the scan.
    box : where they are.
    inside : bool, as large as the box; which of its voxels they are, at least one.
    voxels : their number.
    centroid_voxel : centre of mass, voxel index of the scan from 0.
    centroid_mm : the same in the world, mm, RAS+.
    borders : sides of the scan that they touch: letters of L, R, P, A, I, S.
    values : for each channel their intensities, in the scan's units.
    intensity : for each channel mean and standard deviation of these.
    """

    volume: Volume
    box: Box
    inside: NDArray[np.bool_]
    voxels: int
    centroid_voxel: Position
    centroid_mm: Position
    borders: str
    values: tuple[NDArray[np.float32], ...]
    intensity: tuple[Intensity, ...]

    @classmethod
    def of(cls, volume: Volume, box: Box, inside: NDArray[np.bool_]) -> Part:
        """Measure the voxels `inside` a box of the scan."""
        centroid = _centroid(inside, box)
        values = tuple(channel[box][inside] for channel in volume.array)
        return cls(
            volume=volume,
            box=box,
            inside=inside,
            voxels=len(values[0]),
            centroid_voxel=_rounded(centroid),
            centroid_mm=_rounded((volume.grid.affine @ [*centroid, 1.0])[:3]),
            borders=touched_sides(box, volume.grid),
            values=values,
            intensity=tuple(Intensity.of(inside_channel) for inside_channel in values),
        )

    @property
    def volume_ml(self) -> float:
        """Volume, ml."""
        return self.voxels * self.volume.grid.voxel_ml


@dataclass(frozen=True, slots=True, eq=False)
class Structure:
    """One label of a mask that has at least one voxel.

    Attributes
    ----------
    label : its entry in the label map.
    whole : all its voxels.
    numbers : as large as the box of `whole`; the number of each voxel's component from 1, elsewhere 0.
    sizes : voxels of each component, from number 1 on.
    """

    label: Label
    whole: Part
    numbers: NDArray[np.int32]
    sizes: NDArray[np.intp]

    def largest(self, most: int) -> Iterator[Part]:
        """Yield the components, at most so many, the largest first."""
        if len(self.sizes) == 1:
            yield self.whole
            return
        boxes = ndimage.find_objects(self.numbers)
        for index in np.argsort(-self.sizes, kind="stable")[:most]:
            box = boxes[index]
            x, y, z = (slice(o.start + p.start, o.start + p.stop) for o, p in zip(self.whole.box, box, strict=True))
            yield Part.of(self.whole.volume, (x, y, z), self.numbers[box] == index + 1)


def find_structures(volume: Volume, mask: Mask, labels: LabelMap) -> Iterator[Structure]:
    """Yield every label that occurs, in the order of the label map.

    Parameters
    ----------
    volume : the scan, all its channels.
    mask : on the scan's grid; values that `labels` doesn't know are background.
    """
    boxes = label_boxes(mask.array)
    for label in labels.labels:
        if label.value in boxes:
            box = boxes[label.value]
            inside = mask.array[box] == label.value
            numbers, count = ndimage.label(inside, TOUCHING)
            sizes = np.bincount(numbers.ravel(order="K"), minlength=count + 1)[1:]
            yield Structure(label, Part.of(volume, box, inside), numbers, sizes)


def touched_sides(box: Box, grid: Grid) -> str:
    """Return the anatomical letters of the sides of a grid that a box touches; an axis of one voxel has none.

    Examples
    --------
    >>> touched_sides((slice(0, 2), slice(1, 5), slice(0, 1)), Grid((4, 5, 1), np.eye(4)))
    'LA'
    """
    orientation = grid.to_canonical()
    letters = ""
    for world, (axis, flip) in enumerate(zip(orientation.axes, orientation.flips, strict=True)):
        size, side = grid.shape[axis], box[axis]
        if size > 1:
            at_start, at_end = side.start == 0, side.stop == size
            low, high = (at_end, at_start) if flip else (at_start, at_end)
            letters += AXIS_NAMES[world][0] * low + AXIS_NAMES[world][1] * high
    return letters


def _centroid(inside: NDArray[np.bool_], box: Box) -> NDArray[np.float64]:
    """Return the mean voxel index; counting along the axes spares listing every voxel."""
    index = []
    for axis, side in enumerate(box):
        counts = np.count_nonzero(inside, axis=tuple(other for other in range(3) if other != axis))
        index.append(side.start + np.average(np.arange(len(counts)), weights=counts))
    return np.array(index)


def _rounded(position: NDArray[np.float64]) -> Position:
    x, y, z = (round(float(value), 3) for value in position)
    return x, y, z
