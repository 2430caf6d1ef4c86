"""A second opinion on every voxel: which class's mean feature its own is most like.

A teacher's prototypes are the mean decoder features of each class over the scans that it learnt from; a voxel whose
nearest prototype is of another class than the teachers' decision is not believed (TCSeg, ICML 2026, finds agreement
in feature space and mixing the two ingredients that matter). Features and similarities as in
`medseg.losses.prototypes`.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from medseg.losses.prototypes import coarse_voxels

NEIGHBOURS = 3
"""Labelled scans that an unlabelled one is compared with."""

LEAST_SIMILARITY = 0.3
"""However strange a scan, its weight is at least this: strange scans are left out by other checks."""


class PrototypeSums:
    """Adds up one teacher's features of each decision."""

    def __init__(self, decisions: int) -> None:
        self.decisions = decisions
        self._total: Tensor | None = None

    def add(self, features: Tensor, decided: Tensor) -> None:
        """Count features (B, F, *coarse) of voxels whose true decisions are (B, *spatial) uint8; 255 nowhere."""
        voxels = coarse_voxels(features, decided, torch.ones_like(decided))
        if self._total is None:
            self._total = voxels.vectors.new_zeros(self.decisions, voxels.vectors.shape[1])
        self._total.index_add_(0, voxels.indices, voxels.vectors)

    def means(self) -> Tensor | None:
        """Return (decisions, F) of length 1, 0 for a decision never met; None without features."""
        return None if self._total is None else functional.normalize(self._total, dim=1)


def scan_similarity(features: Tensor, labelled: Tensor) -> float:
    """Return how much a scan resembles the labelled ones, 0.3 to 1.

    The mean of exp(-d² / σ²) over the three nearest labelled scans, with σ² the median squared distance of
    labelled scans to each other; 1 where fewer than two are known.

    Parameters
    ----------
    features : (F,) pooled features of the scan.
    labelled : (n, F) of the labelled scans.
    """
    if len(labelled) < 2:
        return 1.0
    scale = functional.pdist(labelled).square().median().clamp(min=1e-12)
    away = (labelled - features).square().sum(1)
    nearest = away.topk(min(NEIGHBOURS, len(labelled)), largest=False).values
    return float(torch.exp(-nearest / scale).mean().clamp(LEAST_SIMILARITY, 1.0))
