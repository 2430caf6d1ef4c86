"""Labels that a teacher gives to unlabelled voxels for one step, and how much each of them counts."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from medseg.config import UnlabelledConfig
from medseg.labels import IGNORE_INDEX, LabelMap
from medseg.losses.prototypes import Prototypes
from medseg.losses.sums import class_sums
from medseg.outputs import NetworkOutput

CONFIDENCE_DECAY = 0.999
"""Of the running mean confidence of each class (FreeMatch, Wang et al., ICLR 2023)."""


class TemporaryLabels(NamedTuple):
    """What the student is to learn of unlabelled patches.

    Attributes
    ----------
    target : (B, *spatial) uint8 class indices; 255 where nothing is to be learnt.
    weight : (B, *spatial) float32, how much each voxel counts, 0 to 1.
    """

    target: Tensor
    weight: Tensor


class Labeller(nn.Module):
    """Turns a teacher's output into labels and weights.

    With class prototypes the probabilities become (1 - a) p + a s, s being the softmax over the cosine
    similarities of a voxel's features to the prototypes of labelled and confident voxels, so that labels
    follow from the prediction and from similarity to what is known.

    Parameters
    ----------
    labels : without regions.
    """

    def __init__(self, labels: LabelMap, config: UnlabelledConfig) -> None:
        super().__init__()
        self.config = config
        wanted = config.prototype_share or config.prototype_gate
        self.prototypes = Prototypes(labels.outputs) if wanted else None
        self.register_buffer("confidence", torch.ones(labels.outputs))
        self.confidence: Tensor

    @torch.no_grad()
    def forward(self, output: NetworkOutput) -> TemporaryLabels:
        """Label patches from the teacher's output for them."""
        probabilities, gate = self._with_prototypes(output.logits.float().softmax(1), output.features)
        confidence, indices = probabilities.max(1)
        weight = self._weight(confidence, _certainty(probabilities), self._thresholds()[indices])
        if self.config.adaptive_threshold:
            self._follow(confidence, indices)
        return TemporaryLabels(indices.to(torch.uint8), weight * gate)

    def learn_prototypes(self, features: Tensor | None, target: Tensor, weight: Tensor) -> None:
        """Move the class prototypes towards labelled and confident voxels."""
        if self.prototypes is not None:
            assert features is not None
            self.prototypes.update(features.detach(), target, weight)

    def _with_prototypes(self, probabilities: Tensor, features: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return the probabilities mixed with similarity, and 1 where both agree or need not."""
        agreed = torch.ones_like(probabilities[:, 0])
        if self.prototypes is None or features is None:
            return probabilities, agreed
        similarity = self.prototypes.similarity(features, probabilities.shape[2:])
        if similarity is None:
            return probabilities, agreed
        if self.config.prototype_gate:
            agreed = (probabilities.argmax(1) == similarity.argmax(1)).float()
        return torch.lerp(probabilities, similarity, self.config.prototype_share), agreed

    def _weight(self, confidence: Tensor, certainty: Tensor, threshold: Tensor) -> Tensor:
        kept = (confidence >= threshold).float()
        return kept * certainty if self.config.entropy_weight else kept

    def _thresholds(self) -> Tensor:
        """Return the threshold of each class; lower where the teacher is less confident than of its best structure."""
        even = torch.full_like(self.confidence, self.config.threshold)
        if not self.config.adaptive_threshold:
            return even
        return even * (self.confidence / self.confidence[1:].max()).clamp(max=1)

    def _follow(self, confidence: Tensor, indices: Tensor) -> None:
        # in float64: after two million voxels a float32 sum rounds each further one by as much as it is unsure
        values = confidence.double()
        totals, counts = (
            class_sums(part, indices, len(self.confidence)).sum(0) for part in (values, torch.ones_like(values))
        )
        latest = torch.where(counts > 0, (totals / counts.clamp_min(1)).float(), self.confidence)
        self.confidence = torch.lerp(latest, self.confidence, CONFIDENCE_DECAY)


def _certainty(probabilities: Tensor) -> Tensor:
    """Return 1 - entropy / ln K of (B, K, *spatial) probabilities."""
    entropy = torch.special.entr(probabilities).sum(1)
    return (1 - entropy / math.log(probabilities.shape[1])).clamp(0, 1)


def ignored_where(mask: Tensor, target: Tensor) -> Tensor:
    """Return (B, *spatial) class indices with 255 where `mask` is True."""
    return target.masked_fill(mask, IGNORE_INDEX)
