"""Patches of which random blocks are to be restored from the rest.

The task of masked autoencoders (He et al., CVPR 2022) in the form that suits convolutions: blocks of the
image are hidden, the whole patch goes through the network, and only hidden voxels are compared (context
encoders, Pathak et al., CVPR 2016; in-painting in Models Genesis, Zhou et al., MICCAI 2019; the share of 0.6
is SparK's, Tian et al., ICLR 2023).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray

from medseg.config import AugmentationConfig, PretrainingConfig
from medseg.data.batches import Batch, make_batch
from medseg.data.sampling import Randomness, Sampler
from medseg.data.spatial import CPU, PatchSource, SpatialDrawer, read_patch
from medseg.errors import ConfigError, DatasetError
from medseg.plan import Plan, Sizes
from medseg.text import shown_sizes

PATCHES, CASE_ORDER = 5, 6
"""First words of the seeds of patches with hidden blocks and of their cases' order."""

HIDDEN = 1
"""Target of a voxel that is to be restored; the others have 0."""


class HidingStream:
    """Batches whose `target` says which voxels are hidden; the image is whole, so that it can be compared with.

    Patches come from anywhere in a scan, changed in space but not in intensity: noise can't be restored.

    Parameters
    ----------
    cases : scans; masks are not looked at.
    randomness : seed and process; each process gets ``plan.batch`` patches of its own.
    device : that patches are made on.

    Raises
    ------
    DatasetError
        If there is no case.
    ConfigError
        If one block covers the whole patch.
    """

    def __init__(
        self,
        cases: Sequence[PatchSource],
        plan: Plan,
        augmentation: AugmentationConfig,
        config: PretrainingConfig,
        randomness: Randomness,
        device: torch.device = CPU,
    ) -> None:
        if not cases:
            raise DatasetError("there is no scan to pre-train on; add scans to the dataset, they need no masks")
        self.plan, self.device = plan, device
        self.share, self.block = config.hidden, block_sizes(config.block, plan)
        if all(edge >= size for edge, size in zip(self.block, plan.patch, strict=True)):
            raise ConfigError(
                f"pretraining.block {config.block} covers the whole patch {shown_sizes(plan.patch)}; choose a "
                "smaller one"
            )
        self.sampler = Sampler(cases, plan, 0.0, randomness, (PATCHES, CASE_ORDER))
        self.spatial = SpatialDrawer(augmentation, plan)

    def batch(self, step: int) -> Batch:
        """Return the batch of a step, the same at every call and on any thread."""
        return make_batch(partial(self._sample, step), self.plan, self.device)

    def _sample(self, step: int, position: int) -> tuple[torch.Tensor, torch.Tensor]:
        case, start, rng = self.sampler.draw(step, position)
        image = read_patch(case, start, self.plan.patch, self.spatial.draw(rng), self.device).image
        return image, torch.from_numpy(hide(self.plan.patch, self.block, self.share, rng)).to(self.device)


def block_sizes(edge: int, plan: Plan) -> Sizes:
    """Return a block's voxels along each axis: about equal edges in mm.

    Parameters
    ----------
    edge : voxels along the finest axis.
    """
    finest = min(plan.spacing)
    x, y, z = (max(1, round(edge * finest / spacing)) for spacing in plan.spacing)
    return x, y, z


def hide(patch: Sizes, block: Sizes, share: float, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Return which voxels (*patch) are `HIDDEN`: a random share of its blocks, at least one, and not all of several.

    Blocks at the far ends are cut where the patch is no multiple of the block.
    """
    grid = [-(-size // edge) for size, edge in zip(patch, block, strict=True)]
    count = int(np.prod(grid))
    wanted = min(max(1, round(share * count)), max(1, count - 1))
    chosen = np.zeros(count, np.uint8)
    chosen[rng.choice(count, wanted, replace=False)] = HIDDEN
    hidden = chosen.reshape(grid)
    for axis, edge in enumerate(block):
        hidden = hidden.repeat(edge, axis)
    return np.ascontiguousarray(hidden[: patch[0], : patch[1], : patch[2]])
