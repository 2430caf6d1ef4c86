"""Voxels of another grid on the same lattice come to their places exactly; anything else is refused."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from medseg.errors import GeometryError, ReasonCode
from medseg.geometry import Grid, Orientation
from medseg.review.lattice import LATTICE_TOLERANCE, place

SCAN = Grid((9, 7, 5), np.array([[-0.9, 0.1, 0, 50], [0.1, 0.8, 0.3, -20], [0, 0.2, 3.1, 7], [0, 0, 0, 1]]))


@given(st.data())
def test_any_crop_padding_turn_and_flip_comes_back(data):
    """Reference: the scan's own array, in which nothing was moved."""
    draw = data.draw
    angles = draw(st.tuples(*[st.floats(-180, 180)] * 3))
    affine = np.eye(4)
    shear = np.eye(3) + np.triu(np.full((3, 3), draw(st.floats(-0.3, 0.3))), 1)
    affine[:3, :3] = Rotation.from_euler("xyz", angles, degrees=True).as_matrix() @ shear @ np.diag([0.7, 1.1, 2.9])
    affine[:3, 3] = draw(st.tuples(*[st.floats(-300, 300)] * 3))
    shape = draw(st.tuples(*[st.integers(1, 7)] * 3))
    scan = Grid(shape, affine)
    low = [draw(st.integers(-2, size - 1)) for size in shape]
    high = [draw(st.integers(max(first, 0) + 1, size + 2)) for first, size in zip(low, shape, strict=True)]
    truth = np.zeros(shape, np.uint8)
    inside = tuple(slice(max(a, 0), b) for a, b in zip(low, high, strict=True))
    truth[inside] = np.random.default_rng(draw(st.integers(0, 9))).integers(0, 5, truth[inside].shape)

    crop = scan.cropped(low, [b - a for a, b in zip(low, high, strict=True)])
    padded = np.pad(truth, 2)[tuple(slice(a + 2, b + 2) for a, b in zip(low, high, strict=True))]
    turn = Orientation(draw(st.permutations(range(3)).map(tuple)), draw(st.tuples(*[st.booleans()] * 3)))
    noisy = turn.apply_to_grid(crop)
    noisy = Grid(noisy.shape, noisy.affine.astype(np.float32))  # as NIfTI stores it
    assert np.array_equal(place(turn.apply(padded), noisy, scan), truth)


def moved(change: np.ndarray, shape: tuple[int, int, int] = SCAN.shape) -> Grid:
    return Grid(shape, SCAN.affine @ change)


def shift(*by: float) -> np.ndarray:
    matrix = np.eye(4)
    matrix[:3, 3] = by
    return matrix


@pytest.mark.parametrize(
    ("grid", "why"),
    [
        (moved(shift(0.5, 0, 0)), "half a voxel"),
        (moved(shift(0, 0, 2 * LATTICE_TOLERANCE)), "a little off"),
        (moved(np.diag([0.5, 0.5, 1, 1]), (18, 14, 5)), "oversampled"),
        (moved(np.diag([1.01, 1, 1, 1])), "another spacing"),
        (moved(np.diag([2.0, 1, 1, 1])), "every other voxel"),
        (Grid(SCAN.shape, np.diag([1.0, 1, 1, 1])), "another place"),
        (moved(np.array([[1, 1, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]])), "sheared by a whole voxel"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_another_grid_is_refused(grid, why):
    with pytest.raises(GeometryError) as caught:
        place(np.ones(grid.shape, np.uint8), grid, SCAN)
    assert caught.value.code == ReasonCode.GRID_MISMATCH, why


def test_half_the_tolerance_is_rounded():
    near = moved(shift(LATTICE_TOLERANCE / 2, 0, 0))
    array = np.arange(np.prod(SCAN.shape), dtype=np.uint16).reshape(SCAN.shape)
    assert np.array_equal(place(array, near, SCAN), array)


def test_labels_beyond_the_scan_are_refused_and_background_is_not():
    wide = SCAN.cropped((-1, 0, 0), (11, 7, 5))
    array = np.zeros(wide.shape, np.uint8)
    array[3, 3, 3] = 2
    assert place(array, wide, SCAN)[2, 3, 3] == 2
    array[0, 0, 0] = 1
    with pytest.raises(GeometryError, match="1 labelled voxels lie outside") as caught:
        place(array, wide, SCAN)
    assert caught.value.code == ReasonCode.FOV_TRUNCATED


def test_a_grid_that_lies_wholly_elsewhere_on_the_lattice_is_empty():
    far = SCAN.cropped((40, 0, 0), (3, 3, 3))
    assert not place(np.zeros((3, 3, 3), np.uint8), far, SCAN).any()
    with pytest.raises(GeometryError):
        place(np.ones((3, 3, 3), np.uint8), far, SCAN)
