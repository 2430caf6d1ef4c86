"""A scan as the network sees it: canonical orientation, the plan's spacing, normalised intensities.

`prepare_image`, `prepare_mask` and `prepare_weight` are the only way from a scan to an array, in training and in
inference alike. The order is nnU-Net's (clip and normalise on the scan's own voxels, then resample),
because metal and the fill value outside a scanner's field of view would otherwise ring into their
neighbours; the linear part of normalisation commutes with interpolation and is applied last, where
there are fewer voxels. A sheared scan, such as one with a tilted gantry, is straightened in between.

No MONAI here: importing it takes 2 to 3 s, more than all of this for most scans. The tests compare with
its transforms instead.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from medseg.boxes import box_at
from medseg.errors import ReasonCode, ScanError
from medseg.geometry import Grid
from medseg.labels import LabelMap
from medseg.plan import ChannelNormalisation, Plan
from medseg.preprocessing.resample import Order, as_tensor, resample, resample_labels
from medseg.preprocessing.straighten import straighten, straighten_labels
from medseg.volume import Mask, Volume

SPACING_TOLERANCE = 1e-3
"""Relative difference of spacings that counts as equal: 0.7 mm written as 0.7003 is not resampled.
Over 500 voxels it moves the last one by half a voxel at most; nothing moves in the result, because the
scan's own spacing is kept."""

COARSE_RATIO = 3.0
"""Axes this much coarser than the finest are interpolated linearly (nnU-Net's anisotropy threshold).
Anatomy moves by several pixels between such slices; a cubic kernel then overshoots at every edge.
nnU-Net copies the nearest slice instead, which displaces structures by up to half a slice spacing on
a finer grid; linear interpolation keeps them in place, for images and masks alike."""

EMPTY_BACKGROUND = 0.25
"""Share of exact zeros above which z-score statistics leave them out (nnU-Net's rule): a skull-stripped
or masked scan, whose mean would otherwise follow the amount of padding."""

STATISTICS_BLOCK = 1 << 20
"""Voxels taken to float64 at once."""


@dataclass(frozen=True, slots=True, eq=False)
class Prepared:
    """An image ready for the network.

    Attributes
    ----------
    image : (C, X, Y, Z) float32, normalised, on `grid`.
    grid : the network's grid of this scan.
    source_grid : the grid of the scan it was made from, where masks return to.
    modality : that the scan states, such as "CT"; "" where it states none.
    """

    image: NDArray[np.float32]
    grid: Grid
    source_grid: Grid
    modality: str = ""


def plan_grid(source: Grid, plan: Plan) -> Grid:
    """Return the network's grid for a scan: perpendicular, closest RAS+, the plan's spacing, the same extent.

    An axis whose spacing is the plan's within `SPACING_TOLERANCE` keeps its voxels exactly.
    """
    canonical = source.straightened().canonical()
    wanted = np.array(plan.spacing)
    same = np.abs(wanted / canonical.spacing - 1) <= SPACING_TOLERANCE
    return canonical.resampled(tuple(np.where(same, canonical.spacing, wanted)))


def prepare_image(volume: Volume, plan: Plan) -> Prepared:
    """Bring a scan to the network's grid and scale.

    Raises
    ------
    ScanError
        If the number of channels is not the plan's, a voxel is not a finite number, or the axes are too far
        from perpendicular.
    """
    if volume.channels != len(plan.channels):
        raise ScanError(
            ReasonCode.CHANNELS_MISMATCH,
            f"the scan has {volume.channels} channel(s), the plan expects {len(plan.channels)}: "
            f"{', '.join(plan.channels)}; give every channel, in this order",
        )
    grid = plan_grid(volume.grid, plan)
    orders = image_orders(volume.grid.straightened())
    image = np.empty((volume.channels, *grid.shape), dtype=np.float32)
    for channel, rule in enumerate(plan.normalisation):
        image[channel] = _prepare_channel(volume.array[channel], rule, (volume.grid, grid), orders)
    return Prepared(image, grid, volume.grid, volume.modality)


def prepare_mask(mask: Mask, labels: LabelMap, grid: Grid) -> NDArray[np.uint8]:
    """Return class indices (0 background, 1.. labels, 255 ignore) of a mask on the network's grid.

    Every label is interpolated linearly and the largest share wins, as logits are on the way back: a
    mask that goes there and back shrinks no structure, where nearest neighbour would move surfaces by
    half a voxel.

    Raises
    ------
    LabelError
        If the mask holds a value that the label map doesn't know.
    """
    straight = mask.grid.straightened()
    return resample_labels(straighten_labels(labels.encode(mask.array), mask.grid, straight), straight, grid)


def prepare_weight(weight: NDArray[np.uint8], source: Grid, grid: Grid) -> NDArray[np.uint8]:
    """Return voxel weights (X, Y, Z) on the network's grid, interpolated linearly; 255 counts fully."""
    straight = source.straightened()
    straightened = straighten_labels(weight, source, straight).astype(np.float32)
    return np.rint(resample(straightened[None], straight, grid, "linear")[0]).astype(np.uint8)


def pad_values(plan: Plan) -> NDArray[np.float32]:
    """Return, for each channel (C,), the normalised value that stands for what lies outside a scan.

    Clipped channels (CT): the lower bound, which is air. Z-scored channels: 0, the scan's mean, as in
    nnU-Net; many MR scans are cropped, so what lies outside is unknown and the mean says least.
    """
    return np.array([_scale(rule.low, rule) if rule.kind == "clip" else 0.0 for rule in plan.normalisation], np.float32)


def surround(
    image: NDArray[np.float32], before: Sequence[int], shape: Sequence[int], values: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Return an image (C, X, Y, Z) within a larger one of `shape`, filled with each channel's value (C,).

    Parameters
    ----------
    before : voxels in front of the image along each axis.
    """
    if image.shape[1:] == tuple(shape):
        return image
    result = np.empty((len(image), *shape), dtype=np.float32)
    result[:] = values[:, None, None, None]
    result[(slice(None), *box_at(before, image.shape[1:]))] = image
    return result


def image_orders(source: Grid) -> tuple[Order, Order, Order]:
    """Return the interpolation order along each axis of a scan: cubic, linear across coarse slices."""
    finest = min(source.spacing)
    x, y, z = source.spacing
    return _order(x / finest), _order(y / finest), _order(z / finest)


def _order(coarseness: float) -> Order:
    return "linear" if coarseness > COARSE_RATIO else "cubic"


def _prepare_channel(
    array: NDArray[np.float32], rule: ChannelNormalisation, grids: tuple[Grid, Grid], orders: tuple[Order, Order, Order]
) -> NDArray[np.float32]:
    """Return one channel (X, Y, Z) clipped, resampled and scaled."""
    lowest, highest = array.min(), array.max()
    if not np.isfinite([lowest, highest]).all():
        raise ScanError(
            ReasonCode.NOT_FINITE,
            "the scan holds voxels that are not finite numbers (NaN or infinity); repair or leave out the scan",
        )
    if rule.kind == "clip":
        # weights sum to 1 but for rounding: above the bound, air is 0 and stays one exact value
        clipped = torch.clamp(as_tensor(array), rule.low, rule.high).sub_(rule.low)  # on all cores, as numpy doesn't
        image = _to_grid(clipped.numpy(), grids, orders, 0.0)
        image += np.float32(rule.low)
        np.clip(image, rule.low, rule.high, out=image)  # cubic overshoot
        mean, std = rule.mean, rule.std
    elif lowest == highest:
        return np.zeros(grids[1].shape, dtype=np.float32)
    else:
        mean, std = _statistics(array)
        image = _to_grid(array, grids, orders, float(lowest))
    image -= np.float32(mean)
    image *= np.float32(1 / std)
    return image


def _to_grid(
    array: NDArray[np.float32], grids: tuple[Grid, Grid], orders: tuple[Order, Order, Order], outside: float
) -> NDArray[np.float32]:
    """Return one channel (X, Y, Z) on the second grid; `outside` fills what straightening the first one adds."""
    source, grid = grids
    straight = source.straightened()
    return resample(straighten(array, source, straight, outside)[None], straight, grid, orders)[0]


def _scale(value: float, rule: ChannelNormalisation) -> np.float32:
    """Return one value normalised with exactly the arithmetic of `_prepare_channel`."""
    return (np.float32(value) - np.float32(rule.mean)) * np.float32(1 / rule.std)


def _statistics(array: NDArray[np.float32]) -> tuple[float, float]:
    """Return mean and standard deviation of a scan, in float64, over its non-zero voxels if many are 0."""
    values = array.ravel(order="K")
    zeros = values.size - np.count_nonzero(values)
    if EMPTY_BACKGROUND * values.size < zeros < values.size:
        values = values[values != 0]
    mean = float(values.mean(dtype=np.float64))
    blocks = np.array_split(values, 1 + values.size // STATISTICS_BLOCK)
    variance = sum(float(np.square(block - mean, dtype=np.float64).sum()) for block in blocks) / values.size
    return mean, float(np.sqrt(variance)) or 1.0
