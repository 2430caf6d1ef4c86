"""How sure a network is of what it decides: cheap sums over its logits, taken as they stream by.

Nothing here needs another forward pass. Three views of doubt are kept, by target:

* *entropy* inside the target and in its outermost voxels,
* *soft Dice*: the Dice of the target with its own probabilities, 2 Σ(p in target) / (|target| + Σ p
  everywhere). Of the cheap scores it ranks cases best (Borges et al., "Soft Dice Confidence",
  arXiv 2402.10665): unlike the entropy it also sees what was almost found elsewhere;
* *agreement* of folds and mirrorings with their average, where there is more than one pass.

Inside the predicted foreground every voxel counts; outside it an even sample of at most one in eight, so that
all of this takes about one per cent of the time of a prediction.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from medseg.labels import LabelMap
from medseg.measures.features import TargetUncertainty

BLOCK = 1 << 22
"""Logits whose probabilities are computed together, and of a slab's background at all."""

BACKGROUND_STEP = 2
"""Along each axis at most every second voxel of the background is looked at: its sum varies smoothly."""


class UncertaintyMeter:
    """Takes slabs of logits with their decisions (`add`) and gives what they say (`finish`).

    Parameters
    ----------
    labels : what the outputs mean.
    voxel_ml : volume of a voxel of the network's grid, ml.
    """

    def __init__(self, labels: LabelMap, voxel_ml: float) -> None:
        self.labels, self.voxel_ml = labels, voxel_ml
        self._sums = torch.zeros(0)
        self._winners = torch.zeros(2)

    def add(self, logits: Tensor, decided: Tensor) -> None:
        """Count a slab.

        Parameters
        ----------
        logits : (K, X, Y, Z) float32; read only.
        decided : (X, Y, Z) uint8, the winner at each voxel: class index, or 1 + number of the region.
        """
        if not len(self._sums):
            self._sums = torch.zeros(6, len(self.labels.targets), dtype=torch.float64, device=logits.device)
            self._winners = torch.zeros(2, dtype=torch.float64, device=logits.device)
        edge = borders(decided)
        for block in torch.split(decided.nonzero(), max(1, BLOCK // len(logits))):
            x, y, z = block.T  # not a flat index: flattening a slab that is a view would copy it
            self._add_found(logits[:, x, y, z], decided[x, y, z], edge[x, y, z])
        step = max(BACKGROUND_STEP, math.ceil((logits.numel() / BLOCK) ** (1 / 3)))
        sample = decided[::step, ::step, ::step]
        thinned = logits[:, ::step, ::step, ::step]
        probabilities = thinned.sigmoid() if self.labels.regions else thinned.softmax(0)[1:]
        everywhere = (probabilities * (sample == 0)).sum((1, 2, 3)).double()
        self._sums[5] += everywhere * (decided.numel() / sample.numel())

    def finish(self) -> tuple[float, dict[str, TargetUncertainty]]:
        """Return the mean probability of the winners in the foreground (1 without any), and each target's doubt."""
        if not len(self._sums):
            return 1.0, {}
        total, count = self._winners.tolist()
        rows = zip(self.labels.targets, self._sums.T.tolist(), strict=True)
        return total / count if count else 1.0, {target: self._describe(sums) for target, sums in rows}

    def _add_found(self, values: Tensor, winners: Tensor, edge: Tensor) -> None:
        """Count voxels (n) of the foreground: their logits (K, n), decisions, and which lie at a border."""
        probabilities, entropy = probabilities_and_entropy(values, self.labels)
        if self.labels.regions:
            member = values > 0
        else:
            member = winners == torch.arange(1, len(values), device=values.device)[:, None]
        at_border = member & edge
        inside = probabilities * member
        sums = (
            member.sum(1),
            inside.sum(1),
            (entropy * member).sum(1),
            at_border.sum(1),
            (entropy * at_border).sum(1),
            probabilities.sum(1),
        )
        self._sums += torch.stack([part.double() for part in sums])
        best = probabilities.gather(0, winners.long()[None] - 1)
        self._winners += torch.stack([best.sum(dtype=torch.float64), torch.ones_like(best).sum(dtype=torch.float64)])

    def _describe(self, sums: Sequence[float]) -> TargetUncertainty:
        voxels, inside, entropy, border, border_entropy, everywhere = sums
        return TargetUncertainty(
            confidence=_mean(inside, voxels),
            entropy=_mean(entropy, voxels),
            border_entropy=_mean(border_entropy, border),
            soft_dice=_mean(2 * inside, voxels + everywhere) if voxels else None,
            soft_ml=round(everywhere * self.voxel_ml, 4),
        )


def probabilities_and_entropy(logits: Tensor, labels: LabelMap) -> tuple[Tensor, Tensor]:
    """Return the targets' probabilities (T, ...), and entropies from 0 (sure) to 1 (undecided), of logits (K, ...).

    The entropies are (T, ...) of regions, and (1, ...) of classes, which share one distribution.
    """
    if labels.regions:
        probabilities = logits.sigmoid()
        # logsigmoid(x) = x + logsigmoid(-x), so that the entropy is softplus(x) - p x
        return probabilities, (functional.softplus(logits) - probabilities * logits) / math.log(2)
    logs = logits.log_softmax(0)
    probabilities = logs.exp()
    return probabilities[1:], -(probabilities * logs).sum(0, keepdim=True) / math.log(len(logits))


class AgreementMeter:
    """Compares what single passes (a fold, a mirroring) decide with what their average decides.

    Overlapping windows count as often as they are seen.
    """

    def __init__(self, labels: LabelMap) -> None:
        self.labels = labels
        self._sums: Tensor | None = None

    def add(self, passes: Sequence[Tensor], average: Tensor) -> None:
        """Count decisions, each uint8 of one shape as from `medseg.inference.restore.decide`."""
        count = len(self.labels.targets) + 1
        average = average.reshape(-1)
        for single in (decided.reshape(-1) for decided in passes):
            common = torch.bincount(single[single == average], minlength=count)
            sizes = torch.bincount(single, minlength=count) + torch.bincount(average, minlength=count)
            sums = torch.stack([2 * common, sizes]).double()
            self._sums = sums if self._sums is None else self._sums + sums

    def finish(self) -> dict[str, float | None]:
        """Return the Dice of passes with their average by target; None where neither has the target."""
        if self._sums is None:
            return dict.fromkeys(self.labels.targets)
        common, sizes = self._sums[:, 1:].tolist()
        return {t: _mean(c, s) for t, c, s in zip(self.labels.targets, common, sizes, strict=True)}


def borders(decided: Tensor) -> Tensor:
    """Return which voxels (X, Y, Z) have a 6-neighbour with another decision."""
    edge = torch.zeros_like(decided, dtype=torch.bool)
    for axis in range(decided.ndim):
        size = decided.shape[axis] - 1
        differs = decided.narrow(axis, 1, size) != decided.narrow(axis, 0, size)
        edge.narrow(axis, 1, size).logical_or_(differs)
        edge.narrow(axis, 0, size).logical_or_(differs)
    return edge


def _mean(total: float, count: float) -> float | None:
    return round(min(1.0, total / count), 6) if count else None
