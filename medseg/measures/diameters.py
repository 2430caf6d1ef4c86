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

from medseg.measures.runs import WITHIN_SLICE, Runs, connect


@dataclass(frozen=True, slots=True)
class PlaneDiameters:
    """The longest diameter within one slice, and across it.

    Attributes
    ----------
    long_mm : longest distance between two points of one island of one slice.
    short_mm : longest chord of that island's convex hull perpendicular to it.
    slice : index of that slice along the slice axis, from the array's first; of equal ones the first.
    """

    long_mm: float
    short_mm: float
    slice: int


def plane_diameters(runs: Runs, steps: NDArray[np.float64]) -> PlaneDiameters:
    """Measure every slice and return its longest diameter with the short axis of the same island.

    Parameters
    ----------
    runs : at least one; slices are those of their lattice.
    steps : (3, 3), mm per voxel along each index axis, as columns: the affine's upper left part.

    Notes
    -----
    RECIST 1.1 (Eisenhauer 2009, section 3): the longest diameter in the plane of measurement; for nodes
    the short axis, perpendicular to it. What is not connected within the slice (8 neighbours) is not one
    diameter: a lesion that shows as two islands is measured by the longer one. The diagonal of an island's
    box is an upper limit, so that few islands of many need be looked at.
    """
    to_mm = np.linalg.qr(steps[:, runs.lattice.axes[1:]])[1]  # in-plane coordinates without distortion, sheared or not
    number = connect(runs, WITHIN_SLICE).number
    order = np.argsort(number, kind="stable")
    starts = np.flatnonzero(np.diff(number[order], prepend=-1))
    stops = np.append(starts[1:], len(order))
    limits = _diagonals(runs.chosen(order), starts, to_mm)
    best = PlaneDiameters(0.0, 0.0, 0)
    for index in np.argsort(-limits, kind="stable"):
        if limits[index] <= best.long_mm:
            break
        island = runs.chosen(order[starts[index] : stops[index]])
        corners = _corners(island)
        points = _faces(corners[:, 1:]) @ to_mm.T
        if _circle(points) <= best.long_mm:
            continue
        outline = _hull(points)
        first, last = _farthest(outline)
        length = float(np.linalg.norm(last - first))
        if length > best.long_mm:
            best = PlaneDiameters(length, _widest_chord(outline, (last - first) / length), int(corners[0, 0]))
    return best


def solid_diameter(runs: Runs, steps: NDArray[np.float64]) -> float:
    """Return the longest distance (mm) between two points of a set of voxels in space.

    Parameters
    ----------
    runs : at least one.
    steps : (3, 3), mm per voxel along each index axis, as columns.
    """
    first, last = _farthest(_hull(_faces(_corners(runs)) @ steps[:, runs.lattice.axes].T))
    return float(np.linalg.norm(last - first))


def _corners(runs: Runs) -> NDArray[np.int64]:
    """Return (n, 3) voxels, as slice, line and place, among which are all corners of the convex hull.

    Only the first and the last voxel of a line can be one. The first is none if it doesn't come before the middle
    between those of the lines on both sides of it: then it lies within their triangle with the line's last voxel.
    Of a round organ this leaves some hundred voxels, whose hull is a matter of milliseconds.
    """
    slices, lines, first = runs.places
    last = first + runs.length - 1
    slices_from, lines_from = slices.min(), lines.min()
    shape = int(np.ptp(slices)) + 3, int(np.ptp(lines)) + 3  # a margin, so that every line has neighbours
    where = slices - slices_from + 1, lines - lines_from + 1
    found = []
    for places, sign in ((first, 1), (-last, -1)):
        depth = np.full(shape, np.inf)
        np.minimum.at(depth, where, places)
        inner = depth[1:-1, 1:-1]
        stands_out = np.isfinite(inner)
        for s, n in ((0, 1), (1, 0), (1, 1), (1, -1)):
            one, other = (depth[1 + k * s : shape[0] - 1 + k * s, 1 + k * n : shape[1] - 1 + k * n] for k in (1, -1))
            stands_out &= 2 * inner < one + other
        at = np.nonzero(stands_out)
        found.append(np.stack([at[0] + slices_from, at[1] + lines_from, sign * inner[at].astype(np.int64)], axis=1))
    return np.concatenate(found)


def _faces(voxels: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the centres of the faces of voxels (n, dimensions), in voxels."""
    half = np.eye(voxels.shape[1]) / 2
    return (voxels[:, None] + np.concatenate([half, -half])).reshape(-1, voxels.shape[1])


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


def _diagonals(runs: Runs, starts: NDArray[np.intp], to_mm: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return an upper limit (mm) of the diameter of each island, whose runs begin at `starts`."""
    _, lines, first = runs.places
    high = 1 + np.maximum.reduceat(lines, starts) - np.minimum.reduceat(lines, starts)
    wide = np.maximum.reduceat(first + runs.length, starts) - np.minimum.reduceat(first, starts)
    ways = [np.linalg.norm(to_mm @ (high, sign * wide), axis=0) for sign in (1, -1)]
    return np.maximum(*ways)


def _circle(points: NDArray[np.float64]) -> float:
    """Return another upper limit, the diameter of a circle around all points: of a round organ close to its own."""
    middle = (points.min(axis=0) + points.max(axis=0)) / 2
    return float(2 * np.linalg.norm(points - middle, axis=1).max())
