"""A network over a volume larger than its window: positions, blending weights, streamed stitching.

Windows of the plan's patch size cover the volume evenly; where they overlap their logits are averaged
with Gaussian weights. Nothing of the size (outputs x volume) is ever held: windows are visited in the
order of one axis, and layers that no later window reaches are handed on and freed. Live memory is
``4 * outputs * window * cross-section`` bytes along the streamed axis, whatever the length of the scan:
118 outputs on 273x273x400 with 96³ windows stitch in 3.4 GB instead of 14.

Invariants: every voxel is covered; at each voxel the weights of all windows sum to 1 (per axis, by
construction, so no count map is kept or divided by); a volume of one window gets exactly that
window's logits; sums are float32 whatever the network computes in.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import NamedTuple

import torch
from torch import Tensor

from medseg.boxes import box_at
from medseg.errors import ModelError
from medseg.plan import Plan, Sizes

Forward = Callable[[Tensor], Tensor]
"""Maps windows (B, C, X, Y, Z) to logits (B, K, X, Y, Z)."""

SIGMA = 1 / 8
"""Standard deviation of the Gaussian blending weights, as a share of the window (nnU-Net's, MONAI's)."""

SMALLEST_WEIGHT = 1e-3
"""Least weight along an axis before normalisation: keeps sums of far corners away from underflow."""


class Slab(NamedTuple):
    """Finished layers of a volume.

    Attributes
    ----------
    start : index of the first layer along the streamed axis of the volume.
    logits : (K, X, Y, Z) float32, whole across the other axes; overwritten when the next slab is asked for.
    """

    start: int
    logits: Tensor


@dataclass(frozen=True, slots=True)
class Tiling:
    """Where the windows of a volume lie.

    Attributes
    ----------
    size : size of the volume.
    window : size of a window.
    starts : along each axis, the first voxel of each window in the enlarged volume, ascending.
    axis : the streamed axis.
    """

    size: Sizes
    window: Sizes
    starts: tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]
    axis: int

    @property
    def shape(self) -> Sizes:
        """Size of the volume enlarged to at least one window."""
        x, y, z = (max(size, length) for size, length in zip(self.size, self.window, strict=True))
        return x, y, z

    @property
    def before(self) -> Sizes:
        """Voxels added in front along each axis: a volume smaller than the window lies in its middle."""
        x, y, z = ((shape - size) // 2 for shape, size in zip(self.shape, self.size, strict=True))
        return x, y, z

    @property
    def origins(self) -> list[Sizes]:
        """First voxel of every window, in the order of the streamed axis."""
        return sorted(product(*self.starts), key=lambda origin: (origin[self.axis], origin))

    def layers_for(self, batch: int) -> int:
        """Return how many layers the windows of a batch may span.

        Batches end where the next window begins at another layer, but where fewer than a batch begin at the same one. A
        buffer that need not hold the next layers, too, is a third smaller: 540 MB instead of 780 for 20 outputs on
        273x273x256 with 96³ windows.
        """
        beside = len(self.origins) // len(self.starts[self.axis])
        return self.window[self.axis] if beside >= batch else self.layers(batch)

    def layers(self, batch: int) -> int:
        """Return how many layers `batch` windows in turn can span."""
        fronts = [origin[self.axis] for origin in self.origins]
        ends = fronts[batch - 1 :] or fronts[-1:]
        spans = [end - front for front, end in zip(fronts, ends, strict=False)]
        spans += [fronts[-1] - front for front in fronts[len(ends) :]]
        return max(spans) + self.window[self.axis]


def tile(size: Sizes, plan: Plan, overlap: float) -> Tiling:
    """Lay the plan's windows over a volume, which is streamed along its longest axis (2D: the slices').

    Parameters
    ----------
    size : size of the volume.
    overlap : least share of a window that the next one covers again, in [0, 1).
    """
    x, y, z = (window_starts(length, window, overlap) for length, window in zip(size, plan.patch, strict=True))
    axis = plan.slice_axis if plan.dimensions == 2 else max(range(3), key=lambda i: size[i])
    return Tiling(size, plan.patch, (x, y, z), axis)


def window_starts(size: int, window: int, overlap: float) -> tuple[int, ...]:
    """Return the first voxel of as few windows as the overlap allows, spread evenly from end to end.

    Examples
    --------
    >>> window_starts(100, 40, 0.5)
    (0, 20, 40, 60)
    >>> window_starts(30, 40, 0.5)
    (0,)
    """
    if size <= window:
        return (0,)
    step = max(1, math.floor(window * (1 - overlap)))
    gaps = math.ceil((size - window) / step)
    return tuple(round(i * (size - window) / gaps) for i in range(gaps + 1))


def blending_weights(starts: Sequence[int], window: int) -> dict[int, Tensor]:
    """Return each window's weights (window,) along one axis; at every voxel they sum to 1.

    The weights of a window are the product over its three axes. Because windows lie on the product of
    the axes' starts, sums of products are products of sums, and normalising each axis normalises all.
    """
    centred = torch.arange(window, dtype=torch.float64) - (window - 1) / 2
    gaussian = torch.exp(-0.5 * (centred / (SIGMA * window)) ** 2).clamp_(min=SMALLEST_WEIGHT)
    total = torch.zeros(max(starts) + window, dtype=torch.float64)
    for start in starts:
        total[start : start + window] += gaussian
    return {start: (gaussian / total[start : start + window]).float() for start in starts}


def stream_logits(
    image: Tensor,
    forward: Forward,
    tiling: Tiling,
    *,
    outputs: int,
    batch: int,
    device: torch.device | None = None,
) -> Iterator[Slab]:
    """Yield the logits of a volume slab by slab, in order and without gaps.

    Parameters
    ----------
    image : (C, X, Y, Z) float32 of the enlarged shape, on the CPU.
    outputs : K, the network's output channels.
    batch : most windows in a forward pass.
    device : that cuts windows and stitches; None: the CPU.

    Raises
    ------
    ModelError
        If a logit is not a finite number: no class wins against NaN, so that a voxel would silently be background.

    Notes
    -----
    Windows in which every channel is constant (air around a patient, clipped to one value) are equal
    to each other, so the network sees the first of each value only and its logits serve the others.
    That is exact, not a guess about air: the network is a function. They are found on the CPU, so that a GPU is
    never waited for.
    """
    stitch = _Stitch(image.to(device) if device else image, tiling, outputs, tiling.layers_for(batch))
    queue = _Queue(stitch, forward, batch)
    for origin in tiling.origins:
        if not queue.waiting or not stitch.fits(origin):
            queue.flush()
            yield from stitch.release(origin[tiling.axis])
        queue.add(_Window(origin, constant(image[(slice(None), *box_at(origin, tiling.window))])))
    queue.flush()
    yield from stitch.release(tiling.shape[tiling.axis])


def constant(window: Tensor) -> tuple[float, ...]:
    """Return the value of each channel if all are constant in a window (C, X, Y, Z), else nothing.

    The middle is compared with a corner first, which tells most windows: 125 of 96³ take 0.02 s instead of 0.4.
    """
    x, y, z = (length // 2 for length in window.shape[1:])
    if not torch.equal(window[:, x, y, z], window[:, 0, 0, 0]):
        return ()
    low, high = torch.aminmax(window.flatten(1), dim=1)
    return tuple(low.tolist()) if torch.equal(low, high) else ()


class _Window(NamedTuple):
    """Where a window begins, and the value of each channel if all are constant."""

    origin: Sizes
    value: tuple[float, ...]


class _Queue:
    """Windows that wait for their forward pass, `batch` of them at most.

    Attributes
    ----------
    known : value and logits of the latest constant window.
    """

    def __init__(self, stitch: _Stitch, forward: Forward, batch: int) -> None:
        self.stitch, self.forward, self.batch = stitch, forward, batch
        self.waiting: list[_Window] = []
        self.known: tuple[tuple[float, ...], Tensor] | None = None

    def add(self, window: _Window) -> None:
        """Let a window wait, or stitch it at once if its logits are known."""
        if window.value and self.known and self.known[0] == window.value:
            self.stitch.add_(window.origin, self.known[1])
            return
        self.waiting.append(window)
        if len(self.waiting) >= self.batch:
            self.flush()

    def flush(self) -> None:
        """Stitch the logits of the windows that wait."""
        if not self.waiting:
            return
        answers = self.forward(torch.stack([self.stitch.crop(window.origin) for window in self.waiting]))
        for window, logits in zip(self.waiting, answers, strict=True):
            self.stitch.add_(window.origin, logits)
            if window.value:
                self.known = window.value, logits.clone()
        self.waiting = []


class _Stitch:
    """The layers being stitched: a buffer that moves along the streamed axis."""

    def __init__(self, image: Tensor, tiling: Tiling, outputs: int, layers: int) -> None:
        self.image, self.tiling, self.first = image, tiling, 0
        size = list(tiling.shape)
        size[tiling.axis] = min(layers, tiling.shape[tiling.axis])
        self.buffer = image.new_zeros(outputs, *size)
        self.weights = [
            {start: weight.to(image.device) for start, weight in blending_weights(starts, length).items()}
            for starts, length in zip(tiling.starts, tiling.window, strict=True)
        ]

    @property
    def dim(self) -> int:
        return 1 + self.tiling.axis

    @property
    def layers(self) -> int:
        return self.buffer.shape[self.dim]

    def fits(self, origin: Sizes) -> bool:
        """Whether a window lies within the buffer."""
        axis = self.tiling.axis
        return origin[axis] + self.tiling.window[axis] <= self.first + self.layers

    def crop(self, origin: Sizes) -> Tensor:
        return self.image[(slice(None), *box_at(origin, self.tiling.window))]

    def add_(self, origin: Sizes, logits: Tensor) -> None:
        """Add a window's logits (K, X, Y, Z) with its weights."""
        shifted = list(origin)
        shifted[self.tiling.axis] -= self.first
        x, y, z = (self.weights[axis][start] for axis, start in enumerate(origin))
        weight = x[:, None, None] * y[:, None] * z
        self.buffer[(slice(None), *box_at(shifted, self.tiling.window))].addcmul_(logits, weight)

    def release(self, stop: int) -> Iterator[Slab]:
        """Yield the layers before `stop`, then move the buffer there."""
        count = stop - self.first
        if count <= 0:
            return
        finished = self.buffer.narrow(self.dim, 0, count)
        if not finished.sum().isfinite():
            raise ModelError(
                "the network answers with numbers that are not finite; segment with --speed accurate, which computes "
                "in float32, and if that is no better train the model again"
            )
        yield self._without_margin(self.first, finished)
        self.first = stop
        if stop == self.tiling.shape[self.tiling.axis]:
            return
        # in steps that don't overlap, because a second buffer would double the memory
        for start in range(0, self.layers - count, count):
            length = min(count, self.layers - count - start)
            self.buffer.narrow(self.dim, start, length).copy_(self.buffer.narrow(self.dim, start + count, length))
        self.buffer.narrow(self.dim, self.layers - count, count).zero_()

    def _without_margin(self, start: int, layers: Tensor) -> Slab:
        """Return finished layers without what was added around the volume.

        Where there is a margin along the streamed axis there is one window and one slab.
        """
        for axis, (before, size) in enumerate(zip(self.tiling.before, self.tiling.size, strict=True)):
            if size < self.tiling.shape[axis]:
                layers = layers.narrow(1 + axis, before, size)
        return Slab(start, layers)
