"""From slabs of the teachers' logits to maps of a scan on its own grid, in memory that doesn't grow with classes.

As `medseg.inference.restore`, but of probabilities: what is interpolated is each class's mean calibrated probability,
so that confidence and entropy between two classes are those of the mixture, not of its sure neighbours.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from medseg.inference.restore import Layers
from medseg.inference.window import Slab
from medseg.labels import LabelMap
from medseg.preprocessing.prepare import Prepared
from medseg.preprocessing.resample import Taps, interpolate_axis
from medseg.preprocessing.straighten import shear_labels
from medseg.pseudo.probability import confidence, decide_likely, probabilities, uncertainty, with_opinion

LAYERS = 8
"""Layers of the scan that are interpolated together."""


@dataclass(frozen=True, slots=True, eq=False)
class ScanMaps:
    """What the teachers say of each voxel of a scan, (X, Y, Z) on its own grid.

    Attributes
    ----------
    decided : uint8 decisions.
    confidence, uncertainty : uint8, 0 to 255.
    doubted : bool, where the features resemble another decision; nowhere without a second opinion.
    soft_dice : of the decisions with their probabilities, mean over the targets found; None: nothing was found.
    """

    decided: NDArray[np.uint8]
    confidence: NDArray[np.uint8]
    uncertainty: NDArray[np.uint8]
    doubted: NDArray[np.bool_]
    soft_dice: float | None


def mean_likelihood(channels: Tensor, labels: LabelMap, temperature: float) -> Tensor:
    """Return the mean probabilities (K, ...) of logits (teachers x K, ...)."""
    teachers = channels.reshape(-1, labels.outputs, *channels.shape[1:])
    total = probabilities(teachers[0], labels, temperature)
    for logits in teachers[1:]:
        total += probabilities(logits, labels, temperature)
    return total / len(teachers)


class MapRestorer:
    """Takes slabs in order (`add`) and gives the maps (`finish`).

    Parameters
    ----------
    prepared : the scan as the network saw it; gives both grids.
    axis : the axis of the network's grid that slabs follow each other along.
    """

    def __init__(self, prepared: Prepared, labels: LabelMap, axis: int) -> None:
        self.labels, self._source = labels, prepared.source_grid
        self._layers = Layers(prepared.grid, prepared.source_grid, axis)
        self._arrays = [np.zeros(self._layers.straight.shape, dtype=np.uint8) for _ in range(4)]
        self._soft = torch.zeros(3, len(labels.targets), dtype=torch.float64)

    def add(self, start: int, likely: Tensor, opinion: Tensor | None) -> None:
        """Restore every layer of the scan that slabs up to this one decide.

        Parameters
        ----------
        start : index of the slab's first layer; the slab follows the one before.
        likely : (K, X, Y, Z) mean probabilities.
        opinion : (decisions, X, Y, Z) similarities; None: there are none.
        """
        self._count(likely)
        channels = likely if opinion is None else torch.cat([likely, opinion])
        for first, layers in self._layers.parts(start, channels):
            self._paint(layers, first)

    def finish(self) -> ScanMaps:
        """Return the maps; every slab must have been added."""
        self._layers.check_complete()
        arrays, straight = self._arrays, self._layers.straight
        if straight is not self._source:
            arrays = [shear_labels(array, straight, self._source) for array in arrays]
        inside, size, everywhere = self._soft
        found = size > 0
        soft = float((2 * inside / (size + everywhere))[found].mean()) if found.any() else None
        return ScanMaps(arrays[0], arrays[1], arrays[2], arrays[3].astype(bool), soft)

    def _count(self, likely: Tensor) -> None:
        """Add to the sums of the soft Dice (see `medseg.inference.uncertainty`)."""
        decided = decide_likely(likely, self.labels)
        targets = likely if self.labels.regions else likely[1:]
        for number, target in enumerate(targets):
            member = decided == number + 1
            sums = torch.stack([target[member].sum(), member.sum(), target.sum()])
            self._soft[:, number] += sums.double().cpu()

    def _paint(self, layers: Tensor, first: int) -> None:
        settled, (along, *across) = self._layers.settled(first, layers.shape[1])
        blocks = -(-len(settled) // LAYERS)
        for some in np.array_split(np.arange(len(settled)), blocks) if blocks else ():
            values = interpolate_axis(layers, 1, Taps(along.index[some], along.weight[some]))
            for axis, taps in enumerate(across, start=2):
                values = interpolate_axis(values, axis, taps)
            numbers = settled[some]
            for array, layer in zip(self._arrays, self._describe(values), strict=True):
                array.transpose(self._layers.axes)[numbers[0] : numbers[-1] + 1] = layer.cpu().numpy()

    def _describe(self, values: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return decisions, confidence, uncertainty and doubt of interpolated channels, uint8 each."""
        likely, opinion = values[: self.labels.outputs], values[self.labels.outputs :]
        decided = decide_likely(likely, self.labels)
        doubted = decided != opinion.argmax(0) if len(opinion) else torch.zeros_like(decided)
        sure, unsure = confidence(likely, self.labels), uncertainty(likely, self.labels)
        return decided, _to_byte(sure), _to_byte(unsure), doubted.to(torch.uint8)


def restore_maps(
    slabs: Iterable[Slab], restorer: MapRestorer, teachers: int, temperature: float, share: float
) -> ScanMaps:
    """Return the maps of a scan from its slabs, of `teachers` networks and perhaps similarities.

    Parameters
    ----------
    restorer : of that scan, as yet without a slab.
    share : of the similarities in the probabilities.
    """
    labels = restorer.labels
    count = teachers * labels.outputs
    with torch.inference_mode():
        for slab in slabs:
            opinion = slab.logits[count:] if len(slab.logits) > count else None
            likely = with_opinion(mean_likelihood(slab.logits[:count], labels, temperature), opinion, share)
            restorer.add(slab.start, likely, opinion)
        return restorer.finish()


def _to_byte(values: Tensor) -> Tensor:
    return values.clamp(0, 1).mul(255).round().to(torch.uint8)
