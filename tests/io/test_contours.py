"""Outlines: filling them gives the mask back, by our own filling and by matplotlib's."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from matplotlib.path import Path

from medseg.io.contours import Polygon, fill, outline

SLICES = arrays.arrays(bool, st.tuples(st.integers(1, 9), st.integers(1, 9)))


def filled_by_matplotlib(polygons: list[Polygon], shape: tuple[int, int]) -> np.ndarray:
    """Return by how many polygons each pixel's centre is enclosed."""
    centres = np.argwhere(np.ones(shape, bool))
    counts = np.zeros(len(centres), int)
    for polygon in polygons:
        counts += Path(np.vstack([polygon, polygon[:1]]), closed=True).contains_points(centres)
    return counts.reshape(shape)


def area(polygon: Polygon) -> float:
    x, y = polygon.T
    return abs(float(x @ np.roll(y, -1) - y @ np.roll(x, -1))) / 2


@given(SLICES)
def test_filling_an_outline_gives_the_mask_back(inside):
    polygons = outline(inside)
    assert np.array_equal(fill(polygons, inside.shape), inside)
    assert np.array_equal(filled_by_matplotlib(polygons, inside.shape), inside.astype(int))


@given(SLICES)
def test_no_centre_is_near_an_outline(inside):
    """So that rounding to the decimals of DICOM can't move a pixel to the other side."""
    centres = np.argwhere(np.ones(inside.shape, bool))
    for polygon in outline(inside):
        start, step = polygon, np.roll(polygon, -1, axis=0) - polygon
        along = np.einsum("ncd,cd->nc", centres[:, None] - start, step) / (step**2).sum(1)
        nearest = start + np.clip(along, 0, 1)[..., None] * step
        assert np.linalg.norm(nearest - centres[:, None], axis=-1).min() >= 0.25 - 1e-9


def test_a_hole_is_joined_by_a_channel():
    ring = np.ones((7, 9), bool)
    ring[2:4, 2:4] = ring[5, 3:6] = False
    (polygon,) = outline(ring)
    assert area(polygon) == pytest.approx(7 * 9 - 0.5 - (4 - 0.5) - (3 - 0.5))
    assert np.array_equal(fill([polygon], ring.shape), ring)


def test_an_island_in_a_hole_is_a_polygon_of_its_own():
    nested = np.ones((9, 9), bool)
    nested[1:8, 1:8] = False
    nested[3:6, 3:6] = True
    nested[4, 4] = False
    assert len(outline(nested)) == 2
    assert np.array_equal(fill(outline(nested), nested.shape), nested)


def test_straight_sides_have_no_corners_between():
    (polygon,) = outline(np.ones((30, 20), bool))
    assert len(polygon) == 8
    assert area(polygon) == pytest.approx(30 * 20 - 0.5)


def test_nothing_has_no_outline():
    assert outline(np.zeros((4, 5), bool)) == []
    assert not fill([], (4, 5)).any()
