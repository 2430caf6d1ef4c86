"""Diameters against closed forms on anisotropic, oblique and sheared grids, and against brute force."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from medseg.measures import diameters
from medseg.measures.diameters import PlaneDiameters
from medseg.measures.runs import find_runs

SPACINGS = [(1.0, 1.0, 1.0), (0.7, 0.9, 3.0), (2.5, 0.8, 0.8)]
TURNS = {"straight": np.eye(3), "oblique": Rotation.from_euler("xyz", [25, -40, 10], degrees=True).as_matrix()}


def plane_diameters(inside: np.ndarray, steps: np.ndarray, axis: int) -> PlaneDiameters:
    return diameters.plane_diameters(find_runs(inside.astype(np.uint8), axis)[1], steps)


def solid_diameter(inside: np.ndarray, steps: np.ndarray) -> float:
    return diameters.solid_diameter(find_runs(inside.astype(np.uint8))[1], steps)


def steps_of(spacing, turn="straight"):
    return TURNS[turn] @ np.diag(spacing)


def ellipsoid(steps: np.ndarray, radii: tuple[float, float, float], turn: np.ndarray) -> np.ndarray:
    """Return the voxels whose centres lie in an ellipsoid in the middle of a grid that holds it."""
    shape = np.ceil(2 * max(radii) / np.linalg.norm(steps, axis=0)).astype(int) + 7
    index = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), axis=-1) - (shape - 1) / 2 - [0.2, 0.1, 0.3]
    body = (index @ steps.T) @ turn
    return ((body / radii) ** 2).sum(axis=-1) <= 1


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("turn", TURNS)
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_an_ellipsoid_is_as_long_and_wide_as_its_axes(spacing, turn, axis):
    """Its longest section through the middle has the two in-plane axes as long and short diameter."""
    steps = steps_of(spacing, turn)
    radii = np.array([11.0, 17.0, 23.0])
    inside = ellipsoid(steps, radii, TURNS[turn])
    planar = sorted(2 * radius for other, radius in enumerate(radii) if other != axis)
    found = plane_diameters(inside, steps, axis)
    half_diagonal = np.linalg.norm(spacing) / 2
    assert found.long_mm == pytest.approx(planar[1], abs=half_diagonal)
    assert found.short_mm == pytest.approx(planar[0], abs=half_diagonal)
    assert found.slice == pytest.approx(inside.shape[axis] / 2, abs=1 + radii[axis] / spacing[axis] / 3)
    assert solid_diameter(inside, steps) == pytest.approx(46.0, abs=half_diagonal)


@pytest.mark.parametrize("degrees", [0, 15, 45, 70])
def test_an_ellipse_turned_in_its_plane_keeps_its_axes(degrees):
    turn = Rotation.from_euler("z", degrees, degrees=True).as_matrix()
    steps = np.diag([0.8, 1.1, 4.0])
    found = plane_diameters(ellipsoid(steps, (20, 9, 15), turn), steps, 2)
    half_diagonal = np.hypot(0.8, 1.1) / 2
    assert found.long_mm == pytest.approx(40, abs=half_diagonal)
    assert found.short_mm == pytest.approx(18, abs=2 * half_diagonal)  # two ends, and the long axis may tilt


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("turn", TURNS)
def test_a_box_is_as_long_as_its_diagonal(spacing, turn):
    inside = np.zeros((14, 12, 9), bool)
    inside[2:12, 3:9, 1:8] = True
    size = np.array([10, 6, 7]) * spacing
    found = plane_diameters(inside, steps_of(spacing, turn), 2)
    assert found.long_mm == pytest.approx(np.hypot(*size[:2]), abs=np.hypot(*spacing[:2]) / 2 + 1e-9)
    halves = np.eye(3) * spacing / 2
    exact = max(np.linalg.norm(size - spacing + one + other) for one in halves for other in halves)
    solid = solid_diameter(inside, steps_of(spacing, turn))
    assert solid == pytest.approx(exact)
    assert 0 < np.linalg.norm(size) - solid < np.linalg.norm(spacing)  # the corners are cut


def test_the_short_axis_of_a_rectangle_is_its_chord_across_the_diagonal():
    inside = np.zeros((202, 102, 1), bool)
    inside[1:201, 1:101] = True
    found = plane_diameters(inside, np.diag([0.1, 0.1, 5]), 2)
    assert found.long_mm == pytest.approx(np.hypot(20, 10), abs=0.1)
    assert found.short_mm == pytest.approx(10 * np.hypot(20, 10) / 20, abs=0.2)


def test_one_voxel_is_as_long_as_its_spacing_and_a_row_as_its_voxels():
    one = np.ones((1, 1, 1), bool)
    found = plane_diameters(one, np.diag([0.5, 2.0, 3.0]), 2)
    assert (found.long_mm, found.short_mm) == pytest.approx((2.0, 0.5))
    assert solid_diameter(one, np.diag([0.5, 2.0, 3.0])) == pytest.approx(3.0)
    row = np.ones((7, 1, 1), bool)
    found = plane_diameters(row, np.diag([0.5, 0.5, 3.0]), 2)
    assert (found.long_mm, found.short_mm) == pytest.approx((3.5, 0.5))


def test_a_sheared_grid_is_measured_in_true_millimetres():
    """A gantry tilt shears the volume along the slices: in-plane lengths stay, lengths in space do not."""
    inside = np.zeros((20, 20, 10), bool)
    inside[5:15, 5:6, :] = True
    steps = np.diag([1.0, 1.0, 3.0])
    steps[0, 2] = 2.0
    found = plane_diameters(inside, steps, 2)
    assert found.long_mm == pytest.approx(10)
    assert solid_diameter(inside, steps) == pytest.approx(np.hypot(9 + 9 * 2, 30), abs=2)
    tilted = np.array([[1.0, 0.6, 0], [0, 0.8, 0], [0, 0, 3]])  # in-plane axes 53 degrees apart
    column = np.zeros((9, 9, 1), bool)
    column[:, 4] = True
    column[4, :] = True
    assert plane_diameters(column, tilted, 2).long_mm == pytest.approx(9, abs=0.5)
    diagonal = np.eye(9, dtype=bool)[:, :, None]
    assert plane_diameters(diagonal, tilted, 2).long_mm == pytest.approx(8 * np.hypot(1.6, 0.8) + 1, abs=0.9)


def test_islands_of_one_slice_are_not_one_diameter():
    inside = np.zeros((40, 10, 3), bool)
    inside[0:5, 2, 1] = inside[30:38, 2, 1] = True
    inside[5:30, 2, 0] = True  # joins them in another slice
    assert plane_diameters(inside, np.eye(3), 2).long_mm == pytest.approx(25)
    inside[5:30, 2, 0] = False
    found = plane_diameters(inside, np.eye(3), 2)
    assert (found.long_mm, found.slice) == (pytest.approx(8), 1)
    assert solid_diameter(inside, np.eye(3)) == pytest.approx(38)


def test_of_equal_slices_the_first_is_named():
    inside = np.zeros((12, 12, 9), bool)
    inside[2:9, 3, 3:7] = True
    assert plane_diameters(inside, np.diag([1.0, 1.0, 3.0]), 2).slice == 3


@given(st.integers(0, 2**32 - 1), st.sampled_from(SPACINGS), st.integers(0, 2))
def test_any_shape_agrees_with_brute_force(seed, spacing, axis):
    rng = np.random.default_rng(seed)
    inside = rng.random((5, 6, 4)) < rng.choice([0.1, 0.4, 0.9])
    inside[2, 3, 1] = True
    steps = steps_of(spacing, "oblique")
    faces = np.array([sign * row for sign in (0.5, -0.5) for row in np.eye(3)])
    points = (np.argwhere(inside)[:, None] + faces).reshape(-1, 3) @ steps.T
    longest = max(np.linalg.norm(points - point, axis=1).max() for point in points)
    assert solid_diameter(inside, steps) == pytest.approx(longest)
    assert plane_diameters(inside, steps, axis).long_mm == pytest.approx(brute_force_plane(inside, steps, axis))


def brute_force_plane(inside: np.ndarray, steps: np.ndarray, axis: int) -> float:
    """Compare all pairs of in-plane face centres of voxels that a walk within the slice connects."""
    best = 0.0
    faces = np.delete(np.array([sign * row for sign in (0.5, -0.5) for row in np.eye(3)]), [axis, axis + 3], axis=0)
    left = {tuple(voxel) for voxel in np.argwhere(inside)}
    moves = [move for move in product((-1, 0, 1), repeat=3) if move[axis] == 0]
    while left:
        island, front = [], [left.pop()]
        while front:
            voxel = front.pop()
            island.append(voxel)
            near = {tuple(np.add(voxel, move)) for move in moves} & left
            left -= near
            front += near
        points = (np.array(island)[:, None] + faces).reshape(-1, 3) @ steps.T
        best = max(best, *(np.linalg.norm(points - point, axis=1).max() for point in points))
    return best
