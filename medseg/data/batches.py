"""Which patches a training step sees, as a pure function of seed, rank and step.

Nothing is remembered between steps: a run that resumes at step n gets the batches it would have had, and any number of
threads may prepare steps ahead, in any order. (A sampler with a state of its own, such as a DataLoader's, has to be
saved, restored and kept in step with its workers.)
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import lru_cache
from typing import TypedDict

import numpy as np
import torch

from medseg.config import AugmentationConfig, TrainingConfig
from medseg.data.augment import Augmenter
from medseg.data.spatial import PatchSource
from medseg.errors import DatasetError
from medseg.plan import Plan, Sizes

PATCHES, CASE_ORDER = 0, 1
"""First word of the seeds of patches and of the cases' order: their random numbers never coincide."""


class Batch(TypedDict):
    """What a training step gets; a 2D plan's arrays lack the slice axis.

    Fields are named so that others (voxel weights, a second stream of unlabelled patches) can join.
    """

    image: torch.Tensor
    """(B, C, *spatial) float32."""
    target: torch.Tensor
    """(B, *spatial) uint8 class indices; 255 is ignored."""


class BatchStream:
    """The batches of a training run.

    Parameters
    ----------
    cases : labelled cases; each is drawn equally often, in a new random order each time round.
    augmentation : None leaves patches as they are.
    seed, rank, world : the run's seed, this process's number and the number of processes; each process gets
        ``plan.batch`` patches of its own.

    Raises
    ------
    DatasetError
        If there is no case.
    """

    def __init__(
        self,
        cases: Sequence[PatchSource],
        plan: Plan,
        augmentation: AugmentationConfig | None,
        training: TrainingConfig,
        *,
        seed: int,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        if not cases:
            raise DatasetError("there is no labelled case to train on; add masks to the dataset or change its splits")
        if not 0 <= rank < world:
            raise ValueError(f"rank {rank} is not one of {world} processes")
        self.cases, self.plan, self.training = tuple(cases), plan, training
        self.seed, self.rank, self.world = seed, rank, world
        self.augmenter = Augmenter(augmentation, plan) if augmentation else None
        self._order = lru_cache(maxsize=8)(self._shuffled)

    def batch(self, step: int) -> Batch:
        """Return the batch of a step, the same at every call and on any thread."""
        with _one_thread():
            patches = [self._sample(step, position) for position in range(self.plan.batch)]
        images, targets = zip(*patches, strict=True)
        batch = Batch(image=torch.stack(images), target=torch.stack(targets))
        if self.plan.dimensions == 2:
            axis = self.plan.slice_axis
            batch = Batch(image=batch["image"].squeeze(axis + 2), target=batch["target"].squeeze(axis + 1))
        return batch

    def prefetch(self, start: int, stop: int) -> Iterator[Batch]:
        """Yield the batches of steps start .. stop - 1, prepared ahead by ``training.loader_threads`` threads.

        At most one batch a thread waits besides those in work. An error while preparing is raised at its step.
        Closing the generator waits for the batches in work and drops them.
        """
        threads = self.training.loader_threads
        if threads == 0:
            yield from map(self.batch, range(start, stop))
            return
        # torch copies a new thread's number of threads from whichever thread set its own last
        count = torch.get_num_threads()
        pool = ThreadPoolExecutor(threads, "medseg-loader", initializer=torch.set_num_threads, initargs=(count,))
        waiting: deque[Future[Batch]] = deque()
        try:
            for step in range(start, stop):
                waiting.append(pool.submit(self.batch, step))
                if len(waiting) > 2 * threads:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)

    def _sample(self, step: int, position: int) -> tuple[torch.Tensor, torch.Tensor]:
        rng = np.random.default_rng([PATCHES, self.seed, self.rank, step, position])
        case = self.cases[self._case(step, position)]
        start = None
        if self._wants_foreground(position, rng):
            start = foreground_start(case, self.plan.patch, rng)
        if start is None:
            start = random_start(case.shape, self.plan.patch, rng)
        if self.augmenter is not None:
            return self.augmenter(case, start, rng)
        image, target = case.read(start, self.plan.patch)
        return torch.from_numpy(image), torch.from_numpy(target)

    def _case(self, step: int, position: int) -> int:
        drawn = (step * self.world + self.rank) * self.plan.batch + position
        around, place = divmod(drawn, len(self.cases))
        return int(self._order(around)[place])

    def _shuffled(self, around: int) -> np.ndarray:
        return np.random.default_rng([CASE_ORDER, self.seed, around]).permutation(len(self.cases))

    def _wants_foreground(self, position: int, rng: np.random.Generator) -> bool:
        """Fix the last samples of each batch (nnU-Net's rule), or toss a coin where that would be none."""
        batch, share = self.plan.batch, self.training.foreground
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


@contextmanager
def _one_thread() -> Iterator[None]:
    """Let torch compute on this thread alone.

    Preparing threads would otherwise each start a team of their own beside the training step, and sums would depend
    on the number of threads. The setting belongs to the calling thread; threads started later inherit it, so it is
    put back.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
