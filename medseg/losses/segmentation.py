"""The segmentation loss: cross-entropy plus soft Dice, for classes and for regions.

With ``training.loss: ga`` both are balanced between classes (`medseg.losses.balanced`).

Formulas and constants are nnU-Net v2's (``DC_and_CE_loss``, ``DC_and_BCE_loss``,
``MemoryEfficientSoftDiceLoss``), with 1 - Dice in place of -Dice so that 0 is perfect. Everything is
computed in float32 even under autocast: sums over a patch overflow fp16, and MONAI's DiceLoss then
answers exactly 1.0 without an error.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from medseg.config import TrainingConfig
from medseg.labels import IGNORE_INDEX, LabelMap
from medseg.losses.balanced import Volumes, balanced_dice, hard_cross_entropy, soft_dice
from medseg.losses.sums import class_sums
from medseg.outputs import NetworkOutput


class Losses(NamedTuple):
    """Scalars of one step, float32.

    Attributes
    ----------
    total : what is minimised: both parts, weighted, over all deep-supervision outputs.
    dice : 1 - mean soft Dice of the finest output (ga: of the classes that are there); no gradient.
    ce : mean cross-entropy of the finest output (ga: balanced, of the hardest voxels), nats; no gradient.
    """

    total: Tensor
    dice: Tensor
    ce: Tensor


class SegmentationLoss:
    """Compare logits with a mask of class indices.

    Classes: softmax cross-entropy and Dice of every class but background. Regions: binary
    cross-entropy and Dice of every region. Voxels of index 255 count nowhere and get no gradient.

    Parameters
    ----------
    labels : what the class indices and the output channels mean.
    config : `loss`, `dice_weight`, `ce_weight` and `batch_dice` are used.
    """

    def __init__(self, labels: LabelMap, config: TrainingConfig) -> None:
        self._config = config
        self._membership = _membership(labels) if labels.regions else None

    def __call__(self, output: NetworkOutput, target: Tensor, weight: Tensor | None = None) -> Losses:
        """Return the losses of a batch.

        Parameters
        ----------
        output : logits (B, K, *spatial) of any float type, and coarser ones.
        target : (B, *spatial) uint8 class indices (`LabelMap.encode`), 255 = ignore.
        weight : (B, *spatial) how much each voxel counts, relative to the others; None: all the same.
            A voxel of weight 0 is an ignored voxel.
        """
        with torch.autocast(target.device.type, enabled=False):
            levels = (output.logits, *output.coarse)
            dices, entropies = zip(*(self._level(logits, target, weight) for logits in levels), strict=True)
        dice_weight, ce_weight = self._config.dice_weight, self._config.ce_weight
        both = [dice_weight * dice + ce_weight * ce for dice, ce in zip(dices, entropies, strict=True)]
        shares = [0.5**level for level in range(len(levels))]
        total = torch.stack([share * loss for share, loss in zip(shares, both, strict=True)]).sum() / sum(shares)
        return Losses(total, dices[0].detach(), entropies[0].detach())

    def _level(self, logits: Tensor, target: Tensor, weight: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return Dice loss and cross-entropy at one resolution."""
        size = logits.shape[2:]
        indices = resized(target, size)
        counts = (indices != IGNORE_INDEX).float()
        if weight is not None:
            counts = counts * resized(weight.float(), size)
        if self._membership is None:
            return self._softmax_losses(logits.float(), indices, counts)
        self._membership = self._membership.to(indices.device)
        members = self._membership[:, indices.long()].movedim(0, 1)
        return self._sigmoid_losses(logits.float(), members, counts)

    def _softmax_losses(self, logits: Tensor, indices: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
        """Gather the true class instead of comparing with every class: half the memory of a one-hot target."""
        log_probabilities = logits.log_softmax(1)
        classes = indices.where(indices != IGNORE_INDEX, indices.new_zeros(())).long()
        picked = log_probabilities.gather(1, classes[:, None])[:, 0]
        overlap = class_sums(picked.exp() * counts, classes, logits.shape[1])
        true = class_sums(counts, classes, logits.shape[1])
        probabilities = log_probabilities[:, 1:].exp()
        volumes = Volumes(overlap[:, 1:], true[:, 1:], (probabilities * counts[:, None]).flatten(2).sum(2))
        if self._config.loss == "ga":
            ce = hard_cross_entropy(-picked.flatten(), classes.flatten(), counts.flatten(), logits.shape[1])
        else:
            ce = -_mean(picked, counts)
        return self._dice(volumes, probabilities, counts), ce

    def _sigmoid_losses(self, logits: Tensor, members: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
        truth = members.float()
        entropy = functional.binary_cross_entropy_with_logits(logits, truth, reduction="none")
        probabilities = logits.sigmoid()
        counted = probabilities * counts[:, None]
        volumes = Volumes(
            (counted * truth).flatten(2).sum(2), (truth * counts[:, None]).flatten(2).sum(2), counted.flatten(2).sum(2)
        )
        if self._config.loss == "ga":
            voxels = counts.flatten()
            by_region = [
                hard_cross_entropy(losses.flatten(), inside.flatten().long(), voxels, 2)
                for losses, inside in zip(entropy.unbind(1), members.unbind(1), strict=True)
            ]
            ce = torch.stack(by_region).mean()
        else:
            ce = _mean(entropy.mean(1), counts)
        return self._dice(volumes, probabilities, counts), ce

    def _dice(self, volumes: Volumes, probabilities: Tensor, counts: Tensor) -> Tensor:
        over_batch = bool(self._config.batch_dice)
        if self._config.loss == "ga":
            return balanced_dice(volumes, probabilities, counts, over_batch=over_batch)
        return 1 - soft_dice(volumes.over_batch() if over_batch else volumes).mean()


def _membership(labels: LabelMap) -> Tensor:
    """(K, 256) whether each class index belongs to each region."""
    table = torch.zeros(len(labels.regions), 256, dtype=torch.bool)
    for region in range(len(labels.regions)):
        for value in labels.members(region):
            table[region, labels.values.index(value) + 1] = True
    return table


def resized(voxels: Tensor, size: torch.Size) -> Tensor:
    """Return (B, *size), the nearest voxels of (B, *spatial); exact for uint8, so that ignore stays ignore."""
    if voxels.shape[1:] == size:
        return voxels
    return functional.interpolate(voxels[:, None], size, mode="nearest-exact")[:, 0]


def _mean(values: Tensor, counts: Tensor) -> Tensor:
    """Return the mean of `values` (B, *spatial), each counted so often; 0 where nothing counts."""
    return (values * counts).sum() / counts.sum().clamp_min(1e-8)
