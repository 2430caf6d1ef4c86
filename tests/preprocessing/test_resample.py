"""Interpolation against scipy, torch, MONAI and closed forms."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from scipy.spatial.transform import Rotation

from medseg.errors import GeometryError, ReasonCode
from medseg.geometry import Grid
from medseg.preprocessing.resample import AxisMap, axis_taps, relate, resample, resample_labels


def oblique(shape, spacing=(1.0, 1.0, 1.0), seed=0, order=(0, 1, 2), flips=(1, 1, 1)) -> Grid:
    """A grid turned in space, its axes permuted and flipped."""
    affine = np.eye(4)
    turn = Rotation.from_rotvec(np.random.default_rng(seed).normal(0, 0.15, 3)).as_matrix()
    affine[:3, :3] = turn[:, list(order)] * np.array(flips) * spacing
    affine[:3, 3] = (-40, 13, 7)
    return Grid(shape, affine)


def positions(source: Grid, target: Grid) -> np.ndarray:
    """Voxel positions (3, X, Y, Z) in `source` of every voxel of `target`."""
    indices = np.stack(np.meshgrid(*map(np.arange, target.shape), indexing="ij"))
    matrix = target.index_to(source)
    return np.tensordot(matrix[:3, :3], indices, 1) + matrix[:3, 3, None, None, None]


grids = st.builds(
    oblique,
    shape=st.tuples(*[st.integers(5, 14)] * 3),
    spacing=st.tuples(*[st.floats(0.5, 4)] * 3),
    seed=st.integers(0, 99),
    order=st.permutations(range(3)),
    flips=st.tuples(*[st.sampled_from((-1, 1))] * 3),
)


@settings(max_examples=30)
@given(source=grids, spacing=st.tuples(*[st.floats(0.5, 4)] * 3), seed=st.integers(0, 99))
def test_linear_equals_scipy_on_any_grid(source, spacing, seed):
    target = source.canonical().resampled(spacing)
    array = np.random.default_rng(seed).normal(0, 100, (2, *source.shape)).astype(np.float32)
    result = resample(array, source, target, "linear")
    at = positions(source, target)
    for ours, channel in zip(result, array, strict=True):
        np.testing.assert_allclose(ours, ndimage.map_coordinates(channel, at, order=1, mode="nearest"), atol=2e-3)


@settings(max_examples=30)
@given(source=grids)
def test_reordering_and_flips_copy_bit_by_bit(source):
    array = np.random.default_rng(0).normal(0, 1000, (1, *source.shape)).astype(np.float32)
    for order in ("nearest", "linear", "cubic"):
        result = resample(array, source, source.canonical(), order)
        np.testing.assert_array_equal(result, source.to_canonical().apply(array))
        assert not np.shares_memory(result, array)


@pytest.mark.parametrize("factor", [2, 3, 4])
def test_cubic_downsampling_equals_torch_with_antialias(factor):
    source = Grid((12 * factor, 12 * factor, 1), np.eye(4))
    target = source.resampled((factor, factor, 1))
    array = np.random.default_rng(0).normal(size=(1, *source.shape)).astype(np.float32)
    ours = resample(array, source, target, "cubic")[0, :, :, 0]
    theirs = torch.nn.functional.interpolate(
        torch.from_numpy(array[..., 0])[None], size=(12, 12), mode="bicubic", antialias=True
    )
    inner = slice(3, -3)  # at the border torch leaves out what lies outside, we clamp
    np.testing.assert_allclose(ours[inner, inner], theirs[0, 0].numpy()[inner, inner], atol=1e-5)


def test_cubic_upsampling_is_exact_for_parabolas():
    """Keys' kernel with a = -1/2 reproduces polynomials up to degree 2."""
    source = oblique((20, 6, 6), spacing=(1.7, 1, 1))
    target = source.resampled((0.6, 1, 1))
    at = positions(source, target)[0]
    array = ((np.arange(20.0) - 8) ** 2)[None, :, None, None] * np.ones((1, 20, 6, 6))
    ours = resample(array.astype(np.float32), source, target, "cubic")[0]
    inner = (at > 2) & (at < 17)
    np.testing.assert_allclose(ours[inner], ((at - 8) ** 2)[inner], atol=1e-3)


def test_downsampling_averages_noise_away():
    """Plain cubic interpolation keeps the noise of single voxels; the stretched kernel halves it."""
    source = Grid((48, 48, 48), np.eye(4))
    noise = np.random.default_rng(0).normal(size=(1, 48, 48, 48)).astype(np.float32)
    assert resample(noise, source, source.resampled((2, 2, 2)), "cubic").std() < 0.5
    assert resample(noise, source, source.resampled((2, 2, 2)), "nearest").std() > 0.9


@given(scale=st.floats(0.2, 5), offset=st.floats(-3, 3), order=st.sampled_from(["nearest", "linear", "cubic"]))
def test_taps_are_inside_and_sum_to_one(scale, offset, order):
    taps = axis_taps(AxisMap(0, scale, offset), (9, 20), order)
    assert taps.index.min() >= 0
    assert taps.index.max() <= 8
    np.testing.assert_allclose(taps.weight.sum(axis=1), 1, atol=1e-6)


def test_a_nan_spreads_no_further_than_its_kernel():
    source = Grid((16, 4, 4), np.eye(4))
    array = np.zeros((1, 16, 4, 4), dtype=np.float32)
    array[0, 3] = np.nan
    assert np.isfinite(resample(array, source, source.canonical(), "linear")[0, 4:]).all()


def test_read_only_and_reversed_arrays_are_read():
    source = oblique((6, 5, 4), spacing=(1, 2, 1))
    array = np.random.default_rng(0).normal(size=(1, 6, 5, 4)).astype(np.float32)
    expected = resample(array, source, source.resampled((1, 1, 1)), "cubic")
    reversed_view = np.ascontiguousarray(array[:, ::-1])[:, ::-1]
    fortran = np.asfortranarray(array)
    fortran.setflags(write=False)
    for same in (reversed_view, fortran):
        np.testing.assert_allclose(resample(same, source, source.resampled((1, 1, 1)), "cubic"), expected, atol=1e-6)


def test_grids_that_are_turned_against_each_other_are_refused():
    with pytest.raises(GeometryError, match="not parallel") as caught:
        relate(oblique((9, 9, 9), seed=1), oblique((9, 9, 9), seed=2))
    assert caught.value.code == ReasonCode.GRID_MISMATCH


@settings(max_examples=30)
@given(source=grids, spacing=st.tuples(*[st.floats(0.5, 4)] * 3), seed=st.integers(0, 99))
def test_labels_equal_interpolated_indicators(source, spacing, seed):
    """The shortcut for voxels whose neighbours agree changes nothing; ties may fall either way."""
    target = source.canonical().resampled(spacing)
    blocks = np.random.default_rng(seed).choice([0, 1, 2, 255], (3, 3, 3)).astype(np.uint8)
    labels = ndimage.zoom(blocks, np.array(source.shape) / 3, order=0)
    result = resample_labels(labels, source, target)
    values = np.array([0, 1, 2, 255])
    at = positions(source, target)
    shares = np.stack([ndimage.map_coordinates((labels == v) * 1.0, at, order=1, mode="nearest") for v in values])
    chosen = np.take_along_axis(shares, np.searchsorted(values, result)[None], axis=0)[0]
    assert (chosen >= shares.max(axis=0) - 1e-5).all()


def test_labels_of_equal_share_go_to_the_smaller():
    source = Grid((4, 1, 1), np.eye(4))
    labels = np.array([5, 2, 7, 7], dtype=np.uint8)[:, None, None]
    assert resample_labels(labels, source, source.resampled((2, 1, 1))).ravel().tolist() == [2, 7]


@pytest.mark.parametrize("spacing", [(1.5, 1.5, 1.5), (0.7, 1.2, 3.0)])
def test_image_agrees_with_monai_inside(spacing):
    from monai.data import MetaTensor
    from monai.transforms import Orientation, Spacing

    source = oblique((24, 20, 18), spacing=(0.9, 1.1, 2.0), flips=(-1, 1, -1))
    array = np.random.default_rng(0).normal(size=(1, *source.shape)).astype(np.float32)
    turned = Orientation("RAS", labels=None)(MetaTensor(torch.from_numpy(array), affine=source.affine.copy()))
    spaced = Spacing(spacing, mode="bilinear", padding_mode="border")(turned)
    theirs = Grid(tuple(spaced.shape[1:]), np.asarray(spaced.affine))
    ours = resample(array, source, theirs, "linear")
    np.testing.assert_allclose(ours, spaced.numpy(), atol=1e-4)
