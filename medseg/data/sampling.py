"""Which case and which place a patch comes from, as a pure function of seed, process, step and position."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from medseg.data.spatial import PatchSource
from medseg.plan import Plan, Sizes


@dataclass(frozen=True, slots=True)
class Randomness:
    """What random numbers follow from, beside step and position.

    Attributes
    ----------
    seed, rank, world : the run's seed, this process's number and the number of processes.
    """

    seed: int
    rank: int = 0
    world: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.rank < self.world:
            raise ValueError(f"rank {self.rank} is not one of {self.world} processes")

    def generator(self, word: int, step: int, position: int) -> np.random.Generator:
        """Return the generator of one patch; other first words give other numbers."""
        return np.random.default_rng([word, self.seed, self.rank, step, position])


class Draw(NamedTuple):
    """Where a patch comes from, and the generator of all that is still to be drawn for it."""

    case: PatchSource
    start: tuple[int, ...]
    rng: np.random.Generator


class Sampler:
    """Draws cases equally often, in a new random order each time round, and places in them.

    Parameters
    ----------
    foreground : share of patches centred on a random labelled structure.
    words : first words of the seeds of patches and of the cases' order, the sampler's own.
    """

    def __init__(
        self,
        cases: Sequence[PatchSource],
        plan: Plan,
        foreground: float,
        randomness: Randomness,
        words: tuple[int, int],
    ) -> None:
        self.cases, self.plan, self.foreground = tuple(cases), plan, foreground
        self.randomness, self.words = randomness, words
        self._order = lru_cache(maxsize=8)(self._shuffled)

    def draw(self, step: int, position: int) -> Draw:
        """Return where the patch at a position of a step's batch comes from."""
        rng = self.randomness.generator(self.words[0], step, position)
        case = self.cases[self._case(step, position)]
        start = None
        if self._wants_foreground(position, rng):
            start = foreground_start(case, self.plan.patch, rng)
        return Draw(case, start or random_start(case.shape, self.plan.patch, rng), rng)

    def _case(self, step: int, position: int) -> int:
        drawn = (step * self.randomness.world + self.randomness.rank) * self.plan.batch + position
        around, place = divmod(drawn, len(self.cases))
        return int(self._order(around)[place])

    def _shuffled(self, around: int) -> NDArray[np.intp]:
        return np.random.default_rng([self.words[1], self.randomness.seed, around]).permutation(len(self.cases))

    def _wants_foreground(self, position: int, rng: np.random.Generator) -> bool:
        """Fix the last samples of each batch (nnU-Net's rule), or toss a coin where that would be none."""
        batch, share = self.plan.batch, self.foreground
        fixed = batch - round(batch * (1 - share))
        return position >= batch - fixed if fixed else bool(rng.random() < share)


def foreground_start(case: PatchSource, patch: Sizes, rng: np.random.Generator) -> tuple[int, ...] | None:
    """Return the first voxel of a patch around a random voxel of a random class; None if the case has none.

    The patch is pushed back into the scan where it would reach beyond its border.
    """
    present = sorted(index for index, voxels in case.foreground.items() if len(voxels))
    if not present:
        return None
    voxels = case.foreground[present[rng.integers(len(present))]]
    centre = voxels[rng.integers(len(voxels))]
    limits = [_limits(n, p) for n, p in zip(case.shape, patch, strict=True)]
    wished = [int(c) - p // 2 for c, p in zip(centre, patch, strict=True)]
    return tuple(min(max(w, low), high) for w, (low, high) in zip(wished, limits, strict=True))


def random_start(shape: Sizes, patch: Sizes, rng: np.random.Generator) -> tuple[int, ...]:
    """Return the first voxel of a patch anywhere in the scan, or with the whole of a smaller scan anywhere in it."""
    limits = [_limits(n, p) for n, p in zip(shape, patch, strict=True)]
    return tuple(int(rng.integers(low, high + 1)) for low, high in limits)


def _limits(voxels: int, patch: int) -> tuple[int, int]:
    """Return the first and last start along an axis; a scan smaller than the patch may lie anywhere in it."""
    return min(0, voxels - patch), max(0, voxels - patch)
