"""Which slices of a scan a picture shows, and how they lie in it.

All planes follow the radiological convention, as if one looked from the patient's feet and left side:
the patient's right is on the left of axial and coronal pictures, anterior on the left of sagittal ones,
superior (in axial ones anterior) at the top. Planes are those of the canonical index axes: an oblique
scan is shown as it was sliced, not interpolated.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from medseg.boxes import occupied_box
from medseg.geometry import Grid
from medseg.measures.intensity import sampled, sampling_step
from medseg.volume import Volume

CT_WINDOW = (-160.0, 240.0)
"""Soft tissue: width 400 HU, level 40 HU."""

CT_LIKE = -500.0
"""A scan of unknown modality whose 1st percentile is below this is shown as CT: air is -1000 HU, and no
MR scanner writes such values."""


@dataclass(frozen=True, slots=True)
class Plane:
    """A way of slicing a canonical (RAS) array.

    Attributes
    ----------
    name : for the picture.
    axis : canonical axis across the plane.
    edges : anatomical letters of the picture's left, right, top and bottom.
    """

    name: str
    axis: int
    edges: str

    def picture_of(self, array: NDArray, index: int) -> NDArray:
        """Return slice `index` of a canonical array (X, Y, Z) as rows from the top, columns from the left."""
        return array[(slice(None),) * self.axis + (index,)].T[::-1, ::-1]

    def size_mm(self, grid: Grid) -> tuple[float, float]:
        """Return width and height of the picture of a canonical grid, mm."""
        width, height = (grid.shape[axis] * grid.spacing[axis] for axis in range(3) if axis != self.axis)
        return width, height


AXIAL, CORONAL, SAGITTAL = Plane("axial", 2, "RLAP"), Plane("coronal", 1, "RLSI"), Plane("sagittal", 0, "APSI")


def planes_of(grid: Grid) -> tuple[Plane, ...]:
    """Return the planes worth a picture: those that don't run along an axis of a single voxel."""
    thick = [size > 1 for size in grid.shape]
    shown = tuple(p for p in (AXIAL, CORONAL, SAGITTAL) if all(thick[axis] for axis in range(3) if axis != p.axis))
    return shown or (AXIAL,)


@dataclass(frozen=True, slots=True)
class Survey:
    """What a mask holds and where it is best seen.

    Attributes
    ----------
    counts : number of voxels of each value, without 0.
    slices : for each axis, the index of the slice that shows most of the labels: each label's area
        counts relative to its largest, so that the slice through a small lesion's middle is worth as
        much as the one through the liver's. The middle of the scan, if there is no label.
    """

    counts: dict[int, int]
    slices: tuple[int, int, int]


def survey(mask: NDArray) -> Survey:
    """Return the contents of a mask (X, Y, Z)."""
    box = occupied_box(mask)
    if box is None:
        x, y, z = (size // 2 for size in mask.shape)
        return Survey({}, (x, y, z))
    inside = mask[box]
    step = sampling_step(inside.size)  # slices are chosen by some voxels, and all are counted
    sample = inside[::step, ::step, ::step]
    if not sample.any():
        sample, step = inside, 1
    positions = np.nonzero(sample)
    labels = np.unique(sample[positions], return_inverse=True)[1]
    x, y, z = (box[axis].start + step * _fullest(labels, positions[axis], sample.shape[axis]) for axis in range(3))
    return Survey(_count(inside), (x, y, z))


def display_window(volume: Volume, channel: NDArray[np.float32]) -> tuple[float, float]:
    """Return the intensities shown as black and white: soft tissue for CT, else percentiles 1 and 99."""
    low, high = np.percentile(sampled(channel), [1, 99]).tolist()
    if volume.modality == "CT" or (not volume.modality and low < CT_LIKE):
        return CT_WINDOW
    return low, max(high, low + 1e-6)


def in_grey(picture: NDArray[np.float32], window: tuple[float, float]) -> NDArray[np.uint8]:
    """Return intensities as grey values, the window's ends being black and white."""
    low, high = window
    return (np.clip((picture - low) / (high - low), 0, 1) * 255).astype(np.uint8)


def _count(values: NDArray) -> dict[int, int]:
    """Return the number of voxels of each value, without 0.

    Pillow's histogram takes 0.05 s for 512x512x256 where `numpy.bincount`, which first widens every
    voxel to 8 bytes, takes 0.35 s and 0.5 GB.
    """
    flat = values.ravel(order="K")
    if flat.dtype == np.uint8:
        counts = np.array(Image.frombuffer("L", (flat.size, 1), flat, "raw", "L", 0, 1).histogram())
    else:
        counts = np.bincount(flat)
    return {int(value): int(counts[value]) for value in np.flatnonzero(counts) if value}


def _fullest(labels: NDArray[np.intp], positions: NDArray[np.intp], size: int) -> int:
    areas = np.bincount(labels * size + positions, minlength=(labels.max() + 1) * size).reshape(-1, size)
    shown = (areas / areas.max(axis=1, keepdims=True)).sum(axis=0)
    best = np.flatnonzero(shown >= shown.max() - 1e-9)
    return int(best[len(best) // 2])
