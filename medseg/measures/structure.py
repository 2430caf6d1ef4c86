"""The one look at a mask: where each label is, in which components, and what the scan is like inside.

Everything that is said of structures is derived from it: what quality is judged by
(`medseg.measures.features`) and what people read (`medseg.measures.measure`). The mask is read once, as runs
(`medseg.measures.runs`); structures come one at a time, so that memory holds the intensities of one label, not of all.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medseg.boxes import Box
from medseg.geometry import AXIS_NAMES, Grid
from medseg.labels import Label, LabelMap
from medseg.measures.intensity import Intensity
from medseg.measures.runs import Components, Runs, connect, find_runs
from medseg.volume import Mask, Volume

TOUCHING = np.ones((3, 3, 3), dtype=bool)
"""Voxels that share a corner belong to one component: 26 neighbours, as nnU-Net's."""

Position = tuple[float, float, float]


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """Some voxels of a scan: those of a label, or of one component of it.

    Attributes
    ----------
    volume : the scan.
    runs : which of its voxels they are, at least one.
    box : where they are.
    voxels : their number.
    centroid_voxel : centre of mass, voxel index of the scan from 0.
    centroid_mm : the same in the world, mm, RAS+.
    borders : sides of the scan that they touch: letters of L, R, P, A, I, S.
    values : for each channel their intensities, in the scan's units.
    intensity : for each channel mean and standard deviation of these.
    """

    volume: Volume
    runs: Runs
    box: Box
    voxels: int
    centroid_voxel: Position
    centroid_mm: Position
    borders: str
    values: tuple[NDArray[np.float32], ...]
    intensity: tuple[Intensity, ...]

    @classmethod
    def of(cls, volume: Volume, runs: Runs) -> Part:
        """Measure voxels of the scan."""
        centroid, box = runs.centroid, runs.box
        values = tuple(runs.values(channel) for channel in volume.array)
        return cls(
            volume=volume,
            runs=runs,
            box=box,
            voxels=runs.voxels,
            centroid_voxel=_rounded(centroid),
            centroid_mm=_rounded((volume.grid.affine @ [*centroid, 1.0])[:3]),
            borders=touched_sides(box, volume.grid),
            values=values,
            intensity=tuple(Intensity.of(inside) for inside in values),
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
    parts : its connected components.
    neighbours : the runs of every label of the mask, by value.
    """

    label: Label
    whole: Part
    parts: Components
    neighbours: dict[int, Runs]

    def largest(self, most: int) -> Iterator[Part]:
        """Yield the components, at most so many, the largest first."""
        if len(self.parts) == 1:
            yield self.whole
            return
        for number in self.parts.by_size()[:most]:
            yield Part.of(self.whole.volume, self.whole.runs.chosen(self.parts.number == number))


def find_structures(volume: Volume, mask: Mask, labels: LabelMap, slice_axis: int | None = None) -> Iterator[Structure]:
    """Yield every label that occurs, in the order of the label map.

    Parameters
    ----------
    volume : the scan, all its channels.
    mask : on the scan's grid; values that `labels` doesn't know are background.
    slice_axis : axis across which the runs' slices lie; None: any.
    """
    found = find_runs(mask.array, slice_axis)
    for label in labels.labels:
        if label.value in found:
            runs = found[label.value]
            yield Structure(label, Part.of(volume, runs), connect(runs), found)


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


def _rounded(position: NDArray[np.float64]) -> Position:
    x, y, z = (round(float(value), 3) for value in position)
    return x, y, z
