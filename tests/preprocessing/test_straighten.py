"""Sheared scans are straightened to where their voxels lie in space, and masks come back to them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from scipy.spatial.transform import Rotation

from medseg.errors import GeometryError, ReasonCode
from medseg.geometry import Grid
from medseg.preprocessing.straighten import shear_labels, straighten, straighten_labels

SHAPE = (14, 12, 9)


def sheared(shear: np.ndarray, spacing=(1.0, 1.5, 2.5), turn=(20, -35, 50), shape=SHAPE) -> Grid:
    """Return an oblique grid whose axes are combined by an upper triangular matrix with ones on its diagonal."""
    affine = np.eye(4)
    affine[:3, :3] = Rotation.from_euler("xyz", turn, degrees=True).as_matrix() @ shear @ np.diag(spacing)
    affine[:3, 3] = 9.5, -12.25, 101
    return Grid(shape, affine)


def tilt(y: float = 0.3, x: float = 0.0) -> np.ndarray:
    return np.array([[1, 0, x], [0, 1, y], [0, 0, 1.0]])


def places(grid: Grid) -> np.ndarray:
    index = np.stack(np.meshgrid(*map(np.arange, grid.shape), indexing="ij"), axis=-1)
    return index @ grid.affine[:3, :3].T + grid.affine[:3, 3]


def linear(grid: Grid) -> np.ndarray:
    return (200 + places(grid) @ [2.0, 3.0, 5.0]).astype(np.float32)


def inside(source: Grid, straight: Grid, margin: float) -> np.ndarray:
    """Return which straightened voxels lie in the source, so many voxels from its border."""
    index = (places(straight) - source.affine[:3, 3]) @ np.linalg.inv(source.affine[:3, :3]).T
    return ((index >= margin - 1e-6) & (index <= np.array(source.shape) - 1 - margin + 1e-6)).all(axis=-1)


SHEARS = {
    "tilt": tilt(), "backward tilt": tilt(-0.45), "both directions": tilt(0.2, -0.35),
    "sheared slices": np.array([[1, 0.2, 0], [0, 1, 0], [0, 0, 1.0]]),
    "every pair": np.array([[1, 0.2, -0.3], [0, 1, 0.25], [0, 0, 1.0]]),
}  # fmt: skip


@pytest.mark.parametrize("axes", [(0, 1, 2), (2, 0, 1), (1, 2, 0), (2, 1, 0)])
@pytest.mark.parametrize("shear", SHEARS.values(), ids=SHEARS)
def test_every_voxel_keeps_its_place(shear, axes):
    """A field linear in space is reproduced by the kernel, so any misplacement shows as a value."""
    grid = sheared(shear)
    affine = grid.affine.copy()
    affine[:3, :3] = affine[:3, list(axes)]
    source = Grid(tuple(SHAPE[axis] for axis in axes), affine)
    straight = source.straightened()
    assert straight.is_orthogonal
    assert straight.shape != source.shape
    values = straighten(linear(source), source, straight, -1000)
    assert values.shape == straight.shape
    deep = inside(source, straight, 4)  # each of two passes reaches two voxels
    assert deep.any()
    np.testing.assert_allclose(values[deep], linear(straight)[deep], atol=2e-3)
    np.testing.assert_allclose(values[~inside(source, straight, -6)], -1000, atol=1e-3)


def test_slices_of_a_tilt_keep_planes_and_spacing():
    source = sheared(tilt(0.4))
    straight = source.straightened()
    assert straight.spacing == pytest.approx((1, 1.5, 2.5))
    normal = np.cross(source.directions[:, 0], source.directions[:, 1])
    heights = [(places(grid) @ normal)[0, 0] for grid in (source, straight)]
    np.testing.assert_allclose(*heights)


def test_a_tilt_of_whole_pixels_copies_every_voxel_there_and_back():
    source = sheared(tilt(1.2))  # 2.5 mm times 1.2 are two pixels of 1.5 mm
    straight = source.straightened()
    assert straight.shape == (14, 12 + 2 * 8, 9)
    rng = np.random.default_rng(0)
    array = rng.normal(size=SHAPE).astype(np.float32)
    values = straighten(array, source, straight, -7)
    for number in range(9):
        np.testing.assert_array_equal(values[:, 2 * number : 2 * number + 12, number], array[:, :, number])
    assert np.count_nonzero(np.abs(values + 7) < 1e-5) == values.size - array.size
    labels = rng.integers(0, 5, SHAPE).astype(np.uint8)
    there = straighten_labels(labels, source, straight)
    np.testing.assert_array_equal(there[:, 4:16, 2], labels[:, :, 2])
    np.testing.assert_array_equal(shear_labels(there, straight, source), labels)


@pytest.mark.parametrize("shear", SHEARS.values(), ids=SHEARS)
def test_a_shape_in_space_comes_back_to_its_voxels(shear):
    """A half space on the straight grid is one on the sheared grid, up to what lies within a voxel of its face."""
    source = sheared(shear)
    straight = source.straightened()
    face = np.array([0.6, -0.5, 0.62])

    def height(grid: Grid) -> np.ndarray:
        centre = source.affine[:3, :3] @ (np.array(SHAPE) / 2) + source.affine[:3, 3]
        return (places(grid) - centre) @ face

    back = shear_labels(np.where(height(straight) > 0, 3, 1).astype(np.uint8), straight, source)
    sure = np.abs(height(source)) > 1.5
    assert back.shape == SHAPE
    np.testing.assert_array_equal(back[sure], np.where(height(source) > 0, 3, 1)[sure])


def test_cubic_shift_is_closer_than_linear():
    """The same as scipy's spline for a smooth image."""
    source = sheared(tilt(0.27), shape=(40, 36, 5))
    straight = source.straightened()
    rng = np.random.default_rng(1)
    image = ndimage.gaussian_filter(rng.normal(size=source.shape), (2, 2, 0)).astype(np.float32)
    values = straighten(image, source, straight, 0)
    drift = 0.27 * 2.5 / 1.5
    for number in range(5):
        moved = ndimage.shift(image[:, :, number], (0, number * drift), order=3, mode="nearest")
        window = values[3:-3, 6:30, number]
        assert np.abs(window - moved[3:-3, 6:30]).max() < 0.05 * image.std()


@given(
    y=st.floats(-0.8, 0.8), x=st.floats(-0.8, 0.8), seed=st.integers(0, 99), spacing=st.tuples(*[st.floats(0.5, 4)] * 3)
)
@settings(max_examples=40)
def test_any_shear_holds_every_voxel(y, x, seed, spacing):
    turn = tuple(np.random.default_rng(seed).uniform(-180, 180, 3))
    source = sheared(tilt(y, x), spacing, turn, (6, 5, 4))
    straight = source.straightened()
    if straight is source:
        return
    index = (source.corners() - straight.affine[:3, 3]) @ np.linalg.inv(straight.affine[:3, :3]).T
    assert straight.is_orthogonal
    assert index.min() > -1e-6
    assert (index <= np.array(straight.shape) - 1 + 1e-6).all()
    labels = np.ones(source.shape, np.uint8)
    back = shear_labels(straighten_labels(labels, source, straight), straight, source)
    assert (back[1:-1, 1:-1, 1:-1] == 1).all()  # at the border, half a voxel of air is a tie


def test_perpendicular_and_nearly_perpendicular_grids_stay():
    for shear in (np.eye(3), tilt(0.01)):
        grid = sheared(shear)
        assert grid.straightened() is grid
        array = linear(grid)
        assert straighten(array, grid, grid, 0) is array


@pytest.mark.parametrize("shape", [(14, 1, 9), (1, 12, 9), (14, 12, 1)])
def test_a_single_slice_of_a_tilt_stays_in_its_plane(shape):
    """Its rows would else lie one beside the other in a block of air, of which a network makes nothing."""
    source = sheared(tilt(), shape=shape)
    straight = source.straightened()
    assert [size == 1 for size in straight.shape] == [size == 1 for size in shape]
    values = linear(source)
    found, at = straighten(values, source, straight, 0.0), inside(source, straight, 2)
    np.testing.assert_allclose(found[at], linear(straight)[at], atol=0.05)
    labels = (values > np.median(values)).astype(np.uint8)
    back = shear_labels(straighten_labels(labels, source, straight), straight, source)
    assert (back == labels).mean() > 0.9  # but for pixels at the border


def test_a_shear_beyond_all_tilts_is_refused():
    grid = sheared(tilt(30), shape=(64, 64, 300))
    with pytest.raises(GeometryError, match="axes so far from perpendicular") as caught:
        grid.straightened()
    assert caught.value.code is ReasonCode.BAD_ORIENTATION
