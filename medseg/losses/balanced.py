"""Dice and cross-entropy that small and rare classes are not drowned in.

After "Gradient-Aware for Class-Imbalanced Semi-supervised Medical Image Segmentation" (Qi et al., ECCV 2024),
which changes the two losses and nothing else:

* A class that is absent from a patch has a Dice of 0 at the slightest probability, so its loss is 1 and its
  gradient says little of how much is wrong. Here it costs mean(sg(p) p) instead, sg: no gradient, which
  pushes p down in proportion to p. Only classes that are there have a Dice.
* Cross-entropy is taken of the hardest tenth of the voxels, and of these a voxel of class c weighs
  n_c^-(1-g) n^-g, g = 0.5, n_c of the n being of that class: a class counts by the root of its size.

The authors' Dice squares its denominators and counts the background; ours is the same as without balance, so
that a comparison shows the balance alone. Regions overlap, so a voxel has no single class: each region is a
problem of two classes, inside and outside, with its own hardest tenth.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

DICE_SMOOTH = 1e-5
"""Added to numerator and denominator of Dice (nnU-Net): a class that is neither there nor predicted costs nothing."""

HARDEST = 0.1
"""Share of the voxels whose cross-entropy counts (the authors' value)."""

SIZE_EXPONENT = 0.5
"""How much the size of a class says: 0: all classes the same; 1: all voxels the same (0.5: the authors' value)."""


class Volumes(NamedTuple):
    """Sums over the voxels that count, each (B, K), or (K,) over the batch.

    Attributes
    ----------
    overlap : of the probability where the target is.
    true : of the target.
    predicted : of the probability.
    """

    overlap: Tensor
    true: Tensor
    predicted: Tensor

    def over_batch(self) -> Volumes:
        """Return the sums (K,) of the whole batch."""
        return Volumes(*(part.sum(0) for part in self))


def soft_dice(volumes: Volumes) -> Tensor:
    """Return the soft Dice of each target; 1 where it is neither there nor predicted."""
    return (2 * volumes.overlap + DICE_SMOOTH) / (volumes.true + volumes.predicted + DICE_SMOOTH)


def balanced_dice(volumes: Volumes, probabilities: Tensor, counts: Tensor, *, over_batch: bool) -> Tensor:
    """Return the mean over targets of 1 - Dice where they are there, of mean(sg(p) p) where not.

    Parameters
    ----------
    probabilities : (B, K, *spatial).
    counts : (B, *spatial) how much each voxel counts; 0: ignored.
    over_batch : take both over the whole batch instead of each patch.
    """
    squares = (probabilities.detach() * probabilities * counts[:, None]).flatten(2).sum(2)
    voxels = counts.flatten(1).sum(1, keepdim=True)
    if over_batch:
        volumes, squares, voxels = volumes.over_batch(), squares.sum(0), voxels.sum(0)
    stray = squares / voxels.clamp_min(1e-8)
    return torch.where(volumes.true > 0, 1 - soft_dice(volumes), stray).mean()


def hard_cross_entropy(entropy: Tensor, classes: Tensor, counts: Tensor, number: int) -> Tensor:
    """Return the class-balanced cross-entropy of the hardest voxels; 0 where none counts.

    Parameters
    ----------
    entropy : (n,) cross-entropy of each voxel.
    classes : (n,) int64, its true class.
    counts : (n,) how much it counts, relative to the others; 0: ignored.
    number : of classes.

    Notes
    -----
    Of equally hard voxels at the limit, which ones count is not defined. Voxel weights count voxels: they
    decide what a voxel of the hardest adds to the sums, not whether it is among them.
    """
    counted = counts > 0
    hardest = math.ceil(HARDEST * int(counted.sum()))
    chosen = entropy.detach().where(counted, entropy.new_tensor(-1.0)).topk(hardest, sorted=False).indices
    losses, members, weights = entropy[chosen], classes[chosen], counts[chosen]
    sizes = weights.new_zeros(number).scatter_add(0, members, weights)
    sums = weights.new_zeros(number).scatter_add(0, members, losses * weights)
    scale = sizes.clamp_min(1e-8) ** (1 - SIZE_EXPONENT) * sizes.sum().clamp_min(1e-8) ** SIZE_EXPONENT
    return (sums / scale).sum()
