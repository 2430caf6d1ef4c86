"""Learning from the probabilities of another network: Kullback-Leibler divergence plus soft Dice.

Probabilities at a temperature T say how classes resemble each other; the gradient of a divergence between such shrinks
with T^2, so it is multiplied by that (Hinton et al., Distilling the Knowledge in a Neural Network, 2015). As in the
segmentation loss, voxels of small structures are too few to count in a mean over voxels, so Dice is added. Its
denominator is squared (Milletari et al., V-Net, 3DV 2016): only then equal probabilities are its minimum.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

SMOOTH = 1e-5
"""Added to numerator and denominator of Dice: a target that neither network sees costs nothing."""


class SoftTargetLoss:
    """Compare the logits of a student with those of a teacher; 0 where they agree.

    Parameters
    ----------
    regions : whether outputs are overlapping regions (sigmoids), not exclusive classes (softmax).
    temperature : of the divergence; Dice compares plain probabilities.
    """

    def __init__(self, *, regions: bool, temperature: float) -> None:
        self.regions, self.temperature = regions, temperature

    def __call__(self, student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
        """Return divergence (nats, times T^2) and 1 - Dice, both scalars with gradient for the student.

        Parameters
        ----------
        student, teacher : logits (B, K, *spatial) of any float type; computed in float32.
        """
        with torch.autocast(student.device.type, enabled=False):
            student, teacher = student.float(), teacher.detach().float()
            return self._divergence(student, teacher), self._dice_loss(student, teacher)

    def _divergence(self, student: Tensor, teacher: Tensor) -> Tensor:
        ours, theirs = student / self.temperature, teacher / self.temperature
        if self.regions:
            difference = _binary_divergence(ours, theirs).mean()
        else:
            logs = functional.kl_div(ours.log_softmax(1), theirs.log_softmax(1), reduction="none", log_target=True)
            difference = logs.sum(1).mean()
        return difference * self.temperature**2

    def _dice_loss(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Return 1 - mean Dice over the targets, each over the whole batch, because patches may lack one."""
        ours, theirs = (self._foreground(logits).transpose(0, 1).flatten(1) for logits in (student, teacher))
        overlap, sizes = (ours * theirs).sum(1), (ours**2).sum(1) + (theirs**2).sum(1)
        return 1 - ((2 * overlap + SMOOTH) / (sizes + SMOOTH)).mean()

    def _foreground(self, logits: Tensor) -> Tensor:
        return logits.sigmoid() if self.regions else logits.softmax(1)[:, 1:]


def _binary_divergence(ours: Tensor, theirs: Tensor) -> Tensor:
    """Return KL(theirs || ours) of two Bernoulli probabilities, from logits."""
    inside = functional.logsigmoid(theirs) - functional.logsigmoid(ours)
    outside = functional.logsigmoid(-theirs) - functional.logsigmoid(-ours)
    share = theirs.sigmoid()
    return share * inside + (1 - share) * outside
