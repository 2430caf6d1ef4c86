"""What teachers' logits say of each voxel: probabilities, a decision, and how sure it is.

Decisions are numbered as in `medseg.inference.restore.decide`: 0 is background, then the classes, or 1 + the
number of the region painted last.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from medseg.inference.restore import decide
from medseg.labels import IGNORE_INDEX, LabelMap


def probabilities(logits: Tensor, labels: LabelMap, temperature: float = 1.0) -> Tensor:
    """Return the probabilities (K, ...) of logits (K, ...) divided by a temperature."""
    scaled = logits / temperature
    return torch.sigmoid(scaled) if labels.regions else torch.softmax(scaled, 0)


def with_opinion(likely: Tensor, opinion: Tensor | None, share: float) -> Tensor:
    """Return (1 - share) p + share s of probabilities p (K, ...) of classes and similarities s (K, ...) to prototypes.

    Without similarities, or a share of them, the probabilities stay as they are.
    """
    return torch.lerp(likely, opinion.to(likely), share) if opinion is not None and share else likely


def decide_likely(likely: Tensor, labels: LabelMap) -> Tensor:
    """Return the decision at each voxel, uint8, of probabilities (K, ...)."""
    return decide(likely - 0.5 if labels.regions else likely, labels)


def confidence(likely: Tensor, labels: LabelMap) -> Tensor:
    """Return the probability of the decision; of regions, of the least sure one."""
    if not labels.regions:
        return likely.amax(0)
    return torch.maximum(likely, 1 - likely).amin(0)


def uncertainty(likely: Tensor, labels: LabelMap) -> Tensor:
    """Return the entropy of probabilities (K, ...), 0 (sure) to 1 (undecided); of regions, of the least sure one."""
    if labels.regions:
        return (torch.special.entr(likely) + torch.special.entr(1 - likely)).amax(0) / math.log(2)
    return torch.special.entr(likely).sum(0) / math.log(len(likely))


def true_decisions(indices: NDArray[np.uint8], labels: LabelMap) -> NDArray[np.uint8]:
    """Return the decisions that class indices ask for; ignored voxels stay 255."""
    table = np.arange(256, dtype=np.uint8)
    if labels.regions:
        table[:IGNORE_INDEX] = 0
        for number in range(len(labels.regions)):
            table[_indices_of(number, labels)] = number + 1
    return table[indices]


def negative_log_likelihood(logits: Tensor, indices: Tensor, labels: LabelMap) -> Tensor:
    """Return what each voxel's truth costs (n,): logits (K, n), class indices (n,) without ignored ones."""
    if not labels.regions:
        return functional.cross_entropy(logits.T, indices.long(), reduction="none")
    members = torch.stack(
        [torch.isin(indices, torch.tensor(_indices_of(number, labels))) for number in range(len(labels.regions))]
    )
    return functional.binary_cross_entropy_with_logits(logits, members.float(), reduction="none").sum(0)


def decision_names(labels: LabelMap) -> tuple[str, ...]:
    """Return the name of each decision."""
    return ("background", *labels.targets)


def _indices_of(target: int, labels: LabelMap) -> list[int]:
    """Return the class indices that belong to a target."""
    return [1 + labels.values.index(value) for value in labels.members(target)]
