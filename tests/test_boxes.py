import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from scipy import ndimage

from medseg.boxes import label_boxes, occupied_box, united

masks = arrays(np.uint8, array_shapes(min_dims=3, max_dims=3, max_side=7), elements=st.sampled_from([0, 0, 0, 1, 2, 9]))


@given(masks, st.sampled_from("CF"))
def test_label_boxes_are_scipys_in_either_memory_order(mask, order):
    expected = {value: box for value, box in enumerate(ndimage.find_objects(mask), start=1) if box}
    assert label_boxes(np.asarray(mask, order=order)) == expected


@given(masks)
def test_nothing_lies_outside_the_occupied_box(mask):
    box = occupied_box(mask)
    if box is None:
        assert not mask.any()
        return
    assert np.count_nonzero(mask[box]) == np.count_nonzero(mask)
    for axis in range(3):  # and no smaller box holds it all
        assert mask[box].take([0], axis).any()
        assert mask[box].take([-1], axis).any()


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, bool])
def test_every_integer_type_has_a_box(dtype):
    mask = np.zeros((4, 5, 6), dtype=dtype)
    mask[1, 2:4, 5] = 1
    assert occupied_box(mask) == (slice(1, 2), slice(2, 4), slice(5, 6))


def test_union_of_boxes_ignores_absent_ones():
    one, other = np.s_[1:3, 4:5, 0:2], np.s_[2:6, 0:1, 1:2]
    assert united([None, one, other]) == np.s_[1:6, 0:5, 0:2]
    assert united([None]) is None
