"""What is learnt and what is ignored: weights by their formula, strange parts, 255 everywhere else."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from medseg.config import PseudoLabelConfig
from medseg.geometry import Grid
from medseg.labels import LabelMap
from medseg.losses.prototypes import similarity
from medseg.pseudo.maps import ScanMaps
from medseg.pseudo.prototypes import PrototypeSums, scan_similarity
from medseg.pseudo.reliability import Gates, PartRange, judge, part_ranges, part_volumes, strange_parts

LABELS = LabelMap.parse({"high": 3, "low": 7})
GRID = Grid((12, 10, 8), np.diag([1.0, 1.0, 2.0, 1.0]))
PLAIN = PseudoLabelConfig(component_filter=False)


def scan_maps(seed=0, decided=None):
    rng = np.random.default_rng(seed)
    if decided is None:
        decided = rng.integers(0, 3, GRID.shape, dtype=np.uint8)
    confidence, uncertainty = (rng.integers(0, 256, GRID.shape, dtype=np.uint8) for _ in range(2))
    return ScanMaps(decided, confidence, uncertainty, rng.random(GRID.shape) < 0.3, None)


def gates(**changes):
    return Gates(**{"thresholds": (0.6, 0.7, 0.8), "doubtable": (True,) * 3, "parts": {}, **changes})


def test_weights_follow_the_formula():
    maps = scan_maps()
    maps.decided[:6], maps.decided[6:] = 1, 2  # one flat boundary between x = 5 and 6
    judged = judge(maps, GRID, LABELS, gates(similarity=0.8), PLAIN).maps
    threshold = np.where(maps.decided == 1, round(255 * 0.7), round(255 * 0.8))
    believed = (maps.confidence >= threshold) & ~maps.doubted
    exact = 255 * 0.8 * (1 - maps.uncertainty / 255.0)
    exact[5:7] *= 0.5
    assert np.abs(judged.weight - np.where(believed, exact, 0)).max() <= 0.5001
    np.testing.assert_array_equal(judged.label, np.where(believed, np.where(maps.decided == 1, 3, 7), 255))


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), thresholds=st.tuples(*[st.floats(0, 1)] * 3))
def test_what_does_not_count_is_ignored_never_background(seed, thresholds):
    maps = scan_maps(seed)
    judged = judge(maps, GRID, LABELS, gates(thresholds=thresholds), PLAIN)
    label, weight = judged.maps.label, judged.maps.weight
    assert (weight[label == 255] == 0).all()
    assert set(np.unique(label)) <= {0, 3, 7, 255}
    values = np.array([0, 3, 7])[maps.decided]
    np.testing.assert_array_equal(label[label != 255], values[label != 255])
    for number, name in enumerate(("background", "high", "low")):
        members = maps.decided == number
        assert judged.kept[name] == pytest.approx((label[members] != 255).mean(), abs=1e-5)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 1000), pair=st.tuples(st.floats(0, 1), st.floats(0, 1)).map(sorted))
def test_higher_thresholds_keep_less(seed, pair):
    maps = scan_maps(seed)
    low, high = (judge(maps, GRID, LABELS, gates(thresholds=(t,) * 3), PLAIN).maps.label != 255 for t in pair)
    assert not (high & ~low).any()


def test_every_ingredient_can_be_switched_off():
    maps = scan_maps()
    off = PseudoLabelConfig(prototype_gate=False, component_filter=False, entropy_weight=False, boundary_weight=1.0)
    judged = judge(maps, GRID, LABELS, gates(thresholds=(0.0,) * 3), off).maps
    assert (judged.weight == 255).all()
    np.testing.assert_array_equal(judged.label, np.array([0, 3, 7])[maps.decided])


def test_features_speak_against_classes_that_they_may():
    maps = scan_maps()
    judged = judge(maps, GRID, LABELS, gates(thresholds=(0.0,) * 3, doubtable=(False, True, False)), PLAIN).maps
    np.testing.assert_array_equal(judged.label == 255, maps.doubted & (maps.decided == 1))


RANGES = {3: PartRange(low_ml=0.02, high_ml=0.05, most=1)}


def parts_of(*boxes):
    array = np.zeros((20, 20, 20), np.uint8)
    for box in boxes:
        array[box] = 3
    return array


@pytest.mark.parametrize(
    ("edge", "strange"),
    [(2, True), (3, False), (4, False), (5, True)],  # 0.008, 0.027, 0.064, 0.125 ml; 0.01 to 0.1 is plausible
)
def test_parts_of_unheard_of_size_are_strange(edge, strange):
    array = parts_of(np.s_[1 : 1 + edge, 1 : 1 + edge, 1 : 1 + edge])
    found = strange_parts(array, np.full(array.shape, 255, np.uint8), 1e-3, RANGES, 0.6)
    np.testing.assert_array_equal(found, (array == 3) & strange)


def test_more_parts_than_people_ever_drew_leave_the_largest():
    array = parts_of(np.s_[:4, :4, :2], np.s_[8:11, 8:11, 8:11], np.s_[15:18, 15:18, 15:19])
    found = strange_parts(array, np.full(array.shape, 255, np.uint8), 1e-3, RANGES, 0.6)
    assert not found[15:].any()
    assert found[:4, :4, :2].all()
    assert found[8:11, 8:11, 8:11].all()


def test_parts_that_nobody_is_sure_of_are_strange():
    array = parts_of(np.s_[:3, :3, :3])
    confidence = np.full(array.shape, 140, np.uint8)
    assert strange_parts(array, confidence, 1e-3, RANGES, 0.6)[:3, :3, :3].all()
    assert not strange_parts(array, confidence + np.uint8(20), 1e-3, RANGES, 0.6).any()


def test_strange_parts_are_ignored_not_deleted():
    decided = np.zeros(GRID.shape, np.uint8)
    decided[2:9, 2:8, 2:6], decided[11, 9, 7] = 1, 1
    maps = ScanMaps(decided, np.full(GRID.shape, 255, np.uint8), decided * 0, decided > 9, None)
    ranges = {3: PartRange(0.2, 0.4, 1)}
    label = judge(maps, GRID, LABELS, gates(parts=ranges), PseudoLabelConfig()).maps.label
    assert label[11, 9, 7] == 255
    assert (label[2:9, 2:8, 2:6] == 3).all()
    assert (label == 0).sum() == (decided == 0).sum()


def test_usual_parts_are_those_that_people_drew():
    one, other = np.zeros(GRID.shape, np.uint8), np.zeros(GRID.shape, np.uint8)
    one[:2, :2, :2], one[6:9, 6:9, 2:5] = 3, 3
    other[:4, :4, :4] = 3
    ranges = part_ranges([part_volumes(array, GRID, LABELS) for array in (one, other)])
    volumes = [8 * 2e-3, 27 * 2e-3, 64 * 2e-3]
    low, high = np.percentile(volumes, [1, 99])
    assert ranges == {3: PartRange(pytest.approx(low), pytest.approx(high), 2)}


def test_of_a_structure_of_thousands_of_specks_no_part_is_usual_or_strange():
    scattered = np.zeros((36, 36, 36), np.uint8)
    scattered[::3, ::3, ::3] = 1
    labels = LabelMap.parse({"lesion": 1})
    ranges = part_ranges([part_volumes(scattered, Grid(scattered.shape, np.eye(4)), labels)])
    assert not strange_parts(scattered, np.full(scattered.shape, 255, np.uint8), 0.001, ranges, 0.6).any()


def test_prototypes_are_mean_directions():
    sums = PrototypeSums(3)
    features = torch.randn(2, 4, 3, 3, 3)
    decided = torch.randint(0, 2, (2, 3, 3, 3), dtype=torch.uint8)
    decided[0, 0] = 255
    sums.add(features, decided)
    vectors = torch.nn.functional.normalize(features, dim=1).movedim(1, -1)
    for decision in (0, 1):
        mean = vectors[decided == decision].sum(0)
        torch.testing.assert_close(sums.means()[decision], mean / mean.norm())
    assert not sums.means()[2].any()
    likely = similarity(features, sums.means(), (6, 6, 6))
    torch.testing.assert_close(likely.sum(1), torch.ones(2, 6, 6, 6))


def test_scans_like_the_labelled_ones_weigh_more():
    rng = torch.Generator().manual_seed(0)
    labelled = torch.nn.functional.normalize(torch.randn(6, 8, generator=rng) + 5, dim=1)
    near, far = labelled.mean(0), -labelled[0]
    assert scan_similarity(far, labelled) == pytest.approx(0.3)
    assert 0.5 < scan_similarity(near, labelled) <= 1
    assert scan_similarity(far, labelled[:1]) == 1.0
