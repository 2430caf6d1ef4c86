"""Greedy k-centre against brute force and its own definition."""

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medseg.selection.covering import k_centres

POINTS = st.integers(0, 10_000).map(lambda seed: np.random.default_rng(seed).normal(size=(9, 3)))


def radius(points, rows, covered=()):
    centres = np.concatenate([points[list(rows)], np.reshape(covered, (-1, points.shape[1]))])
    return np.linalg.norm(points[:, None] - centres[None], axis=2).min(axis=1).max()


@given(points=POINTS, count=st.integers(1, 4))
@settings(max_examples=30, deadline=None)
def test_the_radius_is_at_most_twice_the_best(points, count):
    rows = [centre.row for centre in k_centres(points, count)]
    best = min(radius(points, chosen) for chosen in combinations(range(len(points)), count))
    assert radius(points, rows) <= 2 * best + 1e-9


@given(points=POINTS, many=st.integers(0, 3))
@settings(max_examples=30, deadline=None)
def test_each_centre_is_the_farthest_from_all_before_it(points, many):
    covered = np.random.default_rng(many).normal(size=(many, 3))
    before = [list(point) for point in covered]
    for number, centre in enumerate(k_centres(points, 5, covered)):
        if before:
            distances = [min(np.linalg.norm(point - other) for other in before) for point in points]
            assert centre.distance == pytest.approx(max(distances))
            assert distances[centre.row] == pytest.approx(max(distances))
        else:
            assert number == 0
            assert centre.distance is None
            sums = [sum(np.linalg.norm(a - b) for b in points) for a in points]
            assert centre.row == int(np.argmin(sums))
        before.append(list(points[centre.row]))


def test_no_point_is_chosen_twice_and_copies_come_last():
    points = np.array([[0.0], [0.0], [5.0], [5.0], [1.0]])
    rows = [centre.row for centre in k_centres(points, 9, first=0)]
    assert rows == [0, 2, 4, 1, 3]  # of equals the first wins


def test_what_is_covered_needs_no_centre():
    points = np.array([[0.0], [10.0], [4.0]])
    assert [centre.row for centre in k_centres(points, 1, np.array([[0.0], [10.0]]))] == [2]


@pytest.mark.parametrize("count", [1, 3])
def test_nothing_gives_nothing(count):
    assert k_centres(np.zeros((0, 2)), count) == []
