"""A random patch of a case: read, changed in space, changed in intensity.

Of an unlabelled case a patch has two views, changed alike in space: a weak one with the scanner's own
intensities, for the teacher, and a strong one with changed intensities, for the student.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch

from medseg.config import AugmentationConfig
from medseg.data.intensity import change_intensities
from medseg.data.spatial import CPU, PatchSource, SpatialDrawer, SpatialPatch, read_patch
from medseg.plan import Plan


class Views(NamedTuple):
    """One patch, seen twice.

    Attributes
    ----------
    weak, strong : (C, *patch) float32, with the intensities as they are and changed.
    target : (*patch) uint8 class indices; 255 where nothing is known.
    weight : (*patch) uint8, how much each target counts, 255 fully; None: all of them do.
    """

    weak: torch.Tensor
    strong: torch.Tensor
    target: torch.Tensor
    weight: torch.Tensor | None


class Augmenter:
    """Reads augmented patches of one plan. It holds no state: all randomness comes from the caller's generator.

    Parameters
    ----------
    device : that patches are changed on. Parameters are drawn alike on all, noise is each kind's own.
    """

    def __init__(self, config: AugmentationConfig, plan: Plan, device: torch.device = CPU) -> None:
        self.config, self.device = config, device
        self.spatial = SpatialDrawer(config, plan)

    def __call__(
        self, source: PatchSource, start: Sequence[int], rng: np.random.Generator
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return an augmented patch.

        Parameters
        ----------
        source : the case to read from; only the voxels that the drawn change needs are read.
        start : (3,) first voxel of the patch before it is changed; may lie outside of the scan.

        Returns
        -------
        image : (C, *patch) float32.
        target : (*patch) uint8 class indices.
        """
        image, target, _ = self._read(source, start, rng)
        return change_intensities(image, self.config, rng, self.spatial.axes), target

    def views(self, source: PatchSource, start: Sequence[int], rng: np.random.Generator) -> Views:
        """Return both views of an augmented patch; parameters as for calling."""
        image, target, weight = self._read(source, start, rng)
        return Views(image, change_intensities(image.clone(), self.config, rng, self.spatial.axes), target, weight)

    def _read(self, source: PatchSource, start: Sequence[int], rng: np.random.Generator) -> SpatialPatch:
        return read_patch(source, start, self.spatial.patch, self.spatial.draw(rng), self.device)
