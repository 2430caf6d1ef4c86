"""From logits on the network's grid to a mask on the scan's own grid, slab by slab.

The way back needs the two grids alone, no history of transforms: every voxel of the scan takes its
logits from the eight network voxels around its centre (linear interpolation, clamped at the border)
and the largest wins; for regions, those above 0 are painted in their order. That is nnU-Net's export,
which costs it 63 s and 7.5 GB for 20 classes on 512x512x256, because it interpolates every class
everywhere. Here memory does not grow with the scan, and most voxels need no interpolation at all:
where the eight neighbours decide alike, so does their weighted mean (`resample.agreement`); only voxels
at surfaces are computed. The result is the same up to ties within float32 rounding.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from medseg.errors import ModelError
from medseg.geometry import Grid
from medseg.labels import LabelMap
from medseg.preprocessing.resample import DISPUTED_BLOCK, Taps, agreement, linear_taps, neighbours, relate
from medseg.volume import Mask

CONFIDENCE_BLOCK = 1 << 22
"""Logits whose probabilities are computed together."""

DISPUTED = 255
"""No decision has this number: a label map has at most 254 labels."""


@dataclass(frozen=True, slots=True, eq=False)
class Restored:
    """A mask on the scan's grid.

    Attributes
    ----------
    mask : the label values.
    confidence : mean probability of the winning output within the predicted foreground, on the
        network's grid; 1 where nothing was found (there is nothing to be unsure about).
    """

    mask: Mask
    confidence: float


class Restorer:
    """Takes slabs of logits in order (`add`) and gives the mask (`finish`).

    Parameters
    ----------
    grid : the network's grid; slabs are layers of it.
    source_grid : the scan's grid.
    labels : what the outputs mean.
    axis : the axis of `grid` that slabs follow each other along.
    """

    def __init__(self, grid: Grid, source_grid: Grid, labels: LabelMap, axis: int) -> None:
        self.source_grid, self.labels = source_grid, labels
        maps = relate(grid, source_grid)
        self._axis = axis
        self._order = [source.source for source in maps]
        self._along = self._order.index(axis)
        self._taps = linear_taps(maps, grid.shape, source_grid.shape)
        self._values = _values(labels)
        self._array: NDArray = np.zeros(source_grid.shape, dtype=labels.dtype)
        self._missing = np.ones(source_grid.shape[self._along], dtype=bool)
        self._last: Tensor | None = None
        self._confidence = self._foreground = 0.0

    def add(self, start: int, logits: Tensor) -> None:
        """Restore every layer of the scan that slabs up to this one decide.

        Parameters
        ----------
        start : index of the slab's first layer; the slab follows the one before.
        logits : (K, X, Y, Z) float32, layers along `axis`, whole along the others; read only.
        """
        dim = 1 + self._axis
        if self._last is not None:  # layers between the last slab and this one
            joint = torch.cat([self._last, logits.narrow(dim, 0, 1)], dim)
            self._paint(joint, decide(joint, self.labels), start - 1)
        decided = decide(logits, self.labels)
        self._paint(logits, decided, start)
        self._measure(logits, decided)
        self._last = logits.narrow(dim, logits.shape[dim] - 1, 1).clone()

    def finish(self) -> Restored:
        """Return the mask; every slab must have been added."""
        if self._missing.any():
            raise ValueError(f"{self._missing.sum()} layers of the scan were never decided: slabs are missing")
        confidence = self._confidence / self._foreground if self._foreground else 1.0
        return Restored(Mask(self._array, self.source_grid), confidence)

    def _paint(self, logits: Tensor, decided: Tensor, first: int) -> None:
        """Write the scan's layers whose neighbours all lie in these layers of logits."""
        needed = self._taps[self._along].index - first
        inside = (needed >= 0) & (needed < logits.shape[1 + self._axis])
        layers = np.flatnonzero(inside.all(axis=1) & self._missing)
        if not len(layers):
            return
        taps = list(self._taps)
        taps[self._along] = Taps(needed[layers], taps[self._along].weight[layers])
        moved = logits.permute(0, *(1 + axis for axis in self._order))
        indices = interpolate_decisions(moved, decided.permute(self._order), taps, self.labels)
        place = (*[slice(None)] * self._along, slice(layers[0], layers[-1] + 1))
        self._array[place] = self._values[indices.cpu().numpy()]
        self._missing[layers] = False

    def _measure(self, logits: Tensor, decided: Tensor) -> None:
        """Add up the winners' probabilities within the foreground."""
        flat = logits.reshape(len(logits), -1)
        found = decided.reshape(-1).nonzero()[:, 0]
        for block in torch.split(found, max(1, CONFIDENCE_BLOCK // len(logits))):
            values = flat.index_select(1, block)
            if self.labels.regions:
                winner = values.gather(0, decided.reshape(-1)[block].long()[None] - 1)
                total = torch.sigmoid(winner).sum(dtype=torch.float64)
            else:
                total = torch.softmax(values, dim=0).amax(dim=0).sum(dtype=torch.float64)
            self._confidence += float(total)
        self._foreground += len(found)


def decide(logits: Tensor, labels: LabelMap) -> Tensor:
    """Return the winner at each voxel: the class index, or 1 + the number of the region painted last.

    Parameters
    ----------
    logits : (K, ...) float32.

    Returns
    -------
    (...) uint8; 0 is background. Of equal classes the first wins.
    """
    if len(logits) > DISPUTED:
        raise ModelError(f"{len(logits)} outputs are more than the {DISPUTED} that can be told apart")
    if labels.regions:
        winner = torch.zeros(logits.shape[1:], dtype=torch.uint8, device=logits.device)
        for number, region in enumerate(logits, start=1):
            winner.masked_fill_(region > 0, number)
        return winner
    best = logits[0].clone()
    winner = torch.zeros(best.shape, dtype=torch.uint8, device=logits.device)
    for number, values in enumerate(logits[1:], start=1):
        winner.masked_fill_(values > best, number)
        torch.maximum(best, values, out=best)
    return winner


def interpolate_decisions(logits: Tensor, decided: Tensor, taps: Sequence[Taps], labels: LabelMap) -> Tensor:
    """Return the winner of the interpolated logits at each output.

    Parameters
    ----------
    logits : (K, X, Y, Z) float32, axes in the target's order, any strides.
    decided : (X, Y, Z) uint8, `decide` of them.
    taps : two taps for each axis.

    Returns
    -------
    (X', Y', Z') uint8, as `decide`.
    """
    result, disputed = agreement(decided, taps, DISPUTED)
    strides = logits.stride()[1:]
    reach = 1 + sum((size - 1) * stride for size, stride in zip(logits.shape[1:], strides, strict=True))
    flat = logits.as_strided((len(logits), reach), (logits.stride(0), 1))
    for block in torch.split(disputed, DISPUTED_BLOCK):
        index, weight = neighbours(block, taps, strides)
        result[block[:, 0], block[:, 1], block[:, 2]] = decide(_interpolate(flat, index, weight), labels)
    return result


def _interpolate(flat: Tensor, index: Tensor, weight: Tensor) -> Tensor:
    """Return (K, n) weighted sums of logits (K, m) at offsets (8, n)."""
    total = flat.index_select(1, index[0]).mul_(weight[0])
    for corner in range(1, len(index)):
        total.addcmul_(flat.index_select(1, index[corner]), weight[corner])
    return total


def _values(labels: LabelMap) -> NDArray:
    """Return the mask value of each decision."""
    painted = [region.paints for region in labels.regions] if labels.regions else labels.values
    return np.array([0, *painted], dtype=labels.dtype)
