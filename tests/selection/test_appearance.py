"""The description of a scan: one in any storage order, blind to units, sensitive to what differs."""

import numpy as np
import pytest

from medseg.geometry import Grid
from medseg.selection.appearance import CELLS, describe_appearance, standardise, to_points
from medseg.volume import Volume


def volume_of(array, affine=None):
    grid = Grid(array.shape, np.diag([1.0, 2.0, 3.0, 1.0]) if affine is None else affine)
    return Volume(array[None].astype(np.float32), grid)


@pytest.fixture
def array():
    return np.random.default_rng(0).normal(size=(12, 18, 24)).cumsum(axis=0)


def test_extent_percentiles_and_cells(array):
    extent, percentiles, picture = describe_appearance(volume_of(array))
    np.testing.assert_allclose(np.exp(extent), [12, 36, 72])
    relative = (array - array.mean()) / array.std()
    np.testing.assert_allclose(percentiles, np.percentile(relative, [5, 25, 50, 75, 95]), atol=1e-4)
    cells = relative.reshape(CELLS, 2, CELLS, 3, CELLS, 4).mean(axis=(1, 3, 5))
    np.testing.assert_allclose(picture, cells.ravel(), atol=1e-4)


def test_storage_order_and_units_make_no_difference(array):
    flipped = np.diag([-1.0, 2.0, 3.0, 1.0])
    flipped[0, 3] = 11
    turned = volume_of(np.ascontiguousarray(array[::-1]) * 40 + 7, flipped)
    for one, other in zip(describe_appearance(volume_of(array)), describe_appearance(turned), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-4)


def test_a_constant_scan_has_a_description():
    assert all(np.isfinite(part).all() for part in describe_appearance(volume_of(np.full((3, 4, 5), 7.0))))


def test_parts_have_equal_say_and_numbers_without_spread_none():
    rng = np.random.default_rng(1)
    scans = [(rng.normal(size=2) * 100, np.append(rng.normal(size=50), 5.0)) for _ in range(40)]
    points = to_points(scans)
    assert points.shape == (40, 53)
    assert (points[:, -1] == 0).all()
    assert (points[:, :2] ** 2).sum(axis=1).mean() == pytest.approx(1)
    assert (points[:, 2:] ** 2).sum(axis=1).mean() == pytest.approx(50 / 51)


def test_one_scan_is_in_the_middle_of_itself():
    assert not standardise(np.array([[3.0, 4.0]])).any()
