"""Windows cover everything, weigh one together, and stream to the same sums."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from medseg.errors import ModelError
from medseg.inference.window import Tiling, blending_weights, stream_logits, tile, window_starts

sizes = st.integers(1, 90)
overlaps = st.sampled_from([0.0, 0.25, 0.5, 0.7])


def positional(windows: torch.Tensor) -> torch.Tensor:
    """Logits that differ with the place in the window, so that a wrong offset or weight shows."""
    ramp = sum(torch.linspace(-1, 1, n).reshape(-1, *[1] * i) for i, n in enumerate(reversed(windows.shape[2:])))
    return torch.stack([torch.sin(3 * windows[:, 0] + (k + 2) * ramp) for k in range(3)], dim=1)


def gaussian(window: int) -> torch.Tensor:
    """The blending weights along one axis before they are normalised."""
    return torch.exp(-0.5 * ((torch.arange(window) - (window - 1) / 2) / (window / 8)) ** 2).clamp(1e-3)


def stitched_whole(image: torch.Tensor, tiling: Tiling, least: float = 0.0) -> torch.Tensor:
    """The plain way: one full-size sum and one map of weights, none below `least`."""
    total, weights = torch.zeros(3, *tiling.shape), torch.zeros(tiling.shape)
    x, y, z = (gaussian(n) for n in tiling.window)
    weight = (x[:, None, None] * y[:, None] * z).clamp(min=least)
    for origin in tiling.origins:
        box = tuple(slice(o, o + n) for o, n in zip(origin, tiling.window, strict=True))
        total[(slice(None), *box)] += positional(image[(None, slice(None), *box)])[0] * weight
        weights[box] += weight
    return total / weights


def collect(image, forward, tiling, batch=2, outputs=3):
    """Put the slabs together again, checking that they follow each other."""
    parts, reached = [], 0
    for slab in stream_logits(image, forward, tiling, outputs=outputs, batch=batch):
        assert slab.start == reached
        reached += slab.logits.shape[1 + tiling.axis]
        parts.append(slab.logits.clone())
    assert reached == tiling.size[tiling.axis]
    return torch.cat(parts, dim=1 + tiling.axis), len(parts)


@given(size=sizes, window=st.integers(1, 40), overlap=overlaps)
def test_every_voxel_is_covered_with_the_overlap(size, window, overlap):
    starts = window_starts(size, window, overlap)
    covered = np.zeros(max(size, window), dtype=int)
    for start in starts:
        covered[start : start + window] += 1
    assert covered.min() >= 1
    assert starts[0] == 0
    assert starts[-1] + window == max(size, window)
    steps = np.diff(starts)
    assert (steps > 0).all()
    assert (steps <= max(1, window * (1 - overlap)) + 1e-9).all()


@given(size=sizes, window=st.integers(1, 40), overlap=overlaps)
def test_weights_are_positive_symmetric_and_sum_to_one(size, window, overlap):
    starts = window_starts(size, window, overlap)
    weights = blending_weights(starts, window)
    total = torch.zeros(max(size, window))
    for start, weight in weights.items():
        assert (weight > 0).all()
        total[start : start + window] += weight
    torch.testing.assert_close(total, torch.ones_like(total))
    if len(starts) == 1:
        assert (weights[0] == 1).all()


@settings(max_examples=40)
@given(
    size=st.tuples(*[st.integers(3, 17)] * 3),
    window=st.tuples(*[st.integers(2, 8)] * 3),
    overlap=overlaps,
    axis=st.integers(0, 2),
    batch=st.integers(1, 4),
)
def test_streaming_equals_stitching_the_whole(size, window, overlap, axis, batch):
    starts = tuple(window_starts(n, w, overlap) for n, w in zip(size, window, strict=True))
    tiling = Tiling(size, window, starts, axis)
    image = torch.from_numpy(np.random.default_rng(0).normal(size=(1, *tiling.shape)).astype(np.float32))
    streamed, _ = collect(image, positional, tiling, batch)
    whole = stitched_whole(image, tiling)
    for dim, (before, length) in enumerate(zip(tiling.before, size, strict=True), start=1):
        whole = whole.narrow(dim, before, length)
    torch.testing.assert_close(streamed, whole, rtol=1e-5, atol=1e-5)
    again, _ = collect(image, positional, tiling, batch)
    assert torch.equal(streamed, again)


@given(size=st.tuples(*[st.integers(3, 17)] * 3), axis=st.integers(0, 2))
@settings(max_examples=20)
def test_the_streamed_axis_changes_no_bit(size, axis):
    """Sums may be added in another order, but a network that copies its input gives it back exactly."""
    starts = tuple(window_starts(n, 4, 0.5) for n in size)
    tiling = Tiling(size, (4, 4, 4), starts, axis)
    image = torch.from_numpy(np.random.default_rng(1).integers(-9, 9, (1, *tiling.shape)).astype(np.float32))
    streamed, _ = collect(image, lambda windows: windows, tiling, outputs=1)
    before = tiling.before
    inside = tuple(slice(b, b + n) for b, n in zip(before, size, strict=True))
    torch.testing.assert_close(streamed, image[(slice(None), *inside)], rtol=0, atol=1e-5)


def test_layers_are_handed_on_before_the_end(make_plan):
    tiling = tile((64, 16, 16), make_plan(), 0.5)
    image = torch.randn(1, 64, 16, 16)
    _, parts = collect(image, positional, tiling)
    assert parts > 8
    assert tiling.layers(3) <= 16


def test_a_window_batch_may_be_larger_than_all_windows(make_plan):
    tiling = tile((9, 8, 8), make_plan(), 0.5)
    collect(torch.randn(1, 9, 8, 8), positional, tiling, batch=7)


def test_batches_are_full_but_the_last(make_plan):
    seen = []

    def forward(windows):
        seen.append(len(windows))
        return positional(windows)

    tiling = tile((24, 8, 8), make_plan(), 0.5)
    assert len(tiling.origins) == 5
    collect(torch.randn(1, 24, 8, 8), forward, tiling, batch=2)
    assert seen == [2, 2, 1]


def test_windows_of_air_are_computed_once_and_exactly(make_plan):
    tiling = tile((40, 24, 24), make_plan(), 0.5)
    image = torch.full((1, 40, 24, 24), -1.0)
    image[:, 16:20, 8:12, 8:12] = torch.randn(1, 4, 4, 4)
    seen = []

    def forward(windows):
        seen.append(len(windows))
        return positional(windows)

    streamed, _ = collect(image, forward, tiling)
    assert sum(seen) < len(tiling.origins) / 3
    torch.testing.assert_close(streamed, stitched_whole(image, tiling), rtol=1e-5, atol=1e-5)


def test_windows_of_other_constants_are_not_mixed_up(make_plan):
    tiling = tile((64, 8, 8), make_plan(), 0.0)
    image = torch.arange(8.0).repeat_interleave(8)[None, :, None, None].expand(1, 64, 8, 8).contiguous()
    streamed, _ = collect(image, positional, tiling)
    torch.testing.assert_close(streamed, stitched_whole(image, tiling), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_an_answer_that_is_no_number_is_refused(make_plan, value):
    """One voxel in thousands: no class wins against NaN, so it would pass for background."""

    def forward(windows):
        logits = positional(windows)
        logits[-1, 1, 3, 5, 2] = value
        return logits

    with pytest.raises(ModelError, match=r"not finite; segment with --speed accurate"):
        collect(torch.randn(1, 24, 8, 8), forward, tile((24, 8, 8), make_plan(), 0.5))


def test_two_dimensional_windows_stream_along_the_slices(make_plan):
    plan = make_plan(dimensions=2, patch=(8, 1, 8), slice_axis=1)
    tiling = tile((12, 5, 10), plan, 0.5)
    assert tiling.axis == 1
    image = torch.randn(1, *tiling.shape)
    streamed, _ = collect(image, positional, tiling, batch=4)
    torch.testing.assert_close(streamed, stitched_whole(image, tiling), rtol=1e-5, atol=1e-5)


def test_the_plain_way_is_monais(make_plan):
    """What streaming is compared with above equals MONAI, apart from where small weights are cut off.

    MONAI raises every weight to 1e-3 after multiplying the axes; in small windows that is most of them.
    """
    from monai.inferers import SlidingWindowInferer

    tiling = tile((20, 12, 16), make_plan(), 0.5)
    image = torch.randn(1, *tiling.shape, generator=torch.Generator().manual_seed(0))
    theirs = SlidingWindowInferer((8, 8, 8), 2, 0.5, mode="gaussian")(image[None], positional)[0]
    torch.testing.assert_close(stitched_whole(image, tiling, least=1e-3), theirs, rtol=1e-5, atol=1e-5)
