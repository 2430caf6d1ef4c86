"""The decisions about networks, by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from medseg.training.promotion import HeldOutScore, by_case, comparable, compare, fell, paired_difference

CASES = tuple("abcdef")


def scores(organ, tumour=None):
    rows = [HeldOutScore(case=case, target="organ", dice=dice) for case, dice in zip(CASES, organ, strict=True)]
    tumour = organ if tumour is None else tumour
    return rows + [HeldOutScore(case=case, target="tumour", dice=d) for case, d in zip(CASES, tumour, strict=True)]


BEFORE = np.array([0.80, 0.82, 0.78, 0.90, 0.85, 0.70])


def test_a_better_student_passes_and_a_worse_one_is_refused():
    assert compare(scores(BEFORE + 0.02), scores(BEFORE)).passed
    assert compare(scores(BEFORE), scores(BEFORE)).passed, "not worse is enough"
    refused = compare(scores(BEFORE - 0.005), scores(BEFORE))
    assert not refused.passed
    assert "worse than supervised" in refused.reason


def test_a_structure_may_not_starve_for_the_others():
    refused = compare(scores(BEFORE + 0.08, BEFORE - 0.05), scores(BEFORE))
    assert not refused.passed
    assert "lose tumour" in refused.reason
    assert compare(scores(BEFORE + 0.08, BEFORE - 0.005), scores(BEFORE)).passed, "within the tolerance"
    noisy = BEFORE + np.array([0.3, -0.4, 0.3, -0.4, 0.1, -0.1])
    assert compare(scores(BEFORE + 0.08, noisy), scores(BEFORE)).passed, "within a standard error"


def test_students_are_compared_on_the_same_cases():
    assert not compare([], scores(BEFORE)).passed
    empty = [HeldOutScore(case="a", target="organ", dice=None)]
    assert by_case([*empty, HeldOutScore(case="a", target="tumour", dice=0.5)]) == {"a": 0.5}


def test_who_invents_a_structure_is_worse():
    there = [HeldOutScore(case=case, target="tumour", dice=dice) for case, dice in (("a", 0.8), ("b", 0.7))]
    invented, right = (
        [HeldOutScore(case=case, target="tumour", dice=dice) for case in ("healthy", "well")] for dice in (0.0, None)
    )
    refused = compare(there + invented, there + right)
    assert not refused.passed
    assert "-0.5000" in refused.reason
    assert fell(there + invented, there + right).passed
    assert compare(there + right, there + invented).passed
    assert comparable(there + right, there + right) == ({"a": 0.8, "b": 0.7},) * 2


@pytest.mark.parametrize(("change", "found"), [(-0.05, True), (0.05, False), (0.0, False)])
def test_a_fall_is_more_than_a_standard_error(change, found):
    assert fell(scores(BEFORE + change), scores(BEFORE)).passed == found


def test_a_fall_within_the_noise_is_none():
    noise = np.array([0.1, -0.1, 0.12, -0.11, 0.09, -0.13])
    assert not fell(scores(BEFORE + noise), scores(BEFORE)).passed


def test_paired_difference_is_the_textbooks():
    mean, error = paired_difference({"a": 0.9, "b": 0.8, "c": 0.7}, {"a": 0.8, "b": 0.75, "c": 0.7})
    assert mean == pytest.approx(0.05)
    assert error == pytest.approx(0.05 / math.sqrt(3))
