"""A review folder is complete, private, and keeps what people did when it is written again."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import SimpleITK as sitk

from medseg.batch.record import MASK, Geometry, Inputs
from medseg.catalog.index import index_scans
from medseg.config import BatchConfig
from medseg.errors import ConfigError, DatasetError, OutputError
from medseg.io.dicom_seg import Algorithm, write_dicom_seg
from medseg.io.dicom_write import write_series
from medseg.io.nifti import read_mask, read_nifti, write_mask, write_volume
from medseg.io.scan import read_scan, source_files
from medseg.io.slicer import read_seg_nrrd
from medseg.provenance import digest_files
from medseg.review.dataset import reviewed_cases
from medseg.review.export import Selection, export_review
from medseg.review.folder import CASE_TAG, open_review
from medseg.review.importing import import_review
from medseg.review.refusal import Refusal, ReviewError
from medseg.review.session import Session
from medseg.review.versions import mask_path, standing
from medseg.review.worklist import entered_verdicts
from medseg.volume import Mask, Source, Volume

from ..quality.results import record, write_results
from .conftest import CASES, LABELS, SHAPE, make_mask, make_results
from .test_corrected import corrected_of
from .test_import import files_below, take, verdict


def export(results, folder=None, selection=None, scans=None):
    root = results.parent
    config = BatchConfig(key=root / "key")
    return export_review(results, scans or root / "scans", folder or root / "review", selection, config=config)


def test_the_folder_is_complete(review):
    for case in review.manifest.cases:
        scan = read_nifti(review.path / case.images[0])
        mask = review.prediction(case)
        assert scan.grid.matches(mask.grid)
        assert mask.grid.matches(case.grid)
        segments = read_seg_nrrd(review.path / case.mask).segments
        assert {segment.tags[CASE_TAG] for segment in segments} == {case.case}
        assert {segment.status for segment in segments} == {"notstarted"}
    names = {path.name for path in review.path.iterdir()}
    assert names == {
        "review.json", "worklist.csv", "review_in_slicer.py", "review_session.py", "scans", "masks", "corrected",
    }  # fmt: skip


def test_it_may_be_moved(review, tmp_path):
    shutil.move(review.path, tmp_path / "elsewhere")
    moved = open_review(tmp_path / "elsewhere")
    verdict(moved, "alpha", "accepted")
    assert take(moved).exit_code == 0


@pytest.mark.parametrize(
    ("selection", "cases"),
    [
        (Selection(), ("gamma.2", "beta", "alpha")),
        (Selection(first=1), ("gamma.2",)),
        (Selection(priority=0.15), ("gamma.2", "beta")),
        (Selection(priority=0.15, first=1), ("gamma.2",)),
        (Selection(priority=0.99), ()),
    ],
)
def test_cases_are_chosen_by_priority(results, selection, cases):
    summary = export(results, selection=selection)
    assert summary.cases == cases
    assert summary.exit_code == (0 if cases else 3)


def test_the_same_again_writes_nothing_anew_and_keeps_all_work(results):
    review = export(results).review
    verdict(review, "alpha", "corrected", corrected_of(make_mask(0)))
    import_review(review.path, key=results.parent / "key")
    before = files_below(review.path)
    again = export(results, selection=Selection(first=1), scans=results)  # scans are not needed again
    assert again.cases == ("gamma.2",)
    assert [case.case for case in again.review.manifest.cases] == ["gamma.2", "alpha"]  # somebody worked on alpha
    after = files_below(review.path)
    changed = {name for name in before if after[name] != before[name]}
    assert changed == {"review.json", "worklist.csv"}
    assert [case.id for case in reviewed_cases(again.review)] == ["alpha"]


def test_scans_are_known_by_their_contents(results):
    scans = results.parent / "scans"
    (scans / "beta.nii.gz").unlink()
    shutil.copy(scans / "alpha.nii.gz", scans / "gamma.2.nii.gz")
    summary = export(results)
    assert summary.cases == ("alpha",)
    assert [case for case, _ in summary.problems] == ["gamma.2", "beta"]
    assert "has changed since it was segmented" in summary.problems[0][1]
    assert "is not in that folder" in summary.problems[1][1]
    assert summary.exit_code == 1


def test_a_mask_that_was_changed_is_not_exported(results):
    shutil.copy(results / "cases" / "alpha" / MASK, results / "cases" / "beta" / MASK)
    assert [case for case, _ in export(results).problems] == ["beta"]


def segment_again(results, case: str, mask: Mask, scan: Volume | None = None) -> None:
    """Act as a later run in the same folder does, perhaps on another scan of the same name."""
    path, place = results.parent / "scans" / f"{case}.nii.gz", results / "cases" / case
    if scan is not None:
        write_volume(path, scan)
    write_mask(place / MASK, mask, Source("nifti", (path,)), LABELS)
    told = json.loads((place / "case.json").read_text())
    told["outputs"] = {MASK: digest_files([place / MASK])}
    told["inputs"]["source"] = digest_files([path])
    (place / "case.json").write_text(json.dumps(told))


@pytest.mark.parametrize("seed", [0, 2], ids=["same mask", "other mask"])
def test_a_verdict_does_not_move_to_another_scan_of_the_name(results, seed):
    review = export(results).review
    verdict(review, "alpha", "accepted")
    take(review)
    other = Volume(np.ones((1, *SHAPE), np.float32), make_mask(0).grid)
    segment_again(results, "alpha", make_mask(seed), other)
    again = export(results)
    assert again.problems == ()
    entry = again.review.case("alpha")
    assert np.array_equal(read_nifti(review.path / entry.images[0]).array, other.array)
    assert standing(again.review, "alpha").version is None
    assert reviewed_cases(again.review) == ()
    assert [one.was_taken for one in take(again.review).taken] == [True]
    assert standing(again.review, "alpha").version is None


def test_a_correction_is_not_lost_when_the_case_is_segmented_again(results):
    review = export(results).review
    verdict(review, "alpha", "corrected", corrected_of(make_mask(0)))
    segment_again(results, "alpha", make_mask(1))
    summary = export(results)
    assert [case for case, _ in summary.problems] == ["alpha"]
    assert "run medseg review import first" in summary.problems[0][1]
    import_review(review.path, key=results.parent / "key")
    again = export(results)
    assert again.problems == ()
    entry = again.review.case("alpha")
    assert np.array_equal(again.review.prediction(entry).array, make_mask(1).array)
    assert len(reviewed_cases(again.review)) == 1  # the correction stands


def enter(review, *rows: str) -> None:
    (review.path / "worklist.csv").write_text("\n".join(["case,status,reviewer", *rows]) + "\n")


def mask_that_holds(review, case: str) -> np.ndarray:
    return read_mask(mask_path(review, standing(review, case).version)).array


def test_a_verdict_in_the_worklist_stays_with_the_mask_that_was_seen(results):
    review = export(results).review
    enter(review, "alpha,accepted,")
    segment_again(results, "alpha", make_mask(1))
    summary = export(results)
    assert [case for case, _ in summary.problems] == ["alpha"]
    assert "run medseg review import first" in summary.problems[0][1]
    assert take(review).exit_code == 0
    again = export(results)
    assert again.problems == ()
    assert entered_verdicts(review.path / "worklist.csv") == {}  # the new mask has no verdict
    assert take(again.review).taken == ()
    assert np.array_equal(mask_that_holds(again.review, "alpha"), make_mask(0).array)

    enter(review, "alpha,accepted,")
    assert not take(again.review).taken[0].was_taken
    assert np.array_equal(mask_that_holds(again.review, "alpha"), make_mask(1).array)
    segment_again(results, "alpha", make_mask(2))
    assert export(results).problems == ()


def test_a_verdict_on_a_misspelt_case_is_named_before_the_worklist_is_written_anew(results):
    review = export(results).review
    enter(review, "alpah,accepted,anna")
    before = (review.path / "worklist.csv").read_bytes()
    with pytest.raises(ReviewError, match="line 2: the review has no case 'alpah'"):
        export(results)
    assert (review.path / "worklist.csv").read_bytes() == before


def test_a_verdict_waits_though_somebody_elses_is_imported(results):
    review = export(results).review
    verdict(review, "alpha", "accepted", who="anna")
    take(review)
    enter(review, "alpha,rejected,bob")
    segment_again(results, "alpha", make_mask(1))
    assert [case for case, _ in export(results).problems] == ["alpha"]


def test_imported_work_never_blocks_later_masks(results):
    review = export(results).review
    verdict(review, "alpha", "corrected", corrected_of(make_mask(0)))
    take(review)
    for seed in (1, 2):
        segment_again(results, "alpha", make_mask(seed))
        assert export(results).problems == ()


def test_verdicts_of_a_copy_that_is_older_than_the_masks_are_refused(results, tmp_path):
    review = export(results).review
    shutil.copytree(review.path, tmp_path / "copy")
    copy = open_review(tmp_path / "copy")
    enter(copy, "alpha,accepted,", "beta,accepted,")
    verdict(copy, "gamma.2", "flagged")
    for case in ("alpha", "gamma.2"):
        segment_again(results, case, make_mask(1))
    scan = Volume(np.ones((1, *SHAPE), np.float32), make_mask(0).grid)
    segment_again(results, "beta", make_mask(0), scan)
    summary = take(export(results).review, copy.path)
    assert summary.taken == ()
    assert {one.case: one.code for one in summary.refused} == {
        "alpha": Refusal.CHANGED_PREDICTION,
        "beta": Refusal.CHANGED_SCAN,
        "gamma.2": Refusal.CHANGED_PREDICTION,
    }


def test_edits_without_a_verdict_keep_their_case_and_its_mask(results):
    review = export(results).review
    session = Session(review.path)
    session.sign_in("ab")
    session.position = [case.case for case in session.cases].index("alpha")
    session.save_work(lambda path: bool(path.write_bytes(b"edits")))
    enter(review, "beta,accepted,")
    first = export(results, selection=Selection(first=1)).review
    assert [case.case for case in first.manifest.cases] == ["gamma.2", "beta", "alpha"]
    assert set(entered_verdicts(review.path / "worklist.csv")) == {"beta"}
    segment_again(results, "alpha", make_mask(1))
    ((case, problem),) = export(results).problems
    assert case == "alpha"
    assert "session/ holds edits of the older mask" in problem
    session.work_path().unlink()
    assert export(results).problems == ()


def test_a_session_asks_again_where_a_rejected_mask_was_drawn_anew(results):
    review = export(results).review
    verdict(review, "alpha", "rejected")
    verdict(review, "beta", "corrected", corrected_of(make_mask(1)))
    take(review)
    for case in ("alpha", "beta"):
        segment_again(results, case, make_mask(2))
    assert export(results).problems == ()
    session = Session(review.path)
    session.sign_in("ab")
    assert session.finished == 1
    by_case = {case.case: session.own_decision(case) for case in session.cases}
    assert by_case["alpha"] is None
    assert by_case["beta"].status == "corrected"  # this mask of the scan stands


def test_a_session_asks_again_where_the_scan_was_replaced(results):
    review = export(results).review
    verdict(review, "alpha", "accepted")
    take(review)
    segment_again(results, "alpha", make_mask(0), Volume(np.ones((1, *SHAPE), np.float32), make_mask(0).grid))
    assert export(results).problems == ()
    session = Session(review.path)
    session.sign_in("ab")
    assert session.finished == 0
    session.position = [case.case for case in session.cases].index("alpha")
    assert session.mask_to_show() == review.path / "masks" / "alpha.seg.nrrd"


def test_sheared_scans_open_in_itk(tmp_path):
    """ITK, with which Slicer reads, refuses sheared NIfTI and takes sheared NRRD."""
    results = make_results(tmp_path / "results", tmp_path / "scans", {"alpha": "sheared"})
    review = export(results).review
    entry = review.case("alpha")
    assert entry.shown == "scans/alpha.nrrd"
    with pytest.raises(RuntimeError, match="orthonormal"):
        sitk.ReadImage(str(review.path / entry.images[0]))
    image = sitk.ReadImage(str(review.path / entry.shown))
    scan = read_nifti(review.path / entry.images[0])
    assert np.array_equal(sitk.GetArrayFromImage(image).transpose(2, 1, 0), scan.array[0])
    world = image.TransformIndexToPhysicalPoint([3, 4, 5])
    assert world == pytest.approx((np.diag([-1, -1, 1, 1]) @ entry.grid.affine @ [3, 4, 5, 1])[:3])
    verdict(review, "alpha", "corrected", corrected_of(make_mask(0, "sheared")))
    assert take(review).refused == ()


def make_dicom_results(root):
    """Two series of one grid, as two patients in one scanner position."""
    records = []
    for number in range(2):
        rng = np.random.default_rng(number)
        volume = Volume(rng.integers(0, 90, (1, *SHAPE)).astype(np.float32), make_mask(0, "lps").grid)
        write_series(volume, root / "scans" / f"s{number}", patient=f"Canary{number}")
    for entry in index_scans(root / "scans", key=root / "key").cases():
        source = entry.images[0]
        mask = make_mask(0, "lps")
        mask = Mask(mask.array, read_scan(source).grid)
        place = root / "results" / "cases" / entry.id
        place.mkdir(parents=True)
        write_mask(place / MASK, mask, source, LABELS)
        records.append(
            record(
                entry.id,
                kind="dicom",
                features=None,
                geometry=Geometry.of(mask.grid),
                inputs=Inputs(source=digest_files(source_files(source)), model="m", settings="s"),
                outputs={MASK: digest_files([place / MASK])},
            )
        )
    write_results(root / "results", records)
    run = json.loads((root / "results" / "run.json").read_text())
    (root / "results" / "run.json").write_text(json.dumps({**run, "labels": LABELS.model_dump(mode="json")}))
    return root / "results"


def test_dicom_series_come_as_nifti_and_their_segmentations_go_back(tmp_path):
    results = make_dicom_results(tmp_path)
    review = export(results).review
    assert all(b"Canary" not in content for content in files_below(review.path).values())
    one, other = review.manifest.cases
    assert one.case.startswith("case-")
    assert one.series != other.series
    sources = {case.id: case.images[0] for case in index_scans(tmp_path / "scans", key=tmp_path / "key").cases()}
    better = Mask(corrected_of(make_mask(0, "lps")).array, one.grid)
    handed_in = tmp_path / "handed_in"
    for entry, source in ((one, one), (other, one)):  # the second is called after the wrong case
        path = handed_in / f"{entry.case}.dcm"
        write_dicom_seg(path, better, LABELS, sources[source.case], Algorithm("somebody", "1"))
    summary = import_review(review.path, handed_in, key=tmp_path / "key")
    assert [taken.version.case for taken in summary.taken] == [one.case]
    assert summary.taken[0].version.status == "corrected"
    (case,) = reviewed_cases(review)
    assert case.patient.startswith("patient-")
    (refused,) = summary.refused
    assert (refused.case, refused.code) == (other.case, Refusal.OTHER_CASE)


def test_a_damaged_segmentation_costs_the_others_nothing(tmp_path):
    review = export(make_dicom_results(tmp_path)).review
    sources = {case.id: case.images[0] for case in index_scans(tmp_path / "scans", key=tmp_path / "key").cases()}
    one, other = (entry.case for entry in review.manifest.cases)
    for case in (one, other):
        mask = Mask(make_mask(0, "lps").array, review.case(case).grid)
        write_dicom_seg(review.path / f"corrected/{case}.dcm", mask, LABELS, sources[case], Algorithm("somebody", "1"))
    path = review.path / f"corrected/{one}.dcm"
    path.write_bytes(path.read_bytes().replace(b"\x20\0\x0e\0UI", b"\x20\0\x0e\0U?"))
    summary = import_review(review.path, key=tmp_path / "key")
    assert [taken.version.case for taken in summary.taken] == [other]
    assert [(refused.case, refused.code) for refused in summary.refused] == [(one, Refusal.UNREADABLE)]


@pytest.mark.parametrize("names", [("liver", "kidney_right", "kidney_left", "tumour"), ("liver",)])
def test_masks_of_other_labels_need_a_folder_of_their_own(results, names):
    before = export(results).review
    verdict(before, "alpha", "accepted")
    told = json.loads((results / "run.json").read_text())
    told["labels"] = {name: value for value, name in enumerate(names, start=1)}
    (results / "run.json").write_text(json.dumps(told))
    with pytest.raises(DatasetError, match="labels of the results .* keep them apart, in folders of their own"):
        export(results)
    assert open_review(before.path).labels == LABELS
    export(results, results.parent / "other review")


def test_wrong_places_are_refused(results, tmp_path):
    with pytest.raises(OutputError, match="review folder .* lies inside the scan folder"):
        export(results, tmp_path / "scans" / "review")
    with pytest.raises(ConfigError, match="no such file or folder"):
        export(results, scans=tmp_path / "nowhere")
    with pytest.raises(OutputError, match="run\\.json"):
        export_review(tmp_path / "scans", tmp_path / "scans", tmp_path / "review")
    with pytest.raises(OutputError, match=r"no review\.json is there"):
        open_review(tmp_path)
    (tmp_path / "review.json").write_text('{"format": 1}')
    with pytest.raises(OutputError, match="export again"):
        open_review(tmp_path)


def test_every_case_is_there(results):
    assert {case.case for case in export(results).review.manifest.cases} == set(CASES)
