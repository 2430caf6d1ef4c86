"""Runs of a mask against scipy's components, dilation and boxes, in every memory layout."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage

from medseg.measures.runs import IN_SPACE, WITHIN_SLICE, connect, find_runs, near

CORNERS = np.ones((3, 3, 3), dtype=bool)


@st.composite
def masks(draw):
    """Random masks of up to three labels, any layout: C, Fortran, permuted, flipped."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    shape = draw(st.tuples(*[st.integers(1, 9)] * 3))
    array = rng.integers(1, 4, shape) * (rng.random(shape) < draw(st.sampled_from([0.05, 0.4, 0.95])))
    order = draw(st.permutations(range(3)))
    flips = tuple(slice(None, None, draw(st.sampled_from([1, -1]))) for _ in range(3))
    return array.astype(draw(st.sampled_from([np.uint8, np.uint16]))).transpose(order)[flips]


@given(masks(), st.sampled_from([None, 0, 1, 2]))
def test_runs_hold_exactly_the_voxels_of_each_value(array, slice_axis):
    found = find_runs(array, slice_axis)
    assert sorted(found) == sorted(set(np.unique(array).tolist()) - {0})
    index = np.arange(array.size).reshape(array.shape)
    for value, runs in found.items():
        inside = array == value
        assert runs.voxels == inside.sum()
        assert sorted(runs.values(index)) == sorted(index[inside])
        assert runs.values(array).tolist() == [value] * runs.voxels
        assert runs.box == ndimage.find_objects(inside.astype(int))[0]
        assert runs.centroid == pytest.approx(np.argwhere(inside).mean(axis=0))
        assert (np.diff(runs.begin) > 0).all()


@given(masks(), st.integers(0, 2))
def test_parts_are_scipys_components_in_the_same_order(array, slice_axis):
    flat = CORNERS.copy()
    flat[tuple(slice(0, 3, 2) if axis == slice_axis else slice(None) for axis in range(3))] = False
    for value, runs in find_runs(array, slice_axis).items():
        for steps, structure in ((IN_SPACE, CORNERS), (WITHIN_SLICE, flat)):
            numbers, count = ndimage.label(np.ascontiguousarray(array == value), structure)
            sizes = np.bincount(numbers.ravel(), minlength=count + 1)[1:]
            parts = connect(runs, steps)
            assert len(parts) == count
            assert parts.sizes.sum() == runs.voxels
            expected = [number + 1 for number in np.argsort(-sizes, kind="stable")]
            for part, number in zip(parts.by_size(), expected, strict=True):
                chosen = runs.chosen(parts.number == part)
                assert chosen.voxels == parts.sizes[part]
                assert set(chosen.values(numbers)) == {number}


@given(masks(), st.integers(0, 2))
def test_runs_near_others_are_those_that_a_dilation_reaches(array, slice_axis):
    found = find_runs(array, slice_axis)
    if not {1, 2} <= set(found):
        return
    reached = ndimage.binary_dilation(array == 2, CORNERS)
    runs = found[1]
    expected = [runs.chosen(np.array([number])).values(reached).any() for number in range(len(runs.begin))]
    assert near(runs, found[2]).tolist() == expected


def test_nothing_has_no_runs():
    assert find_runs(np.zeros((3, 4, 5), np.uint8)) == {}


def test_what_touches_across_the_border_of_the_array_is_not_connected():
    array = np.zeros((4, 4, 4), np.uint8)
    array[0, 0, 0] = array[3, 3, 0] = array[0, 3, 0] = array[0, 0, 3] = array[3, 0, 3] = 1
    for axis in range(3):
        assert len(connect(find_runs(array, axis)[1])) == 5
