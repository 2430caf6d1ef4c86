"""A case in memory and small plans, for the tests of patches and batches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise

import numpy as np
import pytest
from numpy.typing import NDArray

from medseg.plan import ChannelNormalisation, NetworkPlan, Plan


@dataclass
class ArrayCase:
    """Has the interface of a cached case; pads with `outside` and records what was read."""

    image: NDArray
    target: NDArray
    outside: float = 0.0
    reads: list[tuple[tuple[int, ...], tuple[int, ...]]] = field(default_factory=list)

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.target.shape

    @cached_property
    def foreground(self) -> dict[int, NDArray]:
        return {int(i): np.argwhere(self.target == i) for i in np.unique(self.target) if 0 < i < 255}

    def read(self, start: Sequence[int], size: Sequence[int]) -> tuple[NDArray, NDArray, NDArray | None]:
        self.reads.append((tuple(start), tuple(size)))
        image = np.full((len(self.image), *size), self.outside, np.float32)
        target = np.zeros(size, np.uint8)
        inside = [(max(s, 0), min(s + n, m)) for s, n, m in zip(start, size, self.shape, strict=True)]
        if all(low < high for low, high in inside):
            there = tuple(slice(low, high) for low, high in inside)
            here = tuple(slice(low - s, high - s) for (low, high), s in zip(inside, start, strict=True))
            image[(slice(None), *here)] = self.image[(slice(None), *there)]
            target[here] = self.target[there]
        return image, target, None


def make_plan(
    patch: tuple[int, int, int] = (16, 16, 16),
    *,
    spacing: tuple[float, float, float] = (1.0, 1.0, 1.0),
    dimensions: int = 3,
    slice_axis: int = 2,
    batch: int = 2,
    mirror: tuple[bool, bool, bool] = (True, True, True),
) -> Plan:
    return Plan(
        dimensions=dimensions,
        spacing=spacing,
        slice_axis=slice_axis,
        patch=patch,
        batch=batch,
        channels=("image",),
        normalisation=(ChannelNormalisation(kind="zscore"),),
        mirror=mirror,
        network=NetworkPlan(features=(8, 16), kernels=((3, 3, 3),) * 2, strides=((1, 1, 1),) * 2),
    )


def make_case(shape: tuple[int, int, int] = (30, 32, 34), *, seed: int = 0, channels: int = 1) -> ArrayCase:
    """Smooth noise with two blobs of classes 1 and 2."""
    rng = np.random.default_rng(seed)
    target = np.zeros(shape, np.uint8)
    middle = [n // 2 for n in shape]
    for (low, high), index in zip(pairwise((-6, 0, 6)), (1, 2), strict=True):
        box = tuple(slice(max(m + low, 0), max(m + high, 1)) for m in middle)
        target[box] = index
    image = rng.standard_normal((channels, *shape)).astype(np.float32) + target
    return ArrayCase(image, target)


@pytest.fixture(name="plan_of")
def _plan_of():
    return make_plan


@pytest.fixture(name="case_of")
def _case_of():
    return make_case


@pytest.fixture(name="array_case")
def _array_case():
    return ArrayCase
