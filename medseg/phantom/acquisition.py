"""A scanner: samples a body on a grid as CT does, with partial volume, blur and correlated noise."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from medseg.geometry import Grid
from medseg.phantom.body import Body
from medseg.phantom.waves import Array
from medseg.volume import Mask, Volume

HU_RANGE = (-1024, 3071)
"""What CT scanners store: 12 bits from -1024 HU."""

BLOCK = 12
"""Voxels of a block's edge: with eight samples a voxel its arrays stay in the processor's cache."""


@dataclass(frozen=True, slots=True)
class Scanner:
    """How sharp and how noisy a scan is.

    Attributes
    ----------
    samples : points a voxel edge at which the body is asked; their mean is the partial volume.
    blur_mm : standard deviation of the point spread function, mm.
    noise_hu : standard deviation of the noise.
    grain_mm : standard deviation of the filter that correlates neighbouring noise, mm.
    """

    samples: int = 2
    blur_mm: float = 1.4
    noise_hu: float = 10.0
    grain_mm: float = 1.8


@dataclass(frozen=True, slots=True, eq=False)
class Phantom:
    """A scan and its true mask, on one grid."""

    volume: Volume
    mask: Mask


def acquire(body: Body, grid: Grid, scanner: Scanner, seed: int | tuple[int, ...]) -> Phantom:
    """Scan `body` on `grid`.

    Parameters
    ----------
    grid : any grid: oblique, flipped, anisotropic, or seeing only a part of the body.
    seed : of the noise.

    Returns
    -------
    Phantom
        The scan, whole HU within `HU_RANGE` as float32, and the label that fills most of each voxel.
    """
    hu, labels = np.empty(grid.shape, dtype=np.float32), np.empty(grid.shape, dtype=np.uint8)
    offsets = _offsets(grid, scanner.samples)
    for block in _blocks(grid.shape):
        indices = np.stack(np.meshgrid(*(np.arange(part.start, part.stop) for part in block), indexing="ij"))
        centres = grid.affine[:3, :3] @ indices.reshape(3, -1) + grid.affine[:3, 3:]
        points = (centres[:, :, None] + offsets[:, None, :]).astype(np.float32)
        values, kinds = body.sample(points.reshape(3, -1))
        hu[block] = values.reshape(-1, offsets.shape[1]).mean(axis=1).reshape(indices.shape[1:])
        labels[block] = _majority(kinds.reshape(-1, offsets.shape[1])).reshape(indices.shape[1:])
    image = gaussian_filter(hu, [scanner.blur_mm / s for s in grid.spacing]) + _noise(grid, scanner, seed)
    image = np.clip(np.rint(image), *HU_RANGE).astype(np.float32)
    return Phantom(Volume(image[None], grid, modality="CT"), Mask(labels, grid))


def _blocks(shape: tuple[int, int, int]) -> Iterator[tuple[slice, slice, slice]]:
    for x, y, z in product(*(range(0, size, BLOCK) for size in shape)):
        yield (
            slice(x, min(x + BLOCK, shape[0])),
            slice(y, min(y + BLOCK, shape[1])),
            slice(z, min(z + BLOCK, shape[2])),
        )


def _offsets(grid: Grid, samples: int) -> NDArray[np.float64]:
    """World offsets (3, samples³) of a voxel's sample points from its centre, evenly inside it."""
    steps = (np.arange(samples) + 0.5) / samples - 0.5
    return np.asarray(grid.affine[:3, :3] @ np.stack(np.meshgrid(steps, steps, steps)).reshape(3, -1))


def _majority(kinds: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Most frequent label of each row (N, S); the smaller one when two are equally frequent."""
    result = kinds[:, 0].copy()
    mixed = np.flatnonzero((kinds != kinds[:, :1]).any(axis=1))
    counts = (kinds[mixed, :, None] == np.arange(kinds.max() + 1)).sum(axis=1)
    result[mixed] = counts.argmax(axis=1)
    return result


def _noise(grid: Grid, scanner: Scanner, seed: int | tuple[int, ...]) -> Array:
    noise = np.random.default_rng(seed).standard_normal(grid.shape, dtype=np.float32)
    noise = gaussian_filter(noise, [scanner.grain_mm / s for s in grid.spacing], mode="wrap")
    return np.asarray(noise * (scanner.noise_hu / noise.std()), dtype=np.float32)
