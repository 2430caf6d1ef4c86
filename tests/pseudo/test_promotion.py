"""The decisions about students and rounds, by hand."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest

from medseg.catalog.pseudo_labels import PseudoLabelRecord
from medseg.pseudo.promotion import HeldOutScore, by_case, churn, compare, drifted, fell

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


@pytest.mark.parametrize(("change", "found"), [(-0.05, True), (0.05, False), (0.0, False)])
def test_a_fall_is_more_than_a_standard_error(change, found):
    before = by_case(scores(BEFORE))
    assert fell(by_case(scores(BEFORE + change)), before).passed == found


def test_a_fall_within_the_noise_is_none():
    noise = np.array([0.1, -0.1, 0.12, -0.11, 0.09, -0.13])
    assert not fell(by_case(scores(BEFORE + noise)), by_case(scores(BEFORE))).passed


def record(case, **volumes):
    return PseudoLabelRecord(
        case=case, scan="s", made_from="m", teachers=("t",), temperature=1, thresholds={}, volumes_ml=volumes
    )


def test_volumes_that_drift_are_named():
    before = [record("a", organ=10.0, cyst=1.0), record("b", organ=10.0, cyst=1.0)]
    assert not drifted([record("a", organ=11.5, cyst=1.1), record("b", organ=12.0, cyst=1.0)], before).passed
    found = drifted([record("a", organ=10.0, cyst=0.5), record("b", organ=10.0, cyst=0.5)], before)
    assert found.passed
    assert "cyst went from 1 to 0.5 ml" in found.reason
    assert not drifted([record("new", organ=99.0)], before).passed, "other scans say nothing"


def test_churn_is_the_share_of_foreground_that_changed(tmp_path):
    def write(folder, array):
        (tmp_path / folder / "a").mkdir(parents=True)
        nib.save(nib.Nifti1Image(array, np.eye(4)), tmp_path / folder / "a" / "label.nii.gz")

    old = np.zeros((4, 5, 5), np.uint8)
    old[:2] = 3
    new = old.copy()
    new[0, 0], new[3, 0, 0], new[3, 4, 4] = 255, 7, 255
    write("now", new)
    write("before", old)
    assert churn(tmp_path / "now", tmp_path / "before", ["a", "gone"]) == pytest.approx(6 / 51)
    assert churn(tmp_path / "now", tmp_path / "now", ["a"]) == 0
    assert churn(tmp_path / "now", tmp_path / "none", ["a"]) == 1
