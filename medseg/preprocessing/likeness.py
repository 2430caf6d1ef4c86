"""Does an unlabelled scan look like the labelled ones? What doesn't is left out of learning, with a reason.

Judged without looking at anatomy: another modality, another size, another kind of voxels, or intensities unlike those
of any labelled scan. The bounds are wide: a scan that is merely unusual belongs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medseg.measures.intensity import sampled
from medseg.preprocessing.prepare import Prepared
from medseg.text import shown_sizes

QUANTILES = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)
"""Of the normalised intensities, that scans are compared by."""

SAMPLE = 200_000
"""Voxels that they are taken from."""

FACTOR_SPACING = 3.0
"""Ratio to the nearest labelled scan's voxel size beyond which a scan is of another protocol: nnU-Net's threshold
between isotropic and anisotropic."""

FACTOR_EXTENT = 3.0
"""Ratio to the labelled scans' largest and smallest extent: a whole body beside a head, a crop beside a scan."""

STRANGE, LEAST_STRANGE = 4.0, 0.5
"""A scan's intensities are strange if they lie this many times further from every labelled scan's than those lie from
each other at most, and this far (standard deviations) at least: between two sound scanners a factor of 2 is usual."""

BLOCK = 128
"""Edge, in voxels, of the block in the middle of a scan that its smoothness is measured on."""

ROUGH = 0.3
"""Drop of the correlation of neighbouring voxels below the lowest of the labelled scans; noise has no correlation."""


@dataclass(frozen=True, slots=True)
class Appearance:
    """What a scan is like, without looking at anatomy.

    Attributes
    ----------
    spacing, extent : voxel size and field of view along x, y, z (RAS), mm.
    quantiles : normalised intensities at `QUANTILES`, (channels, quantiles).
    smoothness : correlation of neighbouring voxels of each channel.
    modality : that its header states; "" where it states none.
    """

    spacing: tuple[float, float, float]
    extent: tuple[float, float, float]
    quantiles: tuple[tuple[float, ...], ...]
    smoothness: tuple[float, ...]
    modality: str = ""


def describe_appearance(prepared: Prepared) -> Appearance:
    """Return the appearance of a prepared scan."""
    source = prepared.source_grid.canonical()
    x, y, z = (size * spacing for size, spacing in zip(source.shape, source.spacing, strict=True))
    return Appearance(
        spacing=source.spacing,
        extent=(x, y, z),
        quantiles=tuple(tuple(np.quantile(sampled(channel, SAMPLE), QUANTILES).tolist()) for channel in prepared.image),
        smoothness=tuple(_smoothness(channel) for channel in prepared.image),
        modality=prepared.modality,
    )


def strange_appearance(scan: Appearance, labelled: Sequence[Appearance]) -> str:
    """Return why a scan doesn't look like the labelled ones, in words; "" if it does."""
    known = sorted({one.modality for one in labelled})
    if scan.modality and all(known) and scan.modality not in known:
        return f"it is {scan.modality}, the labelled scans are {' and '.join(known)}"
    axes = range(3)
    spacing = min(max(_ratio(scan.spacing[i], one.spacing[i]) for i in axes) for one in labelled)
    if spacing > FACTOR_SPACING:
        sizes = shown_sizes(scan.spacing, ".3g")
        return f"its voxels ({sizes} mm) differ from any labelled scan's by a factor of {spacing:.1f}"
    extents = np.array([one.extent for one in labelled])
    low, high = extents.min(axis=0) / FACTOR_EXTENT, extents.max(axis=0) * FACTOR_EXTENT
    if (np.array(scan.extent) < low).any() or (np.array(scan.extent) > high).any():
        return f"its field of view ({shown_sizes(scan.extent, '.3g')} mm) is far from that of the labelled scans"
    smoothest = np.array([one.smoothness for one in labelled]).min(axis=0)
    if (np.array(scan.smoothness) < smoothest - ROUGH).any():
        return (
            f"its neighbouring voxels resemble each other less (correlation {min(scan.smoothness):.2f}) than in the "
            f"labelled scans ({float(smoothest.min()):.2f}): noise, or another modality"
        )
    among = [min((_distance(one, other) for other in labelled if other is not one), default=0.0) for one in labelled]
    limit = max(STRANGE * max(among), LEAST_STRANGE)
    away = min(_distance(scan, one) for one in labelled)
    if away > limit:
        return (
            f"its intensities are unlike any labelled scan's (distance {away:.2f}, limit {limit:.2f}): another "
            "modality?"
        )
    return ""


def _ratio(first: float, second: float) -> float:
    return max(first / second, second / first)


def _distance(first: Appearance, second: Appearance) -> float:
    """Return the mean difference of quantiles of the channel that differs most."""
    return float(np.abs(np.array(first.quantiles) - np.array(second.quantiles)).mean(axis=1).max())


def _smoothness(channel: NDArray[np.float32]) -> float:
    """Return the correlation of voxels with their neighbours, the mean over axes longer than a voxel; 1 if constant."""
    starts = [max(0, (length - BLOCK) // 2) for length in channel.shape]
    block = channel[tuple(slice(start, start + BLOCK) for start in starts)]
    values = block - block.mean()
    variance = float(np.square(values).mean())
    along = [np.moveaxis(values, axis, 0) for axis in range(3) if values.shape[axis] > 1]
    if not variance or not along:
        return 1.0
    return float(np.mean([np.mean(lines[1:] * lines[:-1]) for lines in along]) / variance)
