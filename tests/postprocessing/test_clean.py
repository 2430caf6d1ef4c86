import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from scipy import ndimage

from medseg.errors import LabelError
from medseg.geometry import Grid
from medseg.labels import LabelMap
from medseg.postprocessing import apply
from medseg.rules import PostprocessingRules, StructureRule

LABELS = LabelMap.parse({"organ": 1, "tumour": 2, "vessel": 3})
REGIONS = LabelMap.parse({"organ_with_tumour": [1, 2], "tumour": [2]})


def grid_of(array, spacing=(1.0, 1.0, 1.0)):
    return Grid(array.shape, np.diag([*spacing, 1.0]))


def cleaned(array, labels=LABELS, spacing=(1.0, 1.0, 1.0), **rules):
    rules = PostprocessingRules(structures={name: StructureRule(**rule) for name, rule in rules.items()})
    return apply(array, grid_of(array, spacing), rules, labels)


def box(shape, *parts):
    array = np.zeros(shape, dtype=np.uint8)
    for place, value in parts:
        array[place] = value
    return array


masks = arrays(np.uint8, array_shapes(min_dims=3, max_dims=3, max_side=6), elements=st.integers(0, 3))
any_rule = st.builds(
    StructureRule, keep_largest=st.booleans(), min_ml=st.sampled_from([0, 0.002, 0.01]), fill_holes=st.booleans()
)
any_rules = st.dictionaries(st.sampled_from(LABELS.targets), any_rule).map(lambda s: PostprocessingRules(structures=s))


@given(masks, any_rules)
def test_input_stays_as_it_is(mask, rules):
    before = mask.copy()
    mask.setflags(write=False)
    result = apply(mask, grid_of(mask), rules, LABELS)
    assert result.dtype == mask.dtype
    assert not np.shares_memory(result, mask)
    np.testing.assert_array_equal(mask, before)


@given(masks, any_rules)
def test_structures_without_a_rule_keep_every_voxel(mask, rules):
    result = apply(mask, grid_of(mask), rules, LABELS)
    for label in LABELS.labels:
        if label.name not in rules.structures:
            assert (result[mask == label.value] == label.value).all()


@given(masks)
def test_filling_holes_never_eats_another_label(mask):
    result = cleaned(mask, organ={"fill_holes": True}, tumour={"fill_holes": True})
    np.testing.assert_array_equal(result[mask != 0], mask[mask != 0])


@given(masks, st.sampled_from(["C", "F"]))
def test_filled_holes_are_scipys_where_nothing_else_is_inside(mask, order):
    thick = np.repeat(np.repeat(np.repeat(mask == 1, 2, 0), 2, 1), 2, 2)  # no axis of a single voxel
    alone = np.asarray(thick.astype(np.uint8), order=order)
    np.testing.assert_array_equal(cleaned(alone, organ={"fill_holes": True}) == 1, ndimage.binary_fill_holes(thick))


@given(masks)
def test_largest_component_is_the_largest_of_scipys(mask):
    components, count = ndimage.label(mask == 1, np.ones((3, 3, 3)))
    sizes = np.bincount(components.ravel())[1:]
    kept = cleaned(mask, organ={"keep_largest": True}) == 1
    assert np.count_nonzero(kept) == (sizes.max() if count else 0)
    assert ndimage.label(kept, np.ones((3, 3, 3)))[1] == min(count, 1)
    np.testing.assert_array_equal(mask[kept], 1)


def test_components_touch_by_corners():
    mask = box((4, 4, 4), (np.s_[0:2, 0:2, 0:2], 1), (np.s_[2:4, 2:4, 2:4], 1))
    np.testing.assert_array_equal(cleaned(mask, organ={"keep_largest": True}), mask)


def test_smallest_volume_is_in_ml_and_inclusive():
    mask = box((20, 10, 10), (np.s_[0:10, 0, 0], 1), (np.s_[12:20, 0, 0], 1))  # 10 and 8 voxels of 0.1 ml
    spacing = (10.0, 10.0, 1.0)
    kept = cleaned(mask, spacing=spacing, organ={"min_ml": 1.0})
    assert np.count_nonzero(kept[:10]) == 10
    assert not kept[12:].any()
    assert not cleaned(mask, spacing=spacing, organ={"min_ml": 1.01}).any()


def test_a_hole_that_reaches_the_side_of_the_scan_is_open():
    mask = box((5, 5, 5), (np.s_[:], 1), (np.s_[2, 2, 2:], 0))
    np.testing.assert_array_equal(cleaned(mask, organ={"fill_holes": True}), mask)


def test_holes_of_a_single_slice_are_those_of_the_slice():
    mask = box((5, 5, 1), (np.s_[:], 1), (np.s_[2, 2], 0))
    assert (cleaned(mask, organ={"fill_holes": True}) == 1).all()


def test_a_tumour_inside_an_organ_survives_and_its_own_hole_is_the_tumours():
    mask = box(
        (9, 9, 9), (np.s_[1:8, 1:8, 1:8], 1), (np.s_[3:6, 3:6, 3:6], 2), (np.s_[4, 4, 4], 0), (np.s_[2, 2, 2], 0)
    )
    result = cleaned(mask, organ={"fill_holes": True}, tumour={"fill_holes": True})
    assert result[4, 4, 4] == 2
    assert result[2, 2, 2] == 1
    assert np.count_nonzero(result == 2) == 27


def test_a_removed_false_tumour_becomes_the_organ_around_it():
    mask = box((9, 9, 9), (np.s_[1:8, 1:8, 1:8], 1), (np.s_[2:4, 2:4, 2:4], 2), (np.s_[6, 6, 6], 2))
    as_labels = cleaned(mask, organ={"fill_holes": True}, tumour={"keep_largest": True})
    as_regions = cleaned(mask, REGIONS, tumour={"keep_largest": True})
    for result in (as_labels, as_regions):
        assert result[6, 6, 6] == 1
        assert np.count_nonzero(result == 2) == 8


def test_a_region_is_judged_as_a_whole():
    """A tumour that cuts the kidney in two leaves one region, but two components of the label."""
    mask = box(
        (9, 5, 5), (np.s_[0:4, 1:4, 1:4], 1), (np.s_[4:5, 1:4, 1:4], 2), (np.s_[5:7, 1:4, 1:4], 1), (np.s_[8, 0, 0], 1)
    )
    result = cleaned(mask, REGIONS, organ_with_tumour={"keep_largest": True})
    assert result[8, 0, 0] == 0
    np.testing.assert_array_equal(result[:8], mask[:8])
    assert not cleaned(mask, LabelMap.parse({"organ": 1, "tumour": 2}), organ={"keep_largest": True})[5:].any()


def test_a_removed_outer_region_takes_the_inner_one_with_it():
    mask = box((9, 5, 5), (np.s_[0:4], 1), (np.s_[7, 0, 0:2], 1), (np.s_[7, 0, 2], 2))
    assert not cleaned(mask, REGIONS, organ_with_tumour={"keep_largest": True})[7:].any()


def test_uint16_masks_are_cleaned():
    mask = box((5, 5, 5), (np.s_[1:4, 1:4, 1:4], 1), (np.s_[2, 2, 2], 0)).astype(np.uint16) * 300
    result = cleaned(mask, LabelMap.parse({"organ": 300}), organ={"fill_holes": True})
    assert result.dtype == np.uint16
    assert result[2, 2, 2] == 300


def test_a_rule_for_an_unknown_structure_is_refused():
    with pytest.raises(LabelError, match=r"'liver'.*organ"):
        cleaned(np.zeros((2, 2, 2), dtype=np.uint8), liver={"keep_largest": True})
