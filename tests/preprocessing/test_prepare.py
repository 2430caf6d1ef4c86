"""From a scan to the network's array."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from scipy.spatial.transform import Rotation

from medseg.errors import LabelError, ReasonCode, ScanError
from medseg.geometry import Grid
from medseg.labels import IGNORE_INDEX, LabelMap
from medseg.plan import ChannelNormalisation
from medseg.preprocessing.prepare import image_orders, pad_values, plan_grid, prepare_image, prepare_mask, surround
from medseg.volume import Mask, Volume

CT = ChannelNormalisation(kind="clip", low=-100, high=200, mean=50, std=40)


def volume(array: np.ndarray, affine: np.ndarray | None = None) -> Volume:
    array = np.asarray(array, dtype=np.float32)
    array = array if array.ndim == 4 else array[None]
    return Volume(array, Grid(array.shape[1:], np.eye(4) if affine is None else affine))


def noise(shape=(12, 10, 8), seed=0) -> np.ndarray:
    return np.random.default_rng(seed).normal(100, 20, shape).astype(np.float32)


def test_equal_spacing_copies_every_voxel(make_plan):
    """A spacing within 1e-3 of the plan's is not interpolated: only the scale changes."""
    array, affine = noise(), np.diag([-1.0005, 1, 0.9996, 1])
    prepared = prepare_image(volume(array, affine), make_plan())
    expected = (array[::-1] - array.mean(dtype=np.float64)) / array.std(dtype=np.float64)
    np.testing.assert_allclose(prepared.image[0], expected, atol=1e-5)
    assert prepared.grid.shape == array.shape
    assert prepared.grid.matches(prepared.source_grid.canonical())


def test_zscore_equals_monai(make_plan):
    from monai.transforms import NormalizeIntensity

    array = noise()
    ours = prepare_image(volume(array), make_plan()).image
    np.testing.assert_allclose(ours, np.asarray(NormalizeIntensity()(array[None])), atol=1e-5)


def test_zscore_leaves_a_large_empty_background_out(make_plan):
    array = noise()
    array[:6] = 0
    prepared = prepare_image(volume(array), make_plan()).image[0]
    assert abs(prepared[6:].mean()) < 1e-5
    assert abs(prepared[6:].std() - 1) < 1e-5
    assert np.ptp(prepared[:6]) == 0


def test_zscore_counts_a_small_empty_background(make_plan):
    array = noise()
    array[:1] = 0
    assert abs(prepare_image(volume(array), make_plan()).image.mean()) < 1e-5


@pytest.mark.parametrize("value", [0.0, 0.1, -1024.0, 3e7])
@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (0.7, 1.9, 1.3)])
def test_a_constant_scan_becomes_zeros(make_plan, value, spacing):
    prepared = prepare_image(volume(np.full((9, 8, 7), value)), make_plan(spacing=spacing))
    np.testing.assert_array_equal(prepared.image, 0)


def test_clipped_channels_use_the_data_sets_scale(make_plan):
    plan = make_plan(normalisation=(CT,))
    array = np.array([-1000, -100, 50, 90, 200, 3000], dtype=np.float32).reshape(6, 1, 1)
    expected = (np.clip(array, -100, 200) - 50) / 40
    np.testing.assert_allclose(prepare_image(volume(array), plan).image[0], expected, atol=1e-6)


def test_air_stays_one_exact_value_beside_metal(make_plan):
    plan = make_plan(normalisation=(CT,), spacing=(1.7, 1.3, 0.6))
    array = np.full((20, 20, 20), -1000.0)
    array[8:12, 8:12, 8:12] = 3000
    image = prepare_image(volume(array), plan).image
    assert image.min() == pad_values(plan)[0]
    assert (image == pad_values(plan)[0]).mean() > 0.8
    assert image.max() <= (200 - 50) / 40 + 1e-6


def test_each_channel_has_its_own_scale(make_plan):
    plan = make_plan(channels=("CT", "PET"), normalisation=(CT, ChannelNormalisation(kind="zscore")))
    image = prepare_image(volume(np.stack([noise(seed=1), 5 * noise(seed=2)])), plan).image
    assert abs(image[0].mean() - (100 - 50) / 40) < 0.1
    assert abs(image[1].mean()) < 1e-5
    assert pad_values(plan).tolist() == [pytest.approx((-100 - 50) / 40), 0.0]


def test_wrong_channels_are_refused_with_both_numbers(make_plan):
    with pytest.raises(ScanError, match=r"2 channel.*expects 1: MR") as caught:
        prepare_image(volume(np.zeros((2, 4, 4, 4))), make_plan())
    assert caught.value.code == ReasonCode.CHANNELS_MISMATCH


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_voxels_that_are_not_numbers_are_refused(make_plan, bad):
    array = noise()
    array[3, 3, 3] = bad
    with pytest.raises(ScanError, match="not finite") as caught:
        prepare_image(volume(array), make_plan())
    assert caught.value.code == ReasonCode.NOT_FINITE


def test_thick_slices_are_interpolated_linearly():
    assert image_orders(Grid((5, 5, 5), np.diag([0.8, 0.8, 5.0, 1]))) == ("cubic", "cubic", "linear")
    assert image_orders(Grid((5, 5, 5), np.diag([1.0, 1.0, 2.9, 1]))) == ("cubic", "cubic", "cubic")


def test_one_slice_is_prepared(make_plan):
    prepared = prepare_image(volume(noise((12, 10, 1)), np.diag([0.5, 0.5, 6, 1])), make_plan())
    assert prepared.image.shape == (1, 6, 5, 6)
    assert np.isfinite(prepared.image).all()


def test_a_mask_becomes_class_indices(make_plan, labels):
    array = np.zeros((6, 6, 6), dtype=np.uint8)
    array[1:3], array[3:5], array[5] = 3, 7, 9
    mask = Mask(array, Grid(array.shape, np.diag([1.0, -1, 1, 1])))
    indices = prepare_mask(mask, labels, plan_grid(mask.grid, make_plan()))
    assert indices[:, 0, 0].tolist() == [0, 1, 1, 2, 2, IGNORE_INDEX]
    with pytest.raises(LabelError, match=r"\[4\]"):
        prepare_mask(Mask(np.full((2, 2, 2), 4, np.uint8), Grid((2, 2, 2), np.eye(4))), labels, mask.grid)


@settings(max_examples=25)
@given(
    spacing=st.tuples(*[st.floats(0.6, 3)] * 3),
    wanted=st.tuples(*[st.floats(0.8, 2)] * 3),
    order=st.permutations(range(3)),
    flips=st.tuples(*[st.sampled_from((-1, 1))] * 3),
    turn=st.tuples(*[st.floats(-0.3, 0.3)] * 3),
)
def test_image_and_mask_stay_on_each_other(make_plan_once, spacing, wanted, order, flips, turn):
    """An ellipsoid keeps its place in the world, in the image and in the mask, on any grid."""
    affine = np.eye(4)
    affine[:3, :3] = Rotation.from_rotvec(turn).as_matrix()[:, list(order)] * np.array(flips) * spacing
    shape = tuple(int(np.ceil(32 / s)) for s in spacing)
    grid = Grid(shape, affine)
    from_centre = [(np.arange(n) - (n - 1) / 2) * s / r for n, s, r in zip(shape, spacing, (8, 10, 12), strict=True)]
    x, y, z = np.meshgrid(*from_centre, indexing="ij")
    ball = (x**2 + y**2 + z**2 < 1).astype(np.uint8)
    prepared = prepare_image(volume(ball.astype(np.float32), affine), make_plan_once(spacing=wanted))
    target = prepare_mask(Mask(ball, grid), LabelMap.parse({"ball": 1}), prepared.grid)

    def centre(weights: np.ndarray, on: Grid) -> np.ndarray:
        return (on.affine @ [*ndimage.center_of_mass(weights), 1])[:3]

    step = max(*spacing, *wanted)
    assert np.linalg.norm(centre(target, prepared.grid) - centre(ball, grid)) < 0.15 * step
    bright = prepared.image[0] > (prepared.image.min() + prepared.image.max()) / 2
    assert np.linalg.norm(centre(bright, prepared.grid) - centre(ball, grid)) < 0.15 * step
    assert target.sum() * prepared.grid.voxel_ml == pytest.approx(ball.sum() * grid.voxel_ml, rel=0.2)


@pytest.fixture(scope="module")
def make_plan_once():
    from medseg.plan import NetworkPlan, Plan

    network = NetworkPlan(features=(4, 8), kernels=((3, 3, 3),) * 2, strides=((1, 1, 1), (2, 2, 2)))
    plan = Plan(
        dimensions=3, spacing=(1, 1, 1), slice_axis=2, patch=(16, 16, 16), batch=2, channels=("MR",),
        normalisation=(ChannelNormalisation(kind="zscore"),), mirror=(True,) * 3, network=network,
    )  # fmt: skip
    return lambda spacing: plan.model_copy(update={"spacing": spacing})


def test_surround_fills_each_channel_with_its_value():
    image = np.ones((2, 2, 1, 1), dtype=np.float32)
    result = surround(image, (1, 0, 0), (4, 1, 1), np.array([-3, 5], dtype=np.float32))
    assert result[:, :, 0, 0].tolist() == [[-3, 1, 1, -3], [5, 1, 1, 5]]
