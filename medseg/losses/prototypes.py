"""Class prototypes: the mean feature of each class, and how similar every voxel is to each of them.

A voxel's label may be doubted where its features resemble another class's than the network predicts
(prototype agreement; Snell et al., NeurIPS 2017, for the prototypes; Xu et al., "All-around real label
supervision", JBHI 2022, and TCSeg, ICML 2026, for their use as a second opinion on pseudo-labels).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from medseg.labels import IGNORE_INDEX
from medseg.losses.segmentation import resized

TEMPERATURE = 0.1
"""Of the softmax over cosine similarities."""

DECAY = 0.99
"""Of the running mean of the prototypes."""


class Prototypes(nn.Module):
    """Running mean feature of each class, of length 1.

    Parameters
    ----------
    classes : number of classes, background included.

    Attributes
    ----------
    means : (classes, F) mean features; empty until the first update.
    known : (classes,) bool, which classes were met so far.
    """

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.register_buffer("means", torch.zeros(classes, 0))
        self.register_buffer("known", torch.zeros(classes, dtype=torch.bool))
        self.means: Tensor
        self.known: Tensor

    @torch.no_grad()
    def update(self, features: Tensor, target: Tensor, weight: Tensor) -> None:
        """Move each class's mean towards that of these voxels; the first ones met are taken as they are.

        Parameters
        ----------
        features : (B, F, *coarse).
        target : (B, *spatial) uint8 class indices; 255 counts nowhere.
        weight : (B, *spatial) how much each voxel counts.
        """
        voxels = coarse_voxels(features, target, weight)
        vectors = voxels.vectors * voxels.weights[:, None]
        sums = vectors.new_zeros(len(self.known), vectors.shape[1]).index_add_(0, voxels.indices, vectors)
        totals = vectors.new_zeros(len(self.known)).index_add_(0, voxels.indices, voxels.weights)
        met = totals > 0
        latest = functional.normalize(sums, dim=1)
        if self.means.shape[1] == 0:
            self.means = torch.zeros_like(latest)
        kept = torch.where(self.known[:, None], self.means * DECAY + latest * (1 - DECAY), latest)
        self.means = torch.where(met[:, None], functional.normalize(kept, dim=1), self.means)
        self.known = self.known | met

    @torch.no_grad()
    def similarity(self, features: Tensor, size: Sequence[int]) -> Tensor | None:
        """Return (B, classes, *size) softmax of the cosine similarities; None until every class was met."""
        if not bool(self.known.all()):
            return None
        return similarity(features, self.means, size)

    def _load_from_state_dict(self, state: dict[str, Tensor], prefix: str, *rest: object) -> None:
        """Take means of any feature length: it is known only after the first update."""
        saved = state.get(f"{prefix}means")
        if saved is not None:
            self.means = self.means.new_zeros(saved.shape)
        super()._load_from_state_dict(state, prefix, *rest)


class CoarseVoxels(NamedTuple):
    """The voxels that count, at the features' resolution.

    Attributes
    ----------
    vectors : (n, F) float32 features of length 1.
    indices : (n,) int64 class indices, 255 never.
    weights : (n,) float32, above 0.
    places : (n,) int64 positions in the flattened (B, *coarse) grid.
    """

    vectors: Tensor
    indices: Tensor
    weights: Tensor
    places: Tensor


def coarse_voxels(features: Tensor, target: Tensor, weight: Tensor) -> CoarseVoxels:
    """Return the voxels of (B, F, *coarse) features that have a label and a weight above 0."""
    size = features.shape[2:]
    indices = resized(target, size).flatten()
    weights = resized(weight.float(), size).flatten()
    places = ((indices != IGNORE_INDEX) & (weights > 0)).nonzero()[:, 0]
    vectors = features.float().movedim(1, -1).flatten(0, -2)[places]
    return CoarseVoxels(functional.normalize(vectors, dim=1), indices[places].long(), weights[places], places)


def similarity(features: Tensor, means: Tensor, size: Sequence[int]) -> Tensor:
    """Return (B, K, *size) softmax of the cosine similarities of features (B, F, *coarse) to class means (K, F)."""
    cosines = torch.einsum("bf...,kf->bk...", functional.normalize(features.float(), dim=1), means.to(features.device))
    mode = "trilinear" if len(size) == 3 else "bilinear"
    return functional.interpolate((cosines / TEMPERATURE).softmax(1), tuple(size), mode=mode, align_corners=False)
