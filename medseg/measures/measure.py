"""Measure the structures and lesions of a mask: size, place, intensity, RECIST diameters.

What is computed is not a clinical reading: it follows the mask, right or wrong.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field
from scipy import ndimage

from medseg.boxes import Box, label_boxes
from medseg.geometry import Grid
from medseg.labels import Label, LabelMap
from medseg.measures.diameters import plane_diameters, solid_diameter
from medseg.volume import Mask, Volume

TOUCHING = np.ones((3, 3, 3), dtype=bool)
"""Voxels that share a corner belong to one component (26 neighbours)."""

MAX_LESIONS = 200
"""Lesions of one structure that are measured one by one, the largest first; `components` counts them all.
A mask with more is noise, and would fill the table and the evening."""

PERCENTILES = (5, 25, 50, 75, 95)

ANISOTROPY = 1.1
"""An axis this much coarser than both others is the slice axis."""

OBLIQUE_DEGREES = 10.0
"""Slices tipped further than this from an anatomical plane are called oblique."""

PLANES = ("sagittal", "coronal", "axial")


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class IntensityStatistics(_Part):
    """Intensities of one channel inside a structure, in the scan's units (HU for CT)."""

    mean: float = Field(description="Mean")
    sd: float = Field(description="Standard deviation over the voxels")
    p5: float = Field(description="5th percentile")
    p25: float = Field(description="25th percentile")
    p50: float = Field(description="Median")
    p75: float = Field(description="75th percentile")
    p95: float = Field(description="95th percentile")


class Measures(_Part):
    """One structure, or one lesion of it. What is undefined because nothing was found is null, never 0."""

    structure: str = Field(description="Name of the label")
    value: int = Field(description="Its value in the mask")
    lesion: int | None = Field(None, description="Number of the lesion, the largest first; null: the whole structure")
    voxels: int = Field(ge=0, description="Number of voxels")
    volume_ml: float = Field(ge=0, description="Volume, ml, as far as the scan shows it")
    components: int = Field(ge=0, description="26-connected components")
    incomplete: bool = Field(description="Whether it reaches the first or last voxel along an axis: the scan cuts it")
    centroid_mm: tuple[float, float, float] | None = Field(None, description="Centre of mass, world mm, RAS+")
    centroid_voxel: tuple[float, float, float] | None = Field(None, description="Centre of mass, voxel index from 0")
    long_mm: float | None = Field(None, description="Longest diameter within one slice, mm (RECIST 1.1)")
    short_mm: float | None = Field(None, description="Longest extent perpendicular to it in that slice, mm")
    plane: str = Field(description="Plane of the slices: axial, coronal or sagittal, or oblique and the nearest")
    slice: int | None = Field(None, description="Index of that slice along the slice axis, from 0")
    diameter_mm: float | None = Field(None, description="Longest distance between two of its points in space, mm")
    intensity: tuple[IntensityStatistics, ...] = Field((), description="Intensities inside it, one entry a channel")


def measure_mask(volume: Volume, mask: Mask, labels: LabelMap, slice_axis: int | None = None) -> tuple[Measures, ...]:
    """Measure every label of a mask, and every lesion of labels that hold lesions.

    Parameters
    ----------
    volume : the scan, all its channels; intensities in its units.
    mask : on the scan's grid; values that `labels` does not know are background.
    labels : those with `Label.lesion` are measured component by component, too.
    slice_axis : index axis along which the slices were acquired (of DICOM series the third); None: from
        the grid, see `likely_slice_axis`.

    Returns
    -------
    tuple of Measures
        In the order of the labels; a structure is followed by its lesions, the largest first. A label that
        does not occur has 0 voxels and nothing else.

    Notes
    -----
    A structure that the scan cuts is measured as far as it is seen and marked `incomplete`.
    One core: 512x512x256 with four organs 0.4 s, a hippocampus of 36x50x35 7 ms.
    """
    axis = likely_slice_axis(mask.grid) if slice_axis is None else slice_axis
    plane = plane_name(mask.grid, axis)
    boxes = label_boxes(mask.array)
    found: list[Measures] = []
    for label in labels.labels:
        box = boxes.get(label.value)
        if box is None:
            found.append(_absent(label, plane))
        else:
            found += _measure_label(volume, mask, label, box, axis)
    return tuple(found)


def likely_slice_axis(grid: Grid) -> int:
    """Return the axis along which the slices of a scan lie, as far as a grid tells.

    It is the axis that is clearly coarser than both others; where none is, the one closest to the body's
    long axis, because RECIST measures axial slices.

    Examples
    --------
    >>> likely_slice_axis(Grid((256, 20, 256), np.diag([1, 4, 1, 1])))
    1
    """
    order = np.argsort(grid.spacing)
    if grid.spacing[order[2]] > ANISOTROPY * grid.spacing[order[1]]:
        return int(order[2])
    return grid.to_canonical().axes[2]


def plane_name(grid: Grid, axis: int) -> str:
    """Return what the slices across `axis` are called, such as 'axial' or 'oblique coronal'."""
    one, other = (grid.directions[:, index] for index in range(3) if index != axis)
    normal = np.cross(one, other)
    cosines = np.abs(normal) / np.linalg.norm(normal)
    nearest = int(cosines.argmax())
    tipped = cosines[nearest] < np.cos(np.radians(OBLIQUE_DEGREES))
    return f"oblique {PLANES[nearest]}" if tipped else PLANES[nearest]


def _measure_label(volume: Volume, mask: Mask, label: Label, box: Box, axis: int) -> Iterator[Measures]:
    inside = mask.array[box] == label.value
    numbers, count = ndimage.label(inside, TOUCHING)
    whole = _measure(volume, inside, label, box, axis)
    yield whole.model_copy(update={"components": count})
    if not label.lesion:
        return
    sizes = np.bincount(numbers.ravel(), minlength=count + 1)[1:]
    parts = ndimage.find_objects(numbers)
    for rank, index in enumerate(np.argsort(-sizes, kind="stable")[:MAX_LESIONS], start=1):
        part = parts[index]
        x, y, z = (slice(o.start + p.start, o.start + p.stop) for o, p in zip(box, part, strict=True))
        lesion = _measure(volume, numbers[part] == index + 1, label, (x, y, z), axis)
        yield lesion.model_copy(update={"lesion": rank})


def _measure(volume: Volume, inside: NDArray[np.bool_], label: Label, box: Box, axis: int) -> Measures:
    """Measure the voxels `inside` a box of the scan's grid as one component."""
    grid = volume.grid
    steps = grid.affine[:3, :3]
    in_plane = plane_diameters(inside, steps, axis)
    centroid = _centroid(inside, box)
    voxels = int(np.count_nonzero(inside))
    return Measures(
        structure=label.name,
        value=label.value,
        voxels=voxels,
        volume_ml=voxels * grid.voxel_ml,
        components=1,
        incomplete=any(side.start == 0 or side.stop == size for side, size in zip(box, grid.shape, strict=True)),
        centroid_mm=_rounded((grid.affine @ [*centroid, 1.0])[:3]),
        centroid_voxel=_rounded(centroid),
        long_mm=in_plane.long_mm,
        short_mm=in_plane.short_mm,
        plane=plane_name(grid, axis),
        slice=box[axis].start + in_plane.slice,
        diameter_mm=solid_diameter(inside, steps),
        intensity=tuple(_statistics(channel[box][inside]) for channel in volume.array),
    )


def _absent(label: Label, plane: str) -> Measures:
    return Measures(
        structure=label.name,
        value=label.value,
        voxels=0,
        volume_ml=0.0,
        components=0,
        incomplete=False,
        plane=plane,
    )


def _centroid(inside: NDArray[np.bool_], box: Box) -> NDArray[np.float64]:
    """Return the mean voxel index; counting along the axes spares listing every voxel."""
    index = []
    for axis, side in enumerate(box):
        counts = np.count_nonzero(inside, axis=tuple(other for other in range(3) if other != axis))
        index.append(side.start + np.average(np.arange(len(counts)), weights=counts))
    return np.array(index)


def _statistics(values: NDArray[np.float32]) -> IntensityStatistics:
    p5, p25, p50, p75, p95 = np.percentile(values, PERCENTILES).tolist()
    mean, sd = float(values.mean(dtype=np.float64)), float(values.std(dtype=np.float64))
    return IntensityStatistics(mean=mean, sd=sd, p5=p5, p25=p25, p50=p50, p75=p75, p95=p95)


def _rounded(position: NDArray[np.float64]) -> tuple[float, float, float]:
    x, y, z = (round(float(value), 3) for value in position)
    return x, y, z
