"""A random patch of a case: read, changed in space, changed in intensity."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from medseg.config import AugmentationConfig
from medseg.data.intensity import change_intensities
from medseg.data.spatial import PatchSource, SpatialDrawer, read_patch
from medseg.plan import Plan


class Augmenter:
    """Reads augmented patches of one plan. It holds no state: all randomness comes from the caller's generator."""

    def __init__(self, config: AugmentationConfig, plan: Plan) -> None:
        self.config = config
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
        change = self.spatial.draw(rng)
        image, target = read_patch(source, start, self.spatial.patch, change)
        return change_intensities(image, self.config, rng, self.spatial.axes), target
