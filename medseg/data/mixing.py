"""Labelled and unlabelled patches side by side, and boxes pasted from one into the other.

Bidirectional copy-paste (Bai et al., CVPR 2023): a mixed patch shows a labelled scan outside of a box and
an unlabelled one within, or the other way round, so that both are learnt in one image under one
distribution. Half of the patches go each way.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from medseg.config import AugmentationConfig, TrainingConfig, UnlabelledConfig
from medseg.data.augment import Augmenter, Views
from medseg.data.batches import Batch, BatchStream, Unlabelled, beside_training, stack
from medseg.data.sampling import Randomness, Sampler
from medseg.data.spatial import PatchSource
from medseg.errors import DatasetError
from medseg.plan import Sizes

PATCHES, CASE_ORDER, PASTE = 2, 3, 4
"""First words of the seeds of unlabelled patches, their cases' order and the boxes."""

FULL = 255.0
"""Weight of a voxel that counts fully, as stored."""


class MixedStream:
    """Batches of labelled patches with as many unlabelled ones, and where to paste.

    The labelled patches are those that training without unlabelled scans would see.

    Parameters
    ----------
    cases : unlabelled cases, or cases with pseudo-labels.
    mixing : `paste` and `mixed_from` of it; before that share of the steps the batches hold no unlabelled patches.

    Raises
    ------
    DatasetError
        If there is no unlabelled case.
    """

    def __init__(
        self,
        labelled: BatchStream,
        cases: Sequence[PatchSource],
        augmentation: AugmentationConfig,
        training: TrainingConfig,
        randomness: Randomness,
        mixing: UnlabelledConfig,
    ) -> None:
        if not cases:
            raise DatasetError("there is no unlabelled case to mix with the labelled ones")
        self.labelled, self.plan, self.paste = labelled, labelled.plan, mixing.paste
        self.first_mixed = round(mixing.mixed_from * training.steps)
        self.randomness = randomness
        self.sampler = Sampler(cases, self.plan, training.foreground, randomness, (PATCHES, CASE_ORDER))
        self.augmenter = Augmenter(augmentation, self.plan, labelled.device)

    def batch(self, step: int) -> Batch:
        """Return the batch of a step, the same at every call and on any thread."""
        if step < self.first_mixed:
            return self.labelled.batch(step)
        with beside_training(self.labelled.device):
            patches = [self.augmenter.views(*self.sampler.draw(step, p)) for p in range(self.plan.batch)]
            unlabelled = Unlabelled(
                weak=stack([views.weak for views in patches], self.plan),
                strong=stack([views.strong for views in patches], self.plan),
                target=stack([views.target for views in patches], self.plan),
                weight=stack([_weight(views) for views in patches], self.plan),
                paste=stack([self._paste(step, position) for position in range(self.plan.batch)], self.plan),
            )
        return {**self.labelled.batch(step), "unlabelled": unlabelled}

    def _paste(self, step: int, position: int) -> torch.Tensor:
        """Return where the mixed patch shows the labelled scan; the directions take turns."""
        box = draw_box(self.plan.patch, self.paste, self.randomness.generator(PASTE, step, position))
        box = box.to(self.labelled.device)  # a copy in the step's own stream may wait for all that is queued there
        return ~box if (step + position) % 2 else box


def draw_box(patch: Sizes, share: float, rng: np.random.Generator) -> torch.Tensor:
    """Return a mask (*patch) that is True in one box at a random place, its edges `share` of the patch's.

    Without a share it is False everywhere.
    """
    sizes = [max(1, round(share * n)) if share else 0 for n in patch]
    starts = [int(rng.integers(0, n - size + 1)) for n, size in zip(patch, sizes, strict=True)]
    mask = torch.zeros(patch, dtype=torch.bool)
    mask[tuple(slice(start, start + size) for start, size in zip(starts, sizes, strict=True))] = True
    return mask


def mix(labelled: torch.Tensor, unlabelled: torch.Tensor, paste: torch.Tensor) -> torch.Tensor:
    """Return `labelled` (B, [C,] *spatial) where `paste` (B, *spatial) is True, `unlabelled` elsewhere."""
    mask = paste if labelled.dim() == paste.dim() else paste[:, None]
    return torch.where(mask, labelled, unlabelled)


def _weight(views: Views) -> torch.Tensor:
    if views.weight is None:
        return torch.ones(views.target.shape, device=views.target.device)
    return views.weight.float() / FULL
