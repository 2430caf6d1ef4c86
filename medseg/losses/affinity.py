"""Similar features, similar predictions: a graph-Laplacian loss over voxels of several scans.

    L_ws = sum_ij w_ij |p_i - p_j|^2 / sum_ij w_ij,    w_ij = exp(-|f_i - f_j|^2 / sigma^2)

(Laplacian regularisation: Zhu, Ghahramani, Lafferty, ICML 2003; Weston et al., ICML 2008.) The affinity
w_ij is a weight without gradient. Taken as a loss itself it would have none worth having: making it
small pushes all features apart without end, making it large draws them into one point. Sigma^2 is the
running median of the squared distances, so that the affinities don't change with the features' scale.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

NEIGHBOURS = 10
"""Affinities kept of a voxel: the strongest."""

SAMPLES = 1024
"""Voxels compared in a step: a million pairs, a hundredth of the cost of a training step."""

DECAY = 0.99
"""Of the running median."""


class AffinityLoss(nn.Module):
    """Draws the predictions of voxels with similar features, of different scans, together.

    Attributes
    ----------
    scale : () running median of the squared distance between features; 0 until the first step.
    """

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("scale", torch.zeros(()))
        self.scale: Tensor

    def forward(self, features: Tensor, probabilities: Tensor, scans: Tensor) -> Tensor:
        """Return the loss.

        Parameters
        ----------
        features : (n, F) of sampled voxels; gets no gradient.
        probabilities : (n, K) predictions of the same voxels.
        scans : (n,) which scan each comes from; pairs of one scan are left out.
        """
        with torch.no_grad():
            distances = squared_distances(features.float())
            apart = scans[:, None] != scans[None]
            self._follow(distances[apart])
            weights = nearest(affinities(distances, self.scale) * apart, NEIGHBOURS)
        disagreement = squared_distances(probabilities.float())
        return (weights * disagreement).sum() / weights.sum().clamp_min(1e-8)

    def _follow(self, distances: Tensor) -> None:
        if distances.numel():
            latest = distances.median()
            self.scale = torch.where(self.scale > 0, torch.lerp(latest, self.scale, DECAY), latest)


def affinities(distances: Tensor, scale: Tensor) -> Tensor:
    """Return exp(-d^2 / sigma^2) of squared distances."""
    return torch.exp(-distances / scale.clamp_min(1e-12))


def squared_distances(vectors: Tensor) -> Tensor:
    """Return the (n, n) squared Euclidean distances of (n, F) vectors; differentiable everywhere."""
    squares = vectors.square().sum(1)
    return (squares[:, None] + squares[None] - 2 * vectors @ vectors.T).clamp_min(0.0)


def nearest(weights: Tensor, count: int) -> Tensor:
    """Keep a pair's weight where either is among the other's `count` strongest; symmetric if `weights` are."""
    if count >= len(weights):
        return weights
    strongest = weights.topk(count, dim=1).indices
    kept = torch.zeros_like(weights, dtype=torch.bool).scatter_(1, strongest, value=True)
    return weights * (kept | kept.T)


def balanced_sample(classes: Tensor, count: int) -> Tensor:
    """Return positions of at most about `count` voxels of (n,) classes: equally many of each that is there."""
    order = torch.randperm(len(classes)).to(classes.device)
    present = torch.unique(classes)
    share = max(1, count // max(1, len(present)))
    chosen = [order[classes[order] == index][:share] for index in present]
    return torch.cat(chosen) if chosen else order[:0]
