"""A mask as runs: rows of voxels of one label, from which everything about its structures follows.

One pass over the mask finds the runs of all labels; after that work grows with the surface of a structure, not with its
bounding box. That matters where masks are not clean: a stray voxel in a corner makes a structure's box as large as the
scan. Measuring 512x512x256 with 19 labels takes 1 s on one core where they are smooth and 4 s where noise at their
surfaces fills their boxes; box by box the latter took minutes (AMD EPYC, November 2026).

Connected components are those of a graph whose nodes are runs. Two runs of neighbouring lines touch if neither ends
before the other begins: because runs are sorted, a binary search finds the touching ones of all runs at once. (He et
al., "The connected-component labeling problem", Pattern Recognition 70, 2017, reviews run-based algorithms.)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medseg.boxes import Box

Axes = tuple[int, int, int]

WITHIN_SLICE = ((0, 1),)
"""Steps (slices, lines) to the half of a run's neighbours that lie in its slice; 8-connected pixels."""

IN_SPACE = ((0, 1), (1, -1), (1, 0), (1, 1))
"""Steps to half of its neighbours in space, the other half being these backwards; 26-connected voxels."""

AROUND = ((0, 0), *IN_SPACE, *((-slices, -lines) for slices, lines in IN_SPACE))
"""Steps to all lines near a run, its own included."""


@dataclass(frozen=True, slots=True)
class Lattice:
    """How the lines of an array are numbered.

    Attributes
    ----------
    shape : of the array.
    axes : its axes across the slices, across the lines of a slice, and along the lines.

    Notes
    -----
    A voxel's *key* is its place in a padded array, in which two voxels follow each line and a line each slice, so that
    what touches across a border has no key near.
    """

    shape: tuple[int, int, int]
    axes: Axes

    @property
    def line_step(self) -> int:
        """Difference of the keys of neighbouring lines."""
        return self.shape[self.axes[2]] + 2

    @property
    def slice_step(self) -> int:
        """Difference of the keys of neighbouring slices."""
        return (self.shape[self.axes[1]] + 1) * self.line_step


@dataclass(frozen=True, slots=True, eq=False)
class Runs:
    """Some voxels of a mask.

    Attributes
    ----------
    lattice : of the mask.
    begin : (n,) int64, ascending; key of the first voxel of each run.
    length : (n,) int64, its voxels, at least 1.
    """

    lattice: Lattice
    begin: NDArray[np.int64]
    length: NDArray[np.int64]

    @property
    def voxels(self) -> int:
        """Number of voxels."""
        return int(self.length.sum())

    @property
    def places(self) -> NDArray[np.int64]:
        """Slice, line and place in the line of each first voxel, (3, n)."""
        slices, rest = np.divmod(self.begin, self.lattice.slice_step)
        return np.stack([slices, *np.divmod(rest, self.lattice.line_step)])

    @property
    def box(self) -> Box:
        """The smallest box of the mask's array that holds all voxels."""
        first = self.places
        stop = first + 1
        stop[2] += self.length - 1
        sides = [slice(int(low), int(high)) for low, high in zip(first.min(axis=1), stop.max(axis=1), strict=True)]
        x, y, z = (sides[self.lattice.axes.index(axis)] for axis in range(3))
        return x, y, z

    @property
    def centroid(self) -> NDArray[np.float64]:
        """The mean voxel index along the axes of the array, (3,)."""
        doubled = 2 * self.places
        doubled[2] += self.length - 1
        mean = (doubled @ self.length) / (2 * self.voxels)
        return np.array([mean[self.lattice.axes.index(axis)] for axis in range(3)])

    def values(self, array: NDArray) -> NDArray:
        """Return what an array of the lattice's shape holds at the voxels, (voxels,)."""
        moved = array.transpose(self.lattice.axes)
        slices, lines, first = self.places
        before = np.cumsum(self.length) - self.length
        _, high, width = moved.shape
        start = (slices * high + lines) * width + first
        flat = np.repeat(start - before, self.length) + np.arange(self.voxels)
        return moved.ravel()[flat] if moved.flags.c_contiguous else moved[np.unravel_index(flat, moved.shape)]

    def chosen(self, index: NDArray) -> Runs:
        """Return some of the runs, by ascending index or as booleans."""
        return Runs(self.lattice, self.begin[index], self.length[index])


@dataclass(frozen=True, slots=True, eq=False)
class Components:
    """Connected parts of runs.

    Attributes
    ----------
    runs : all of them.
    number : (n,) part of each run, from 0, in the order of each part's first run.
    sizes : voxels of each part.
    """

    runs: Runs
    number: NDArray[np.int64]
    sizes: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.sizes)

    def by_size(self) -> NDArray[np.int64]:
        """Return the parts' numbers, the largest first; of equal ones that whose first voxel has the lowest index."""
        places, axes = self.runs.places, self.runs.lattice.axes
        index = np.ravel_multi_index([places[axes.index(axis)] for axis in range(3)], self.runs.lattice.shape)
        first = np.full(len(self), np.iinfo(np.int64).max)
        np.minimum.at(first, self.number, index)
        return np.lexsort((first, -self.sizes))


def find_runs(array: NDArray, slice_axis: int | None = None) -> dict[int, Runs]:
    """Return the runs of every value of a mask (X, Y, Z) but 0.

    Parameters
    ----------
    array : of whole numbers, in any memory layout.
    slice_axis : runs lie within slices across this axis; None: whichever is read fastest.
    """
    by_stride = sorted(range(3), key=lambda axis: -abs(array.strides[axis]))
    across = by_stride[0] if slice_axis is None else slice_axis
    second, third = (axis for axis in by_stride if axis != across)
    lattice = Lattice(array.shape, (across, second, third))
    found = [_runs_of_slice(plane, lattice) for plane in array.transpose(lattice.axes)]
    values = np.concatenate([values for values, _, _ in found])
    begin = np.concatenate([start + number * lattice.slice_step for number, (_, start, _) in enumerate(found)])
    length = np.concatenate([length for _, _, length in found])
    order = np.argsort(values, kind="stable")
    values, begin, length = values[order], begin[order], length[order]
    borders = np.flatnonzero(np.diff(values)) + 1
    parts = zip(np.split(values, borders), np.split(begin, borders), np.split(length, borders), strict=True)
    return {int(same[0]): Runs(lattice, start, count) for same, start, count in parts if len(same)}


def connect(runs: Runs, steps: Sequence[tuple[int, int]] = IN_SPACE) -> Components:
    """Return the connected parts.

    Parameters
    ----------
    steps : to which lines a run may be connected, (slices, lines) each, forwards only.
    """
    from scipy.sparse import coo_array  # 0.1 s to import, which a run without measures need not pay
    from scipy.sparse.csgraph import connected_components

    pairs = [_touching(runs, runs, step) for step in steps]
    one, other = (np.concatenate(side) for side in zip(*pairs, strict=True))
    size = len(runs.begin)
    graph = coo_array((np.ones(len(one), dtype=np.int8), (one, other)), shape=(size, size))
    count, found = connected_components(graph, directed=False)
    number = found.astype(np.int64)
    sizes = np.zeros(count, dtype=np.int64)
    np.add.at(sizes, number, runs.length)
    return Components(runs, number, sizes)


def near(runs: Runs, others: Runs) -> NDArray[np.bool_]:
    """Return which runs (n,) share a face, an edge or a corner with some of `others`, of the same lattice."""
    result = np.zeros(len(runs.begin), dtype=bool)
    for step in AROUND:
        first, stop = _range_of_touching(runs, others, step)
        result |= stop > first
    return result


def _runs_of_slice(plane: NDArray, lattice: Lattice) -> tuple[NDArray, NDArray[np.int64], NDArray[np.int64]]:
    """Return value, key within the slice and length of each run of a slice (lines, places) but those of 0."""
    flat, width = plane.ravel(), plane.shape[1]
    is_first = np.empty(plane.shape, dtype=bool)
    np.not_equal(flat[1:], flat[:-1], out=is_first.reshape(-1)[1:])
    is_first[:, 0] = True
    start = np.flatnonzero(is_first)
    length = np.diff(start, append=flat.size)
    values = flat[start]
    found = values != 0
    start = start[found]
    return values[found], start + (lattice.line_step - width) * (start // width), length[found]


def _range_of_touching(runs: Runs, others: Runs, step: tuple[int, int]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return, for each run, the first of the others that it touches one step away, and the one behind the last."""
    shift = step[0] * runs.lattice.slice_step + step[1] * runs.lattice.line_step
    first = np.searchsorted(others.begin + others.length, runs.begin + shift)
    stop = np.searchsorted(others.begin, runs.begin + runs.length + shift, side="right")
    return first, stop


def _touching(runs: Runs, others: Runs, step: tuple[int, int]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the pairs of a run and one of the others that touch, as two lists of indices."""
    first, stop = _range_of_touching(runs, others, step)
    counts = stop - first
    one = np.repeat(np.arange(len(counts)), counts)
    before = np.cumsum(counts) - counts
    return one, np.repeat(first - before, counts) + np.arange(len(one))
