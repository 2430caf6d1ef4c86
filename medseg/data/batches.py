"""The batches of a training run, each a pure function of seed, rank and step.

Nothing is remembered between steps: a run that resumes at step n gets the batches it would have had, and any number of
threads may prepare steps ahead, in any order. (A sampler with a state of its own, such as a DataLoader's, has to be
saved, restored and kept in step with its workers.)
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import Any, Protocol, TypedDict

import torch
from typing_extensions import NotRequired

from medseg.config import AugmentationConfig, TrainingConfig
from medseg.data.augment import Augmenter
from medseg.data.sampling import Randomness, Sampler
from medseg.data.spatial import CPU, PatchSource
from medseg.errors import DatasetError
from medseg.plan import Plan

PATCHES, CASE_ORDER = 0, 1
"""First words of the seeds of patches and of the cases' order: their random numbers never coincide."""


class Unlabelled(TypedDict):
    """Patches of scans that no person labelled, as many as there are labelled ones."""

    weak: torch.Tensor
    """(B, C, *spatial) float32, intensities as they are: what a teacher sees."""
    strong: torch.Tensor
    """(B, C, *spatial) float32, the same patches with changed intensities: what the student sees."""
    target: torch.Tensor
    """(B, *spatial) uint8 class indices from pseudo-labels; 255 where nothing is known."""
    weight: torch.Tensor
    """(B, *spatial) float32, how much each target counts, 0 to 1."""
    paste: torch.Tensor
    """(B, *spatial) bool, where the mixed patch shows the labelled scan."""


class Batch(TypedDict):
    """What a training step gets; a 2D plan's arrays lack the slice axis."""

    image: torch.Tensor
    """(B, C, *spatial) float32."""
    target: torch.Tensor
    """(B, *spatial) uint8 class indices; 255 is ignored."""
    unlabelled: NotRequired[Unlabelled]


class Stream(Protocol):
    """Gives the batch of any step."""

    def batch(self, step: int) -> Batch:
        """Return the batch of a step, the same at every call and on any thread."""
        ...


class BatchStream:
    """Batches of labelled patches.

    Parameters
    ----------
    cases : labelled cases; each is drawn equally often, in a new random order each time round.
    augmentation : None leaves patches as they are.
    randomness : seed and process; each process gets ``plan.batch`` patches of its own.
    device : that patches are made on.

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
        randomness: Randomness,
        device: torch.device = CPU,
    ) -> None:
        if not cases:
            raise DatasetError("there is no labelled case to train on; add masks to the dataset or change its splits")
        self.plan, self.device = plan, device
        self.sampler = Sampler(cases, plan, training.foreground, randomness, (PATCHES, CASE_ORDER))
        self.augmenter = Augmenter(augmentation, plan, device) if augmentation else None

    def batch(self, step: int) -> Batch:
        """Return the batch of a step, the same at every call and on any thread."""
        return make_batch(partial(self._sample, step), self.plan, self.device)

    def _sample(self, step: int, position: int) -> tuple[torch.Tensor, torch.Tensor]:
        case, start, rng = self.sampler.draw(step, position)
        if self.augmenter is not None:
            return self.augmenter(case, start, rng)
        image, target, _ = case.read(start, self.plan.patch)
        return torch.from_numpy(image).to(self.device), torch.from_numpy(target).to(self.device)


def prefetch(stream: Stream, start: int, stop: int, threads: int) -> Iterator[Batch]:
    """Yield the batches of steps start .. stop - 1, prepared ahead by so many threads; 0: by the caller's.

    At most one batch a thread waits besides those in work. An error while preparing is raised at its step.
    Closing the generator waits for the batches in work and drops them.
    """
    if threads == 0:
        yield from map(stream.batch, range(start, stop))
        return
    # torch copies a new thread's number of threads from whichever thread set its own last
    count = torch.get_num_threads()
    pool = ThreadPoolExecutor(threads, "medseg-loader", initializer=torch.set_num_threads, initargs=(count,))
    waiting: deque[Future[Batch]] = deque()
    try:
        for step in range(start, stop):
            waiting.append(pool.submit(stream.batch, step))
            if len(waiting) > 2 * threads:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
        torch.set_num_threads(count)  # the loaders set theirs in any order; later threads are to have the caller's


def make_batch(sample: Callable[[int], tuple[torch.Tensor, torch.Tensor]], plan: Plan, device: torch.device) -> Batch:
    """Return the batch of the patches and targets that `sample` gives at each position, beside the training step."""
    with beside_training(device):
        images, targets = zip(*map(sample, range(plan.batch)), strict=True)
        return Batch(image=stack(images, plan), target=stack(targets, plan))


def stack(patches: Sequence[torch.Tensor], plan: Plan) -> torch.Tensor:
    """Return patches (..., X, Y, Z) as one batch; a 2D plan's lose the slice axis."""
    batch = torch.stack(list(patches))
    return batch.squeeze(plan.slice_axis - 3) if plan.dimensions == 2 else batch


@contextmanager
def beside_training(device: torch.device) -> Iterator[None]:
    """Let torch compute on this thread alone, and on a GPU in a stream of this thread, until all is done.

    Preparing threads would otherwise each start a team of their own beside the training step, and sums would depend
    on the number of threads. The setting belongs to the calling thread; threads started later inherit it, so it is
    put back. On a GPU work in the step's own stream would wait for steps that are queued there.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        if device.type == "cuda":
            stream = _own_stream(device)
            with torch.cuda.stream(stream):
                yield
            stream.synchronize()
        else:
            yield
    finally:
        torch.set_num_threads(before)


_thread = threading.local()


def _own_stream(device: torch.device) -> torch.cuda.Stream:
    """Return this thread's stream: each stream keeps memory of its own, so there are no more than threads."""
    if not hasattr(_thread, "stream"):
        _thread.stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
    stream: torch.cuda.Stream = _thread.stream
    return stream


def keep_until_used(batch: Mapping[str, Any]) -> None:
    """Keep the memory of a batch that was made in another stream until what is queued in this one has used it."""
    for value in batch.values():
        if isinstance(value, torch.Tensor):
            value.record_stream(torch.cuda.current_stream(value.device))
        else:
            keep_until_used(value)
