"""Voxels of one lattice are found in any order and direction of axes."""

from itertools import permutations, product

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from medseg.errors import GeometryError
from medseg.geometry import Grid, Orientation, reorder

ORDERS = [
    Orientation((a, b, c), (x, y, z))
    for a, b, c in permutations(range(3))
    for x, y, z in product([False, True], repeat=3)
]


@pytest.mark.parametrize("axis", "xyz")
@pytest.mark.parametrize("degrees", [0, 20, 45, 135])  # half-way between two axes of the patient neither is the closest
def test_axes_are_matched_with_each_other_not_with_the_patients(axis, degrees):
    affine = np.eye(4)
    affine[:3, :3] = Rotation.from_euler(axis, degrees, degrees=True).as_matrix() @ np.diag([0.7, 0.7, 3])
    affine[:3, 3] = 3, -40, 7
    grid = Grid((6, 7, 5), affine)
    array = np.arange(210).reshape(grid.shape)
    for order in ORDERS:
        turned = order.apply_to_grid(grid)
        target = Grid(turned.shape, turned.affine.astype(np.float32))  # as NIfTI keeps it
        assert np.array_equal(reorder(array, grid, target), order.apply(array))


@pytest.mark.parametrize("shift", [(0.5, 0, 0), (0, 0, 3)])
def test_another_place_is_refused(shift):
    grid = Grid((6, 7, 5), np.diag([0.7, 0.7, 3, 1]))
    moved = grid.affine.copy()
    moved[:3, 3] += shift
    with pytest.raises(GeometryError, match="mm apart"):
        reorder(np.zeros(grid.shape), grid, ORDERS[5].apply_to_grid(Grid(grid.shape, moved)))


@pytest.mark.parametrize("spacing", [0.001, 0.005, 0.05, 1.0])
def test_grids_a_quarter_voxel_apart_are_not_the_same_however_small_voxels_are(spacing):
    affine = np.diag([spacing, spacing, 2 * spacing, 1.0])
    moved, rounded = affine.copy(), affine.copy()
    moved[1, 3], rounded[1, 3] = spacing / 4, min(spacing / 100, 0.005)
    assert not Grid((20, 20, 20), affine).matches(Grid((20, 20, 20), moved))
    assert Grid((20, 20, 20), affine).matches(Grid((20, 20, 20), rounded))
