"""Put voxels of one grid on another whose voxels lie in the same places: nothing is interpolated.

3D Slicer saves a segmentation cropped to its segments, sometimes larger than the scan, and other programs
turn the axes round. All of these are the scan's own lattice, seen through another affine.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from medseg.errors import GeometryError, ReasonCode
from medseg.geometry import Grid, Orientation

LATTICE_TOLERANCE = 0.02
"""Largest distance of a voxel from its place on the lattice, in voxels.

Programs store directions as float32, or make them orthonormal again, which moves far voxels by micrometres;
another grid is off by tenths of a voxel somewhere."""


def place(array: NDArray, grid: Grid, target: Grid) -> NDArray:
    """Return labels of one grid on another.

    Parameters
    ----------
    array : (X, Y, Z) on `grid`; 0 is background.
    grid : a part of the lattice of `target`, or more than it, in any order and direction of axes.
    target : the grid of the scan.

    Returns
    -------
    NDArray
        (X, Y, Z) on `target`; 0 where `grid` does not reach.

    Raises
    ------
    GeometryError
        `GRID_MISMATCH` if the voxels lie beside those of `target`, `FOV_TRUNCATED` if labels lie outside of it.

    Examples
    --------
    >>> scan = Grid((4, 1, 1), np.eye(4))
    >>> place(np.array([7, 9]).reshape(2, 1, 1), scan.cropped((1, 0, 0), (2, 1, 1)), scan).ravel().tolist()
    [0, 7, 9, 0]
    """
    orientation, start = _step(grid, target)
    moved = orientation.apply(array)
    inner, outer = [], []
    for first, size, limit in zip(start, moved.shape, target.shape, strict=True):
        low, high = max(first, 0), max(min(first + size, limit), max(first, 0))
        inner.append(slice(low - first, high - first))
        outer.append(slice(low, high))
    kept = moved[tuple(inner)]
    outside = np.count_nonzero(moved) - np.count_nonzero(kept)
    if outside:
        raise GeometryError(ReasonCode.FOV_TRUNCATED, f"{outside} labelled voxels lie outside the scan")
    placed = np.zeros(target.shape, array.dtype)
    placed[tuple(outer)] = kept
    return placed


def is_beside(grid: Grid, target: Grid) -> bool:
    """Whether a grid has the size of another of its lattice, in any order and direction of axes, but not its place.

    Raises
    ------
    GeometryError
        `GRID_MISMATCH` as `place`.
    """
    orientation, start = _step(grid, target)
    return orientation.apply_to_grid(grid).shape == target.shape and any(start)


def _step(grid: Grid, target: Grid) -> tuple[Orientation, list[int]]:
    """Return how the axes turn, and the target's index of the first voxel then."""
    exact = grid.index_to(target)
    whole = np.rint(exact)
    turn = np.abs(whole[:3, :3])
    ends = np.array(np.meshgrid(*((0, size - 1) for size in grid.shape), [1])).reshape(4, -1)
    drift = max(np.abs((exact - whole) @ ends).max(), np.abs((exact - whole)[:3, :3]).max())
    is_turn = (turn.sum(axis=0) == 1).all() and (turn.sum(axis=1) == 1).all()
    if not is_turn or drift > LATTICE_TOLERANCE:
        off = f", up to {drift:.2g} voxels off" if is_turn else ""
        raise GeometryError(ReasonCode.GRID_MISMATCH, f"{grid.describe()} against {target.describe()}{off}")
    x, y, z = turn.argmax(axis=1).tolist()
    flips = [bool(whole[axis, source] < 0) for axis, source in enumerate((x, y, z))]
    starts = [
        int(whole[axis, 3]) - (grid.shape[source] - 1 if flip else 0)
        for axis, (source, flip) in enumerate(zip((x, y, z), flips, strict=True))
    ]
    return Orientation((x, y, z), (flips[0], flips[1], flips[2])), starts
