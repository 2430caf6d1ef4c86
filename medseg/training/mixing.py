"""Learning from labelled and unlabelled scans together, mixed in one image.

    L = lambda L_sup + (1 - lambda) r(t) (L_pl + beta L_ws)

L_sup is the segmentation loss where a mixed patch shows a labelled scan, L_pl the same loss with voxel
weights where it shows an unlabelled one, L_ws the affinity loss (`medseg.losses.affinity`), r(t) the
ramp of Mean Teacher. The labels of unlabelled voxels come from an averaged teacher at every step
(MixTeacher: Mean Teacher, Tarvainen and Valpola, NeurIPS 2017; bidirectional copy-paste, Bai et al.,
CVPR 2023; strong and weak views, FixMatch, Sohn et al., NeurIPS 2020), or from pseudo-labels on disk.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from medseg.config import UnlabelledConfig
from medseg.data.batches import Batch, Unlabelled
from medseg.data.mixing import mix
from medseg.labels import LabelMap
from medseg.losses.affinity import SAMPLES, AffinityLoss, balanced_sample
from medseg.losses.prototypes import coarse_voxels
from medseg.losses.segmentation import SegmentationLoss, resized
from medseg.outputs import NetworkOutput
from medseg.training.methods import Terms, supervised
from medseg.training.temporary_labels import Labeller, TemporaryLabels, ignored_where

Teacher = Callable[[Tensor], NetworkOutput]
"""Answers for (B, C, *spatial) images without gradient."""


class _Lesson(NamedTuple):
    """One batch as the student gets it.

    Attributes
    ----------
    image : (B, C, *spatial).
    target : (B, *spatial) true and temporary labels together.
    weight : (B, *spatial) how much each voxel counts; 1 where a person labelled.
    labelled : (B, *spatial) bool, where the labelled scan is shown.
    """

    image: Tensor
    target: Tensor
    weight: Tensor
    labelled: Tensor


class MixedMethod(nn.Module):
    """Trains a student on mixed patches; a `Method`.

    Parameters
    ----------
    loss : for both kinds of labels.
    labelled_weight : lambda.
    teacher : labels the unlabelled patches; None: their pseudo-labels come with the batch.
    """

    def __init__(
        self,
        loss: SegmentationLoss,
        labels: LabelMap,
        config: UnlabelledConfig,
        labelled_weight: float,
        teacher: Teacher | None,
    ) -> None:
        super().__init__()
        self.loss, self.labels, self.config = loss, labels, config
        self.labelled_weight, self.teacher = labelled_weight, teacher
        self.labeller = Labeller(labels, config) if teacher else None
        self.affinity = AffinityLoss() if config.affinity_weight else None

    def step(self, network: nn.Module, batch: Batch, progress: float) -> Terms:
        """Return `loss` and its terms for one batch; as supervised training does before others are mixed in."""
        if "unlabelled" not in batch:
            return supervised(self.loss, network, batch)
        unlabelled = batch["unlabelled"]
        temporary = self._label(unlabelled)
        lesson = _mixed(batch, temporary)
        output: NetworkOutput = network(lesson.image)
        labelled = self.loss(output, ignored_where(~lesson.labelled, lesson.target))
        pseudo = self.loss(output, ignored_where(lesson.labelled, lesson.target), lesson.weight)
        terms = {"dice": labelled.dice, "ce": labelled.ce, "pseudo_dice": pseudo.dice, "pseudo_ce": pseudo.ce}
        learnt = pseudo.total
        if self.affinity is not None:
            similar = self._affinity(self.affinity, output, lesson)
            learnt = learnt + self.config.affinity_weight * similar
            terms["affinity"] = similar.detach()
        if self.labeller is not None:
            self.labeller.learn_prototypes(output.features, lesson.target, lesson.weight)
        share, first = self.labelled_weight, self.config.mixed_from
        rise = ramp((progress - first) / (1 - first), self.config.ramp)
        total = share * labelled.total + (1 - share) * rise * learnt
        return {"loss": total, **terms, "pseudo_weight": temporary.weight.mean()}

    def _label(self, unlabelled: Unlabelled) -> TemporaryLabels:
        if self.teacher is None or self.labeller is None:
            return TemporaryLabels(unlabelled["target"], unlabelled["weight"])
        labels: TemporaryLabels = self.labeller(self.teacher(unlabelled["weak"]))
        return labels

    def _affinity(self, loss: AffinityLoss, output: NetworkOutput, lesson: _Lesson) -> Tensor:
        """Compare voxels of the student's features, as many of each class and scan."""
        assert output.features is not None
        voxels = coarse_voxels(output.features.detach(), lesson.target, lesson.weight)
        size = output.features.shape[2:]
        rows = torch.arange(len(lesson.image), device=voxels.places.device).reshape(-1, *[1] * len(size))
        scans = (2 * rows + resized(lesson.labelled.to(torch.uint8), size)).flatten()[voxels.places]
        logits = functional.interpolate(output.logits.float(), size, mode="nearest-exact")
        likely = logits.sigmoid() if self.labels.regions else logits.softmax(1)
        probabilities = likely.movedim(1, -1).flatten(0, -2)[voxels.places]
        chosen = balanced_sample(2 * voxels.indices + scans % 2, SAMPLES)
        similar: Tensor = loss(voxels.vectors[chosen], probabilities[chosen], scans[chosen])
        return similar


def _mixed(batch: Batch, temporary: TemporaryLabels) -> _Lesson:
    unlabelled = batch["unlabelled"]
    paste = unlabelled["paste"]
    return _Lesson(
        mix(batch["image"], unlabelled["strong"], paste),
        mix(batch["target"], temporary.target, paste),
        mix(torch.ones_like(temporary.weight), temporary.weight, paste),
        paste,
    )


def ramp(progress: float, share: float) -> float:
    """Return exp(-5 (1 - t)^2), t rising from 0 to 1 over the first `share` of the steps (Laine and Aila, ICLR 2017).

    Examples
    --------
    >>> ramp(0.4, 0.4), ramp(0.9, 0.4), ramp(0.0, 0.0)
    (1.0, 1.0, 1.0)
    """
    risen = min(1.0, progress / share) if share else 1.0
    return math.exp(-5.0 * (1.0 - risen) ** 2)
