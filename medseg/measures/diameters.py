"""Diameters of a set of voxels: across one slice, as RECIST 1.1 asks for, and in space.

A voxel reaches half a spacing beyond its centre, so the outline runs through the middles of the outer
voxel faces: where marching cubes puts the surface of a mask, and where PyRadiomics measures. One voxel is
as long as its spacing, a row of n voxels n spacings. A smooth structure comes out right within half a voxel
diagonal; the outline cuts sharp corners, so that a box's diagonal comes out up to one voxel diagonal short.

Distances are taken along the affine's columns, so that anisotropic, oblique and sheared grids are measured
in true millimetres.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage


@dataclass(frozen=True, slots=True)
class PlaneDiameters:
    """The longest diameter within one slice, and across it.

    Attributes
    ----------
    long_mm : longest distance between two points of one island of one slice.
    short_mm : longest chord of that island's convex hull perpendicular to it.
    slice : index of that slice along the slice axis, from the array's first.
    """

    long_mm: float
    short_mm: float
    slice: int


def plane_diameters(inside: NDArray[np.bool_], steps: NDArray[np.float64], axis: int) -> PlaneDiameters:
    """Measure every slice and return its longest diameter with the short axis of the same island.

    Parameters
    ----------
    inside : (X, Y, Z), at least one voxel set.
    steps : (3, 3), mm per voxel along each index axis, as columns: the affine's upper left part.
    axis : the slice axis; slices are the planes of the two others.

    Notes
    -----
    RECIST 1.1 (Eisenhauer 2009, section 3): the longest diameter in the plane of measurement; for nodes
    the short axis, perpendicular to it. What is not connected within the slice (8 neighbours) is not one
    diameter: a lesion that shows as two islands is measured by the longer one.
    """
    across = [other for other in range(3) if other != axis]
    to_mm = np.linalg.qr(steps[:, across])[1]  # in-plane coordinates without distortion, sheared axes included
    slices = np.moveaxis(inside, axis, -1)
    in_plane = np.zeros((3, 3, 3), dtype=bool)
    in_plane[:, :, 1] = True
    numbers, _ = ndimage.label(slices, in_plane)
    islands = list(enumerate(ndimage.find_objects(numbers), start=1))
    limits = [_diagonal(box, to_mm) for _, box in islands]
    best = PlaneDiameters(0.0, 0.0, 0)
    for index in np.argsort(limits)[::-1]:
        if limits[index] <= best.long_mm:
            break
        number, box = islands[index]
        points = _outline(numbers[box][:, :, 0] == number) @ to_mm.T
        if _circle(points) <= best.long_mm:
            continue
        outline = _hull(points)
        first, last = _farthest(outline)
        length = float(np.linalg.norm(last - first))
        if length > best.long_mm:
            best = PlaneDiameters(length, _widest_chord(outline, (last - first) / length), box[2].start)
    return best


def solid_diameter(inside: NDArray[np.bool_], steps: NDArray[np.float64]) -> float:
    """Return the longest distance (mm) between two points of a set of voxels in space.

    Parameters
    ----------
    inside : (X, Y, Z), at least one voxel set.
    steps : (3, 3), mm per voxel along each index axis, as columns.
    """
    first, last = _farthest(_hull(_outline(inside) @ steps.T))
    return float(np.linalg.norm(last - first))


def _outline(inside: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return (n, dimensions) face centres, in voxels, whose convex hull is that of all face centres.

    A corner of the hull is the first or last voxel of its line along every axis; the others can't matter,
    and leaving them out makes the hull of an organ a matter of milliseconds.
    """
    corners = inside.copy()
    for axis, size in enumerate(inside.shape):
        ends = np.zeros_like(inside)
        first = np.expand_dims(inside.argmax(axis=axis), axis)
        last = size - 1 - np.expand_dims(np.flip(inside, axis).argmax(axis=axis), axis)
        np.put_along_axis(ends, first, True, axis)
        np.put_along_axis(ends, last, True, axis)
        corners &= ends
    half = np.eye(inside.ndim) / 2
    centres = np.argwhere(corners).astype(np.float64)
    return (centres[:, None] + np.concatenate([half, -half])).reshape(-1, inside.ndim)


def _hull(points: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the corners of the convex hull; of two-dimensional points in order around it."""
    from scipy.spatial import ConvexHull  # 0.1 s to import, which a run without measures need not pay

    return points[ConvexHull(points).vertices]


def _farthest(points: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the two points that lie farthest apart."""
    from scipy.spatial.distance import cdist

    distances = cdist(points, points)
    first, last = np.unravel_index(distances.argmax(), distances.shape)
    return points[first], points[last]


def _widest_chord(outline: NDArray[np.float64], direction: NDArray[np.float64]) -> float:
    """Return the longest chord (mm) of a convex polygon perpendicular to `direction`.

    The chord's length is concave along `direction` and linear between corners: its largest value lies at
    a corner.
    """
    along, across = outline @ direction, outline @ np.array([-direction[1], direction[0]])
    next_along, next_across = np.roll(along, -1), np.roll(across, -1)
    run = next_along - along
    with np.errstate(divide="ignore", invalid="ignore"):
        share = (along[:, None] - along) / run  # (corner, edge): where the corner's chord cuts the edge
    cuts = (share >= 0) & (share <= 1) & (run != 0)
    heights = across + np.where(cuts, share, 0) * (next_across - across)
    chords = np.where(cuts, heights, -np.inf).max(axis=1) - np.where(cuts, heights, np.inf).min(axis=1)
    return float(chords.max())


def _diagonal(box: tuple[slice, ...], to_mm: NDArray[np.float64]) -> float:
    """Return an upper limit (mm) of the diameter within the first two axes of a box."""
    width, height = (side.stop - side.start for side in box[:2])
    return float(max(np.linalg.norm(to_mm @ (width, height)), np.linalg.norm(to_mm @ (width, -height))))


def _circle(points: NDArray[np.float64]) -> float:
    """Return another upper limit, the diameter of a circle around all points: of a round organ close to its own."""
    middle = (points.min(axis=0) + points.max(axis=0)) / 2
    return float(2 * np.linalg.norm(points - middle, axis=1).max())
