"""Level functions against closed forms and brute force; boxes against the points they must hold."""

from itertools import pairwise

import numpy as np
import pytest
from scipy.spatial.distance import cdist

from medseg.phantom.shapes import Above, Common, Ellipsoid, Grown, Rough, Tube, Union, Without
from medseg.phantom.torso import Ribs, Spine
from medseg.phantom.waves import Waves


def points_within(half: float, count: int = 4000, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-half, half, size=(3, count)).astype(np.float32)


def bumps() -> Waves:
    return Waves.random(np.random.default_rng(1), (10, 30), 1.5)


SHAPES = {
    "ellipsoid": Ellipsoid((5, -3, 2), (20, 10, 6), (30, 45, -60)),
    "tube": Tube([(-20, 0, 0), (10, 12, 0), (15, 10, 20)], 6),
    "grown": Grown(Ellipsoid((0, 0, 0), (20, 9, 14), (10, 20, 30)), 4),
    "shrunk": Grown(Ellipsoid((0, 0, 0), (20, 9, 14)), -3),
    "rough": Rough(Ellipsoid((0, 0, 0), (15, 15, 15)), bumps()),
    "union": Union(Ellipsoid((-8, 0, 0), (12, 12, 12)), Ellipsoid((10, 0, 0), (12, 9, 9)), blend=8),
    "common": Common(Ellipsoid((-8, 0, 0), (15, 15, 15)), Above(-4)),
    "without": Without(Ellipsoid((0, 0, 0), (18, 12, 12)), Tube([(-30, 0, 0), (30, 0, 0)], 5)),
    "spine": Spine(),
    "ribs": Ribs(),
}


def test_the_level_of_a_ball_is_its_distance():
    points = points_within(60)
    expected = np.linalg.norm(points - np.array([[1], [2], [3]]), axis=0) - 15
    np.testing.assert_allclose(Ellipsoid((1, 2, 3), (15, 15, 15), (20, 30, 40)).level(points), expected, atol=1e-3)


def test_the_level_of_an_ellipsoid_is_zero_on_its_surface_and_one_a_millimetre_beyond():
    directions = np.random.default_rng(0).normal(size=(3, 500))
    directions /= np.linalg.norm(directions, axis=0)
    radii = np.array([[30.0], [20.0], [12.0]])
    surface = directions * radii
    normal = surface / radii**2
    normal /= np.linalg.norm(normal, axis=0)
    shape = Ellipsoid((0, 0, 0), (30, 20, 12))
    np.testing.assert_allclose(shape.level(surface.astype(np.float32)), 0, atol=1e-3)
    np.testing.assert_allclose(shape.level((surface + normal).astype(np.float32)), 1, atol=0.06)
    np.testing.assert_allclose(shape.level((surface - normal).astype(np.float32)), -1, atol=0.06)


def test_an_infinite_radius_makes_a_column():
    column = Ellipsoid((3, 0, 0), (10, 10, float("inf")))
    points = points_within(40)
    np.testing.assert_allclose(column.level(points), np.hypot(points[0] - 3, points[1]) - 10, atol=3e-3)


def test_the_level_of_a_tube_is_the_distance_to_its_axis_less_the_radius():
    path = np.array([(-20, 0, 0), (10, 12, 0), (15, 10, 20)], dtype=float)
    axis = np.concatenate([np.linspace(a, b, 2000) for a, b in pairwise(path)])
    points = points_within(40, 500)
    expected = cdist(points.T, axis).min(axis=1) - 6
    np.testing.assert_allclose(SHAPES["tube"].level(points), expected, atol=0.02)


@pytest.mark.parametrize("name", SHAPES)
def test_a_box_holds_all_of_its_shape(name: str):
    shape, points = SHAPES[name], points_within(160, 200_000)
    if name not in ("spine", "ribs"):
        points /= 4
    inside = points[:, shape.level(points) <= 0]
    assert inside.shape[1] > 50
    assert (inside.min(axis=1) >= shape.box[0] - 1e-3).all()
    assert (inside.max(axis=1) <= shape.box[1] + 1e-3).all()


def test_a_blended_union_is_larger_than_its_parts_only_near_the_seam():
    one, other = Ellipsoid((-8, 0, 0), (12, 12, 12)), Ellipsoid((10, 0, 0), (12, 9, 9))
    points = points_within(40)
    plain, smooth = Union(one, other).level(points), Union(one, other, blend=8).level(points)
    far = np.abs(one.level(points) - other.level(points)) > 8
    np.testing.assert_array_equal(plain, np.minimum(one.level(points), other.level(points)))
    np.testing.assert_allclose(smooth[far], plain[far], atol=1e-5)
    assert (plain - smooth).max() == pytest.approx(8 / 4, abs=0.1)
    assert (plain - smooth).min() >= -1e-5


def test_cutting_leaves_nothing_of_the_cut():
    points = points_within(30)
    hole = Tube([(-30, 0, 0), (30, 0, 0)], 5)
    inside = SHAPES["without"].level(points) < 0
    assert inside.any()
    assert (hole.level(points[:, inside]) > 0).all()


def test_vertebrae_repeat_and_discs_part_them():
    middle = np.array([[0], [-52], [18]], dtype=np.float32)
    step = np.array([[0], [0], [36]], dtype=np.float32)
    assert Spine().level(middle) < -5
    np.testing.assert_allclose(Spine().level(middle + step), Spine().level(middle), atol=1e-4)
    assert Spine().level(middle + step / 2) > 0


def test_waves_have_the_asked_strength_and_are_smooth():
    field = Waves.random(np.random.default_rng(3), (80.0, 160.0), 5.0, components=3)
    points = points_within(5000, 50_000)
    values = field(points)
    np.testing.assert_allclose(values.std(axis=1), 5.0, rtol=0.15)
    step = field(points + np.float32(1.0)) - values
    steepest = np.abs(field.amplitudes).sum(axis=1) * 2 * np.pi / 80 * np.sqrt(3)
    assert (np.abs(step).max(axis=1) <= steepest + 1e-2).all()
    assert not np.allclose(
        field(points), Waves.random(np.random.default_rng(4), (80.0, 160.0), 5.0, components=3)(points)
    )
