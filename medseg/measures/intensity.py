"""Intensities somewhere in a scan, in numbers."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from medseg.records import Record
from medseg.volume import Volume

PERCENTILES = (5, 25, 50, 75, 95)

SAMPLED_VOXELS = 1_000_000
"""Voxels of a whole scan, evenly spaced, that are looked at where not every one matters."""


class Intensity(Record):
    """Intensities of one channel somewhere, in the scan's units (HU for CT)."""

    mean: float = Field(description="Mean")
    sd: float = Field(ge=0, description="Standard deviation over the voxels")

    @classmethod
    def of(cls, values: NDArray[np.float32]) -> Intensity:
        """Return the intensities of at least one voxel."""
        mean = float(values.mean(dtype=np.float64))
        return cls(mean=mean, sd=float(np.sqrt(np.mean((values - mean) ** 2, dtype=np.float64))))


class IntensityStatistics(Intensity):
    """Intensities of one channel somewhere, with their percentiles."""

    p5: float = Field(description="5th percentile")
    p25: float = Field(description="25th percentile")
    p50: float = Field(description="Median")
    p75: float = Field(description="75th percentile")
    p95: float = Field(description="95th percentile")

    @classmethod
    def extend(cls, known: Intensity, values: NDArray[np.float32]) -> IntensityStatistics:
        """Return what is `known` of `values` with their percentiles."""
        p5, p25, p50, p75, p95 = np.percentile(values, PERCENTILES).tolist()
        return cls(mean=known.mean, sd=known.sd, p5=p5, p25=p25, p50=p50, p75=p75, p95=p95)


def measure_scan(volume: Volume) -> tuple[Intensity, ...]:
    """Return mean and standard deviation of each whole channel, from evenly spaced voxels."""
    return tuple(Intensity.of(sampled(channel)) for channel in volume.array)


def sampled(array: NDArray, voxels: int = SAMPLED_VOXELS) -> NDArray:
    """Return a view of about so many evenly spaced voxels of an array (X, Y, Z)."""
    step = sampling_step(array.size, voxels)
    return array[::step, ::step, ::step]


def sampling_step(size: int, voxels: int = SAMPLED_VOXELS) -> int:
    """Return the step along each of three axes that leaves about so many of `size` voxels."""
    return max(1, round((size / voxels) ** (1 / 3)))
