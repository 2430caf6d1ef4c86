"""The decisions about rounds, by hand."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest

from medseg.catalog.pseudo_labels import PseudoLabelRecord
from medseg.pseudo.steadiness import churn, drifted


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
    stranger = record("b", organ=99.0).model_copy(update={"status": "left-out"})
    assert not drifted([record("a", organ=10.0, cyst=1.0), stranger], before).passed


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
    turned = nib.load(tmp_path / "now" / "a" / "label.nii.gz").as_reoriented([[1, 1], [0, 1], [2, -1]])
    (tmp_path / "turned" / "a").mkdir(parents=True)
    nib.save(turned, tmp_path / "turned" / "a" / "label.nii.gz")
    assert churn(tmp_path / "turned", tmp_path / "now", ["a"]) == 0
    assert churn(tmp_path / "now", tmp_path / "none", ["a"]) == 1
