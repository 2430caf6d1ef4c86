"""What a scan looks like in a few hundred numbers, before there is any model."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from medseg.measures.intensity import PERCENTILES, sampled
from medseg.volume import Volume

CELLS = 6
"""The scan is averaged in so many cells along each axis: where the body is bright and dark."""

SMALLEST_SPREAD = 1e-9
"""Standard deviation below which a number is the same for all scans but for rounding."""

Parts = tuple[NDArray[np.float64], ...]
"""What is known of one scan; parts have equal say, however many numbers each has."""


def describe_appearance(volume: Volume) -> Parts:
    """Return extent, intensities and a coarse picture of a scan, in canonical (RAS) orientation.

    Returns
    -------
    extent : (3,) logarithm of mm along x, y, z.
    intensities : (C * 5,) percentiles of each channel, relative to its own mean and standard deviation.
    picture : (C * CELLS^3,) mean of each cell in the same units.
    """
    orientation, canonical = volume.grid.to_canonical(), volume.grid.canonical()
    percentiles, pictures = [], []
    for channel in volume.array:
        sample = np.ascontiguousarray(sampled(orientation.apply(channel)), dtype=np.float32)
        relative = (sample - sample.mean()) / max(float(sample.std()), 1e-6)
        percentiles.append(np.percentile(relative, PERCENTILES))
        cells = torch.nn.functional.adaptive_avg_pool3d(torch.from_numpy(relative)[None], CELLS)
        pictures.append(cells.numpy().ravel().astype(np.float64))
    extent = np.log(np.array(canonical.shape) * canonical.spacing)
    return extent, np.concatenate(percentiles), np.concatenate(pictures)


def to_points(scans: Sequence[Parts]) -> NDArray[np.float64]:
    """Return one point a scan (n, d): every part standardised over the scans, then side by side."""
    return np.concatenate([standardise(np.stack(part)) for part in zip(*scans, strict=True)], axis=1)


def standardise(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return values (n, d) with mean 0 and variance 1 / d in each dimension; those without spread become 0."""
    centred = values - values.mean(axis=0)
    spread = centred.std(axis=0)
    scale = np.where(spread > SMALLEST_SPREAD, spread, np.inf)
    return centred / scale / np.sqrt(values.shape[1])
