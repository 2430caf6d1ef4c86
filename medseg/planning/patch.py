"""The largest patch, and the batch of it, that fit the data and the device's memory."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from medseg.config import PlanConfig, Triple
from medseg.errors import PlanError
from medseg.plan import Sizes
from medseg.planning.choices import AXES, SET
from medseg.planning.memory import REFERENCE_BATCH, budget, feature_values, needed_gb
from medseg.planning.topology import Architect, Design
from medseg.text import shown_sizes

LARGEST_PATCH = {3: 256**3, 2: 2048**2}
"""Voxels of the patch that the search starts from, before it is cut to the scans' size."""

DATASET_SHARE = 0.05
"""A batch covers at most this share of the dataset's voxels: more would barely change between steps."""

MIN_BATCH = 2
"""Fewer patches give gradients too noisy, and take longer a patch on CPUs."""


@dataclass(frozen=True, slots=True)
class Frame:
    """What the network's grid looks like.

    Attributes
    ----------
    spacing : mm along x, y, z.
    slice_axis : the axis that a 2D network doesn't see.
    shape : the scans' median size on this grid, voxels.
    cases : number of training cases.
    """

    spacing: Triple
    slice_axis: int
    shape: Sizes
    cases: int

    def axes(self, dimensions: int) -> tuple[int, ...]:
        """Return the axes that a network of so many dimensions works along."""
        return tuple(axis for axis in range(3) if dimensions == 3 or axis != self.slice_axis)


@dataclass(frozen=True, slots=True)
class PatchSearch:
    """Tries designs until one fits.

    Parameters
    ----------
    wishes : dimensions, memory, and perhaps a patch and a batch that a person wants.
    frame : the grid and the scans' size on it.
    architect : designs the network for a patch.
    outputs : the network's output channels.
    """

    wishes: PlanConfig
    frame: Frame
    architect: Architect
    outputs: int

    def choose_patch(self) -> tuple[Design, str]:
        """Return the patch with its network, and why.

        Raises
        ------
        PlanError
            If no patch fits the memory, or the wished one doesn't.
        """
        if self.wishes.patch is not None:
            return self._take_wish(self.wishes.patch)
        batch = self.wishes.batch or REFERENCE_BATCH[self.wishes.dimensions]
        design = start = self.architect.design(self._start())
        while self._values(design) * batch > self._budget:
            smaller = self._smaller(design)
            if smaller is None:
                raise PlanError(
                    f"memory_gb {self.wishes.memory_gb:g} is too little: the smallest patch of this network "
                    f"({shown_sizes(design.patch)} voxels) takes about {self._gb(design, batch)} GB at batch {batch}; "
                    "raise memory_gb, or choose fewer features or a smaller batch"
                )
            design = smaller
        return design, self._explain(start, design, batch)

    def choose_batch(self, design: Design) -> tuple[int, str]:
        """Return how many patches a step takes, and why."""
        if self.wishes.batch is not None:
            return self.wishes.batch, SET
        fits = int(self._budget / self._values(design))
        voxels = self.frame.cases * math.prod(self.frame.shape)
        share = max(round(DATASET_SHARE * voxels / design.voxels), MIN_BATCH)
        memory = f"{fits} fit {self.wishes.memory_gb:g} GB"
        if fits <= share:
            return fits, f"{memory}, by about {self._gb(design, 1)} GB a patch"
        limit = f"{DATASET_SHARE:.0%} of the voxels of {self.frame.cases} scans are {share} patches"
        least = f", and {MIN_BATCH} are the least" if share == MIN_BATCH else ""
        return share, f"{memory}, but {limit}{least}"

    @property
    def _budget(self) -> float:
        return budget(self.wishes.memory_gb, self.wishes.dimensions)

    def _values(self, design: Design) -> float:
        return feature_values(design.network, design.patch, self.outputs)

    def _gb(self, design: Design, batch: int) -> str:
        gigabytes = needed_gb(self._values(design) * batch, self.wishes.dimensions)
        return f"{gigabytes:.0f}" if gigabytes >= 10 else f"{gigabytes:.2g}"

    def _take_wish(self, wish: Sizes) -> tuple[Design, str]:
        axis = self.frame.slice_axis
        if min(wish) < 1:
            raise PlanError(f"plan.patch must have at least 1 voxel along every axis, not {shown_sizes(wish)}")
        if self.wishes.dimensions == 2 and wish[axis] != 1:
            raise PlanError(
                f"plan.patch {shown_sizes(wish)} must be 1 along {AXES[axis]}: 2D slices lie across that axis"
            )
        design = self.architect.design(wish)
        batch = self.wishes.batch or 1
        if self._values(design) * batch > self._budget:
            raise PlanError(
                f"plan.patch {shown_sizes(design.patch)} takes about {self._gb(design, batch)} GB at batch {batch}, "
                f"and memory_gb is {self.wishes.memory_gb:g}: choose a smaller patch or raise memory_gb"
            )
        if design.patch == wish:
            return design, SET
        return design, f"{SET} as {shown_sizes(wish)}, enlarged to fit the network's strides"

    def _start(self) -> Sizes:
        """Return the patch of equal extent in mm along every axis, cut to the scans' size."""
        axes = self.frame.axes(self.wishes.dimensions)
        per_mm = np.array([1 / self.frame.spacing[axis] for axis in axes])
        edge_mm = (LARGEST_PATCH[self.wishes.dimensions] / per_mm.prod()) ** (1 / len(axes))
        sizes = [1, 1, 1]
        for axis, density in zip(axes, per_mm, strict=True):
            sizes[axis] = max(1, min(round(edge_mm * density), self.frame.shape[axis]))
        return sizes[0], sizes[1], sizes[2]

    def _smaller(self, design: Design) -> Design | None:
        """Return the next smaller patch: less of the axis that covers most of the scans' extent."""
        axes = self.frame.axes(self.wishes.dimensions)
        for axis in sorted(axes, key=lambda a: design.patch[a] / self.frame.shape[a], reverse=True):
            # Fewer voxels may mean fewer stages and so a finer step, as in nnU-Net.
            coarser = _less(design.patch, axis, design.network.divisor[axis])
            step = self.architect.design(coarser).network.divisor[axis]
            smaller = self.architect.design(_less(design.patch, axis, step))
            if smaller.voxels < design.voxels:
                return smaller
        return None

    def _explain(self, start: Design, design: Design, batch: int) -> str:
        content = f"the scans' median size on this grid is {shown_sizes(self.frame.shape)} voxels"
        steps = f"sizes are multiples of {shown_sizes(design.network.divisor)}"
        memory = f"a batch of {batch} takes about {self._gb(design, batch)} of {self.wishes.memory_gb:g} GB"
        if design == start:
            return f"{content}; {steps}; {memory}"
        return f"{content}; shrunk from {shown_sizes(start.patch)} until a batch fits; {steps}; {memory}"


def _less(patch: Sizes, axis: int, step: int) -> Sizes:
    x, y, z = (max(1, size - step) if a == axis else size for a, size in enumerate(patch))
    return x, y, z
