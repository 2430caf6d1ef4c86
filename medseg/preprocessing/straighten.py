"""Sheared scans: their slices shifted onto perpendicular axes for the network, and masks shifted back.

A CT with a tilted gantry has true slices, but each starts a little further down than the last; some NIfTI
files are sheared by a registration. A network must not see that: convolutions would meet anatomy that leans
over. `Grid.straightened` gives the perpendicular lattice; here voxels are brought to it. Slices keep their
planes, so nothing is interpolated across them, and each is moved as a whole by a part of a pixel: separable,
with the kernels of `resample`. What lies outside the scan is a fill value, air.

One slice at a time is worked on; beside the result nothing grows with the scan.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from medseg.geometry import Grid, reach
from medseg.preprocessing.resample import resample, resample_labels

KERNEL = 2
"""Voxels that the widest kernel reaches; so far the fill value is laid around a slice."""

Interpolate = Callable[[NDArray, Grid, Grid], NDArray]
"""Brings a slice (X, Y, Z), of one voxel along one axis, from a grid to another."""


def straighten(array: NDArray[np.float32], source: Grid, straight: Grid, fill: float) -> NDArray[np.float32]:
    """Return intensities (X, Y, Z) on the straightened grid, cubic within slices.

    Parameters
    ----------
    array : on `source`; returned as it is if `straight` is `source`.
    source, straight : a grid and its `straightened` one.
    fill : value outside the scan.
    """
    for axis, drift in _drifts(source, straight):
        array = _shift(array, axis, drift, fill, _cubic)
    return array


def straighten_labels(labels: NDArray[np.uint8], source: Grid, straight: Grid) -> NDArray[np.uint8]:
    """Return labels (X, Y, Z) on the straightened grid, 0 outside the scan; the largest share wins."""
    for axis, drift in _drifts(source, straight):
        labels = _shift(labels, axis, drift, 0, resample_labels)
    return labels


def shear_labels(labels: NDArray[np.uint8], straight: Grid, source: Grid) -> NDArray[np.uint8]:
    """Return labels on the straightened grid back on the sheared one: the way back of `straighten_labels`."""
    shapes = [source.shape]
    drifts = _drifts(source, straight)
    for axis, drift in drifts:
        low, high = reach(drift, shapes[-1][axis])
        x, y, z = np.array(shapes[-1]) + high - low
        shapes.append((int(x), int(y), int(z)))
    for (axis, drift), shape in zip(reversed(drifts), reversed(shapes[:-1]), strict=True):
        low, _ = reach(drift, shape[axis])
        labels = _move(labels, axis, np.arange(shape[axis])[:, None] * drift - low, shape, (0, resample_labels))
    return labels


def _drifts(source: Grid, straight: Grid) -> list[tuple[int, NDArray[np.float64]]]:
    """Return the axes whose slices drift, with the voxels (3,) that each is off from the last, in order of repair."""
    if straight is source:
        return []
    drift = source.drift()
    # slices of one axis that are moved along another must not themselves be in need of moving along a third
    order = np.argsort(-np.count_nonzero(drift, axis=1), kind="stable")
    return [(int(axis), drift[:, axis]) for axis in order if drift[:, axis].any()]


def _shift(array: NDArray, axis: int, drift: NDArray[np.float64], fill: float, interpolate: Interpolate) -> NDArray:
    """Return the array with every slice across `axis` moved by its drift, in a lattice that holds them all."""
    low, high = reach(drift, array.shape[axis])
    x, y, z = np.array(array.shape) + high - low
    offsets = low - np.arange(array.shape[axis])[:, None] * drift
    return _move(array, axis, offsets, (int(x), int(y), int(z)), (fill, interpolate))


def _move(
    array: NDArray,
    axis: int,
    offsets: NDArray[np.float64],
    shape: tuple[int, int, int],
    way: tuple[float, Interpolate],
) -> NDArray:
    """Return an array of `shape` whose slice n across `axis` is the array's, from `offsets[n]` voxels on."""
    fill, interpolate = way
    result = np.empty(shape, dtype=array.dtype)
    around = np.full(3, KERNEL)
    around[axis] = 0
    for number, offset in enumerate(offsets):
        index = tuple(slice(number, number + 1) if a == axis else slice(None) for a in range(3))
        plane = np.pad(array[index], [(n, n) for n in around], constant_values=fill)
        result[index] = interpolate(plane, _lattice(plane.shape, -around), _lattice(result[index].shape, offset))
    return result


def _lattice(shape: tuple[int, ...], start: NDArray) -> Grid:
    x, y, z = shape
    affine = np.eye(4)
    affine[:3, 3] = start
    return Grid((x, y, z), affine)


def _cubic(plane: NDArray[np.float32], source: Grid, target: Grid) -> NDArray[np.float32]:
    return resample(plane[None], source, target, "cubic")[0]
