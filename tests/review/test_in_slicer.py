"""The script that runs in 3D Slicer, in a Slicer that has the documented names only."""

from __future__ import annotations

import ast
import json
import sys

import numpy as np
import pytest

from medseg.io.nifti import read_mask, read_nifti
from medseg.review.session import Session
from medseg.review.versions import mask_path

from .conftest import make_mask
from .fake_slicer import FakeSlicer, Strict
from .test_import import take


@pytest.fixture
def slicer(monkeypatch) -> FakeSlicer:
    fake = FakeSlicer()
    for name, module in fake.modules().items():
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "review_session", raising=False)
    yield fake
    sys.modules.pop("review_session", None)


def run(review) -> dict:
    """Execute the script as Slicer does (ctkAbstractPythonManager::executeFile): in the system's encoding."""
    path = review.path / "review_in_slicer.py"
    space = {"__name__": "__main__", "__file__": str(path)}
    exec(compile(path.read_text(encoding="ascii"), str(path), "exec"), space)
    return space


def test_both_files_run_in_the_python_of_older_slicers(review):
    for name in ("review_in_slicer.py", "review_session.py"):
        source = (review.path / name).read_bytes()
        assert source.isascii()
        tree = ast.parse(source, feature_version=(3, 9))
        imported = {n.module or "" for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)}
        imported |= {alias.name for n in ast.walk(tree) if isinstance(n, ast.Import) for alias in n.names}
        allowed = set(sys.stdlib_module_names) | {"qt", "slicer", "medseg"}  # medseg: for type checkers alone
        assert {module.partition(".")[0] for module in imported} <= allowed
        assert str(review.path).encode() not in source  # nothing is written into code


def test_a_case_is_shown_with_everything_set(review, slicer):
    run(review)
    assert slicer.log[0][0] == "addDockWidget"
    slicer.type_code("ab")
    slicer.press("Begin, or go on")
    entry = review.case("gamma.2")
    assert [args[0] for args in slicer.called("loadVolume")] == [str(review.path / "scans" / "gamma.2.nii.gz")]
    assert slicer.called("loadSegmentation") == [(str(review.path / "masks" / "gamma.2.seg.nrrd"),)]
    assert len(slicer.called("SetReference")) == 1
    assert slicer.called("SetWindowLevelMinMax") == [entry.window]
    assert slicer.called("SetAutoWindowLevel") == [(False,)]
    assert slicer.called("setLayout") == [(3,)]
    (layers,) = slicer.called("setSliceViewerLayers")
    assert {("fit", True), ("rotateToVolumePlane", True)} <= set(layers)
    ((_, x, y, z, mode),) = slicer.called("JumpAllSlices")
    assert ((x, y, z), mode) == (entry.focus_mm, 1)
    assert slicer.called("selectModule") == [("SegmentEditor",)]
    assert slicer.called("SetFileName") == [(str(review.path / "session" / "gamma.2~ab.seg.nrrd"),)]
    assert "Case 1 of 3: gamma.2" in slicer.case_shown
    names = [entry[0] for entry in slicer.log]
    assert names.index("Clear") < names.index("loadVolume") < names.index("SetReference")


def test_the_focus_lies_in_the_tumour(review):
    grid = make_mask(2).grid
    index = np.linalg.inv(grid.affine) @ [*review.case("gamma.2").focus_mm, 1]
    assert make_mask(2).array[tuple(np.rint(index[:3]).astype(int))] == 4


def test_a_session_from_first_click_to_import(review, slicer):
    run(review)
    slicer.type_code("ab")
    slicer.press("Begin, or go on")

    def enlarge(layers):
        layers[0, 10, 2:4, 3:5] = 2
        return layers

    slicer.edit = enlarge
    slicer.type_comment("kidney was cut")
    slicer.press("Correct")
    assert "Case 2 of 3: beta" in slicer.case_shown
    slicer.shortcuts["Ctrl+Shift+A"]()
    slicer.press("Reject")
    assert slicer.message == ""
    assert "3 of 3 done" in slicer.case_shown
    summary = take(review)
    assert summary.refused == ()
    statuses = {one.version.case: one.version.status for one in summary.taken}
    assert statuses == {"gamma.2": "corrected", "beta": "accepted", "alpha": "rejected"}
    expected = enlarge(make_mask(2).array[None].copy())[0]
    version = next(one.version for one in summary.taken if one.version.case == "gamma.2")
    assert np.array_equal(read_mask(mask_path(review, version)).array, expected)
    decision = json.loads((review.path / "corrected" / "gamma.2.json").read_text())
    assert (decision["reviewer"], decision["comment"]) == ("ab", "kidney was cut")
    saved = (review.path / "corrected" / "gamma.2.seg.nrrd").read_bytes().partition(b"\n\n")[0].decode()
    assert saved.count("Segmentation.Status:completed|") == 4
    assert saved.count("medseg.Reviewer:ab|") == 4
    assert saved.count("medseg.Reviewed:20") == 4


def test_edits_without_a_verdict_are_kept_and_shown_again(review, slicer):
    run(review)
    slicer.type_code("ab")
    slicer.press("Begin, or go on")
    slicer.edit = lambda layers: layers * 0
    slicer.press("Next")
    slicer.press("Previous")
    assert slicer.called("loadSegmentation")[-1] == (str(review.path / "session" / "gamma.2~ab.seg.nrrd"),)
    assert take(review).taken == ()
    slicer.press("Accept")
    assert not (review.path / "session" / "gamma.2~ab.seg.nrrd").exists()


def test_it_goes_on_where_the_reviewer_stopped(review, slicer):
    run(review)
    slicer.type_code("ab")
    slicer.press("Begin, or go on")
    slicer.press("Accept")
    again = run(review)
    assert again["review"].session.reviewer == ""  # nobody is signed in by somebody else's last session
    assert slicer.lines[-2].text == "ab"  # but the code is offered
    slicer.buttons["Begin, or go on"]()
    assert again["review"].session.current.case == "beta"


def test_nothing_happens_without_a_code(review, slicer):
    run(review)
    for button in ("Accept", "Reject", "Next"):
        slicer.press(button)
        assert "enter your code" in slicer.message
    assert list((review.path / "corrected").iterdir()) == []


def test_a_full_disk_is_said_and_nothing_half_written_stays(review, slicer):
    run(review)
    slicer.type_code("ab")
    slicer.press("Begin, or go on")
    slicer.disk_is_full = True
    slicer.press("Correct")
    assert "could not be saved" in slicer.message
    assert "Case 1 of 3" in slicer.case_shown
    assert not (review.path / "corrected" / "gamma.2.seg.nrrd").exists()
    assert take(review).refused[0].code == "UNFINISHED"
    slicer.disk_is_full = False
    slicer.press("Correct")
    assert take(review).exit_code == 0


def test_a_missing_scan_is_said(review, slicer):
    (review.path / "scans" / "gamma.2.nii.gz").unlink()
    run(review)
    slicer.type_code("ab")
    slicer.press("Begin, or go on")
    assert "Failed to load" in slicer.message
    slicer.press("Accept")
    assert "could not be shown" in slicer.message
    assert list((review.path / "corrected").iterdir()) == []
    slicer.press("Next")
    slicer.press("Accept")
    assert {path.name for path in (review.path / "corrected").iterdir()} == {"beta.json", "beta.seg.nrrd"}


def test_what_was_shown_before_is_never_saved_for_a_case_that_can_not_be_shown(review, slicer):
    (review.path / "scans" / "beta.nii.gz").unlink()
    run(review)
    slicer.type_code("ab")
    slicer.press("Begin, or go on")
    slicer.press("Accept")
    slicer.edit = lambda layers: layers
    for button in ("Accept", "Correct", "Flag", "Next"):
        slicer.press(button)
    assert {path.name for path in (review.path / "corrected").iterdir()} == {"gamma.2.json", "gamma.2.seg.nrrd"}
    assert list((review.path / "session").glob("beta*")) == []


def test_the_fake_raises_for_what_slicer_does_not_document(slicer):
    with pytest.raises(AttributeError, match=r"slicer\.util documents no loadEverything"):
        sys.modules["slicer"].util.loadEverything  # noqa: B018
    with pytest.raises(AssertionError, match="documents no"):
        Strict("vtkSegment", SetEverything=1)


def test_the_scan_is_the_one_that_training_reads(review, tmp_path):
    entry = review.case("alpha")
    assert entry.shown == entry.images[0]
    assert read_nifti(review.path / entry.shown).grid.matches(entry.grid)


def test_a_session_knows_its_order(review):
    session = Session(review.path)
    assert [case.case for case in session.cases] == ["gamma.2", "beta", "alpha"]
    session.sign_in("ab")
    assert not session.go(-1)
    assert session.go(2)
    assert not session.go(1)
