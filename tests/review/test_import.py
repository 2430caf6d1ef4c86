"""Taking reviewers' work back: versions, conflicts, refusals one by one, and the dataset that comes of it."""

from __future__ import annotations

import json
import shutil
import stat
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from medseg.catalog.datasets import read_dataset
from medseg.config import DatasetConfig
from medseg.errors import ConfigError, DatasetError, OutputError
from medseg.geometry import Grid
from medseg.io.dicom_write import write_series
from medseg.io.nifti import read_mask, write_mask, write_volume
from medseg.io.scan import read_case
from medseg.provenance import digest_files
from medseg.review.dataset import reviewed_cases, write_dataset, write_joined
from medseg.review.folder import ReviewFolder, open_review, write_manifest
from medseg.review.importing import ImportSummary, import_review
from medseg.review.refusal import Refusal
from medseg.review.results import evaluation, standing_versions, write_reviews
from medseg.review.session import Session
from medseg.review.versions import choose, mask_path, standing, versions_of
from medseg.volume import Mask, Source, Volume

from .conftest import SHAPE, make_mask, segments_of
from .test_corrected import corrected_of


def take(review: ReviewFolder, place: Path | None = None, **options) -> ImportSummary:
    return import_review(review.path, place, key=review.path.parent / "key", **options)


def verdict(review: ReviewFolder, case: str, status: str, mask: Mask | None = None, who: str = "ab", note: str = ""):
    """Act as a reviewer in Slicer does, without Slicer."""
    session = Session(review.path)
    session.sign_in(who)
    session.position = [one.case for one in session.cases].index(case)
    if mask is None:
        entry = review.case(case)
        mask = review.prediction(entry)

    def write(path: Path) -> bool:
        from .conftest import write_layers

        write_layers(path, mask.array[None], mask.grid, segments_of())
        return True

    session.decide(status, note, write)


def files_below(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_a_whole_session_comes_back(review):
    better = corrected_of(make_mask(0))
    verdict(review, "alpha", "corrected", better, note="Mrs Doe, difficult")
    verdict(review, "beta", "accepted")
    verdict(review, "gamma.2", "rejected")
    handed_in = files_below(review.path / "corrected")
    summary = take(review)
    assert (summary.exit_code, summary.refused, summary.conflicts) == (0, (), {})
    by_case = {one.version.case: one.version for one in summary.taken}
    assert {case: version.status for case, version in by_case.items()} == {
        "alpha": "corrected", "beta": "accepted", "gamma.2": "rejected",
    }  # fmt: skip
    assert files_below(review.path / "corrected") == handed_in

    version = by_case["alpha"]
    path = mask_path(review, version)
    assert path == review.path / "reviews" / "alpha" / "v001" / "mask.nii.gz"
    assert np.array_equal(read_mask(path).array, better.array)
    assert version.mask == digest_files([path])
    assert version.prediction == review.case("alpha").prediction
    assert version.reviewer.startswith("reviewer-")
    assert version.decided.endswith("+00:00")
    assert not mask_path(review, by_case["gamma.2"]).exists()


def test_numbers_are_those_of_the_voxels(review):
    before, after = make_mask(0), corrected_of(make_mask(0))
    verdict(review, "alpha", "corrected", after)
    take(review)
    (version,) = standing_versions(review)
    for change, value in zip(version.changes, (1, 2, 3, 4), strict=True):
        old, new = before.array == value, after.array == value
        common = np.count_nonzero(old & new)
        assert change.dice == pytest.approx(2 * common / (old.sum() + new.sum()))
        assert change.kept_ml == pytest.approx(common * before.grid.voxel_ml)
        assert (change.before_ml, change.after_ml) == pytest.approx(
            (old.sum() * before.grid.voxel_ml, new.sum() * before.grid.voxel_ml)
        )
    assert version.changes[2].state == "spurious"  # the model drew a right kidney, and there is none
    dice = [change.dice for change in version.changes]
    assert evaluation(review).mean_dice == pytest.approx(np.mean(dice))
    write_reviews(review, review.path / "reviews.csv")
    lines = (review.path / "reviews.csv").read_text().splitlines()
    assert len(lines) == 5
    row = dict(zip(lines[0].split(","), lines[1].split(","), strict=True))
    added = np.count_nonzero((after.array == 1) & (before.array != 1)) * before.grid.voxel_ml
    assert float(row["added_ml"]) == pytest.approx(added, abs=1e-5)
    assert float(row["removed_ml"]) == 0


def test_comments_and_names_stay_out_of_everything_that_is_shared(review):
    verdict(review, "alpha", "flagged", who="Doctor Who", note="Mrs Canary-4711 again")
    take(review)
    write_reviews(review, review.path / "reviews.csv")
    write_dataset(review)
    comment = review.path / "reviews" / "alpha" / "v001" / "comment.txt"
    assert "Canary" in comment.read_text()
    assert stat.S_IMODE(comment.stat().st_mode) == 0o600
    shared = {
        name: text for name, text in files_below(review.path).items() if not name.startswith(("corrected", "session"))
    }
    assert [name for name, text in shared.items() if b"Canary" in text] == ["reviews/alpha/v001/comment.txt"]
    assert [name for name, text in shared.items() if b"Doctor" in text] == []


def test_the_same_again_is_not_a_new_version(review):
    verdict(review, "alpha", "accepted")
    assert not take(review).taken[0].was_taken
    again = take(review)
    assert again.taken[0].was_taken
    assert again.exit_code == 0
    assert len(versions_of(review.path, "alpha")) == 1


def test_going_back_to_an_earlier_verdict_is_a_new_version(review):
    for status in ("accepted", "rejected", "accepted"):
        (review.path / "worklist.csv").write_text(f"case,status,decided\nalpha,{status},2026-11-20\n")
        assert not take(review).taken[0].was_taken
        assert take(review).taken[0].was_taken
    assert standing(review, "alpha").version.name == "v003"


def test_an_older_verdict_that_still_lies_there_stays_the_older_one(review, tmp_path):
    verdict(review, "alpha", "accepted")
    shutil.copytree(review.path / "corrected", tmp_path / "usb")
    take(review)
    path = review.path / "corrected" / "alpha.json"
    later = {**json.loads(path.read_text()), "status": "rejected", "mask": "", "decided": "2999-01-01T00:00:00+00:00"}
    path.write_text(json.dumps(later))
    take(review)
    assert take(review, tmp_path / "usb").taken[0].was_taken
    assert standing(review, "alpha").version.status == "rejected"


def test_versions_are_never_written_over(review):
    verdict(review, "alpha", "accepted")
    take(review)
    first = files_below(review.path / "reviews")
    verdict(review, "alpha", "corrected", corrected_of(make_mask(0)))
    summary = take(review)
    assert summary.conflicts == {}  # the same reviewer knows better now
    assert [version.name for version in versions_of(review.path, "alpha")] == ["v001", "v002"]
    assert standing(review, "alpha").version.number == 2
    now = files_below(review.path / "reviews")
    assert {name: now[name] for name in first} == first


def test_an_accepted_mask_that_was_edited_counts_as_corrected(review):
    verdict(review, "alpha", "accepted", corrected_of(make_mask(0)))
    assert take(review).taken[0].version.status == "corrected"


def test_two_reviewers_who_disagree_need_a_choice(review, tmp_path):
    verdict(review, "alpha", "accepted", who="ab")
    verdict(review, "alpha", "corrected", corrected_of(make_mask(0)), who="cd")
    names = sorted(path.name for path in (review.path / "corrected").iterdir())
    assert names == ["alpha.json", "alpha.seg.nrrd", "alpha~cd.json", "alpha~cd.seg.nrrd"]
    summary = take(review)
    assert (len(summary.taken), summary.exit_code, list(summary.conflicts)) == (2, 1, ["alpha"])
    assert standing(review, "alpha").version is None
    assert reviewed_cases(review) == ()
    (tmp_path / "nothing").mkdir()
    assert list(take(review, tmp_path / "nothing").conflicts) == ["alpha"]  # until somebody chooses
    choose(review, "alpha", 2)
    assert take(review).conflicts == {}
    (case,) = reviewed_cases(review)
    assert case.mask.parent.name == "v002"

    later = make_mask(2)
    verdict(review, "alpha", "corrected", later, who="ef")
    assert [version.number for version in take(review).conflicts["alpha"]] == [2, 3]  # a new conflict
    with pytest.raises(ConfigError, match="has no version 9; its versions are: v001, v002, v003"):
        choose(review, "alpha", 9)


def test_two_reviewers_who_agree_are_no_conflict(review):
    for who in ("ab", "cd"):
        verdict(review, "alpha", "corrected", corrected_of(make_mask(0)), who=who)
    summary = take(review)
    assert (len(summary.taken), summary.conflicts) == (2, {})
    assert standing(review, "alpha").version is not None


def test_a_flag_is_answered_by_a_colleagues_later_verdict(review):
    verdict(review, "alpha", "flagged", who="anna")
    take(review)
    verdict(review, "alpha", "corrected", corrected_of(make_mask(0)), who="bob")
    summary = take(review)
    assert (summary.exit_code, summary.conflicts) == (0, {})
    assert standing(review, "alpha").version.status == "corrected"


def test_a_flag_on_a_colleagues_verdict_is_a_conflict(review):
    verdict(review, "alpha", "accepted", who="bob")
    take(review)
    verdict(review, "alpha", "flagged", who="anna")
    assert [version.status for version in take(review).conflicts["alpha"]] == ["accepted", "flagged"]


def test_a_rejection_says_nothing_of_a_later_prediction(review):
    verdict(review, "alpha", "rejected", who="anna")
    take(review)
    entry, others = review.case("alpha"), [case for case in review.manifest.cases if case.case != "alpha"]
    redrawn = entry.model_copy(update={"prediction": "another"})
    later = write_manifest(review.path, review.manifest.model_copy(update={"cases": (redrawn, *others)}))
    assert standing(later, "alpha").version is None
    verdict(later, "alpha", "accepted", who="bob")
    assert take(later).conflicts == {}
    assert standing(later, "alpha").version.status == "accepted"


def test_two_masks_of_one_reviewer_that_lie_there_are_taken_once(review, hand_in):
    """Neither is newer, so the first is not said anew after the second at every import."""
    hand_in("alpha", corrected_of(make_mask(0)), "alpha~ab")
    hand_in("alpha", make_mask(0), "alpha~AB")
    assert [one.was_taken for one in take(review).taken] == [False, False]
    assert [one.was_taken for one in take(review).taken] == [True, True]


def test_one_bad_file_costs_only_itself(review, hand_in):
    hand_in("alpha", corrected_of(make_mask(0)))
    hand_in("beta", make_mask(1), segments=segments_of(status="inprogress"))
    hand_in("alpha", make_mask(0), name="gamma.2", segments=segments_of(**{"medseg.Case": "alpha"}))
    hand_in("alpha", make_mask(0), name="nobody")
    (review.path / "corrected" / "half.json").write_text('{"case": "half"')
    (review.path / "corrected" / "Thumbs.db").write_bytes(b"x")
    (review.path / "corrected" / ".tmp-alpha.seg.nrrd").write_bytes(b"x")
    (review.path / "corrected" / "of a colleague").mkdir()
    (review.path / "corrected" / "lost.nii.gz").symlink_to("nowhere")
    summary = take(review)
    assert [one.version.case for one in summary.taken] == ["alpha"]
    assert {one.case: one.code for one in summary.refused} == {
        "Thumbs.db": Refusal.UNREADABLE,
        "half": Refusal.UNREADABLE,
        "beta": Refusal.UNFINISHED,
        "gamma.2": Refusal.OTHER_CASE,
        "nobody": Refusal.UNKNOWN_CASE,
        "of a colleague": Refusal.UNREADABLE,
        "lost": Refusal.UNKNOWN_CASE,
    }
    assert summary.exit_code == 1
    assert [path.name for path in (review.path / "reviews").iterdir()] == ["alpha"]


def test_two_masks_of_one_name_are_refused_and_named(review, hand_in):
    hand_in("alpha", corrected_of(make_mask(0)))
    scan = Source("nifti", (review.path / "scans" / "alpha.nii.gz",))
    write_mask(review.path / "corrected" / "alpha.nii.gz", make_mask(0), scan)
    (review.path / "worklist.csv").write_text("case,status\nalpha,corrected\n")
    summary = take(review)
    assert summary.taken == ()
    (refused,) = summary.refused
    assert refused.code == Refusal.REPEATED_MASK
    assert refused.message.startswith("alpha.nii.gz and alpha.seg.nrrd are masks of the same case")


def test_what_a_session_left_unfinished_is_refused(review):
    verdict(review, "alpha", "accepted")
    path = review.path / "corrected" / "alpha.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "status": "inprogress"}))
    verdict(review, "beta", "accepted")
    (review.path / "corrected" / "beta.seg.nrrd").unlink()
    assert {one.case: one.code for one in take(review).refused} == {
        "alpha": Refusal.UNFINISHED, "beta": Refusal.NO_MASK,
    }  # fmt: skip


def test_a_prediction_that_was_saved_over_is_noticed(review, hand_in):
    path = hand_in("alpha", corrected_of(make_mask(0)))
    (review.path / "masks" / "alpha.seg.nrrd").write_bytes(path.read_bytes())
    (refused,) = take(review).refused
    assert refused.code == Refusal.CHANGED_PREDICTION
    assert "copy it to corrected/alpha.seg.nrrd" in refused.message


def test_masks_come_from_anywhere(review, tmp_path):
    mask = corrected_of(make_mask(0))
    scan = Source("nifti", (review.path / "scans" / "alpha.nii.gz",))
    (tmp_path / "usb").mkdir()
    write_mask(tmp_path / "usb" / "alpha~xy.nii.gz", mask, scan)
    summary = take(review, tmp_path / "usb")
    assert [one.version.status for one in summary.taken] == ["corrected"]
    assert take(review, tmp_path / "usb" / "alpha~xy.nii.gz").taken[0].was_taken
    with pytest.raises(OutputError, match="no such file"):
        take(review, tmp_path / "nothing")


def test_a_full_disk_leaves_nothing_half_written(review, monkeypatch):
    from medseg.review import versions

    verdict(review, "alpha", "accepted")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(versions, "write_mask", full)
    with pytest.raises(OutputError, match="the disk is full"):
        take(review)
    assert list((review.path / "reviews").rglob("*.json")) == []
    monkeypatch.undo()
    assert take(review).taken[0].version.number == 1
    assert [path.name for path in (review.path / "reviews" / "alpha").iterdir()] == ["v001"]


def test_two_imports_at_once_take_two_numbers(review, monkeypatch):
    """The other import takes the number between counting and renaming."""
    from medseg.review import versions

    verdict(review, "alpha", "accepted")
    right = versions.write_mask

    def slow(path, *rest):
        other = review.path / "reviews" / "alpha" / "v001"
        if not other.exists():
            other.mkdir()
            (other / "theirs").write_text("x")
        right(path, *rest)

    monkeypatch.setattr(versions, "write_mask", slow)
    assert take(review).taken[0].version.name == "v002"
    assert [path.name for path in (review.path / "reviews" / "alpha" / "v001").iterdir()] == ["theirs"]


def test_training_reads_the_reviewed_cases(review):
    verdict(review, "alpha", "corrected", corrected_of(make_mask(0)))
    verdict(review, "beta", "accepted")
    verdict(review, "gamma.2", "flagged")
    take(review)
    assert len(write_dataset(review)) == 2
    dataset = read_dataset(DatasetConfig(folder=review.path / "dataset"))
    assert dataset.train == ("alpha", "beta")
    by_name = read_dataset(DatasetConfig(folder=review.path / "dataset", patients="^(.)"))
    assert [case.patient for case in by_name.labelled] == ["a", "b"]
    assert dataset.labels == review.labels
    assert read_mask(dataset.labelled[0].mask).grid.matches(make_mask(0).grid)


def make_original(folder: Path, names: tuple[str, ...], labelled: tuple[str, ...]) -> Path:
    for name in names:
        scan = folder / "images" / f"{name}.nii.gz"
        scan.parent.mkdir(parents=True, exist_ok=True)
        write_volume(scan, Volume(np.zeros((1, *SHAPE), np.float32), make_mask(0).grid))
        (folder / "labels").mkdir(exist_ok=True)
        if name in labelled:
            write_mask(folder / "labels" / f"{name}.nii.gz", make_mask(0), Source("nifti", (scan,)))
    return folder


def test_training_reads_the_original_dataset_and_the_reviewed_cases(review, tmp_path):
    original = make_original(tmp_path / "mine", ("alpha", "beta", "old"), ("beta", "old"))
    for case in ("alpha", "beta", "gamma.2"):
        verdict(review, case, "accepted")
    take(review)
    assert {case.id for case in write_dataset(review, original)} == {"alpha", "gamma.2"}
    dataset = read_dataset(DatasetConfig(folder=review.path / "dataset"))
    masks = {case.id: case.mask.resolve() for case in dataset.labelled}
    assert set(masks) == {"alpha", "beta", "gamma.2", "old"}
    assert masks["alpha"] == (review.path / "reviews/alpha/v001/mask.nii.gz").resolve()
    assert masks["beta"] == (original / "labels/beta.nii.gz").resolve()  # a person drew it
    assert stat.S_IMODE((review.path / "dataset" / "cases.csv").stat().st_mode) == 0o600


def test_the_original_s_files_may_be_called_what_no_case_is(review, tmp_path):
    """The case of a scan "-alpha.nii.gz" is alpha: it is no other one."""
    original = make_original(tmp_path / "mine", ("-alpha", "-beta"), ("-beta",))
    for case in ("alpha", "beta"):
        verdict(review, case, "accepted")
    take(review)
    assert {case.id for case in write_dataset(review, original)} == {"alpha"}
    dataset = read_dataset(DatasetConfig(folder=review.path / "dataset"))
    assert {case.id for case in dataset.cases} == {"alpha", "beta"}
    assert {case.id: case.mask.resolve() for case in dataset.labelled}["beta"] == original / "labels/-beta.nii.gz"


@pytest.mark.parametrize("name", ["山田\u3000太郎", "no\u00a0break", "=1+1", "-old", 'it\'s, "quoted"'])
def test_names_of_folders_and_files_come_through_the_table(review, tmp_path, name):
    original = make_original(tmp_path / name, (name, "old"), ("old",))
    verdict(review, "alpha", "accepted")
    take(review)
    write_dataset(review, original)
    dataset = read_dataset(DatasetConfig(folder=review.path / "dataset"))
    before = read_dataset(DatasetConfig(folder=original))
    assert {case.id for case in dataset.cases} == {"alpha", *(case.id for case in before.cases)}


def test_held_out_cases_stay_held_out(review, tmp_path):
    original = make_original(tmp_path / "mine", ("alpha", "beta", "old"), ("beta", "old"))
    rows = [("alpha", "", "test"), ("beta", "labels/beta.nii.gz", "val"), ("old", "labels/old.nii.gz", "train")]
    table = "\n".join(["case,image,mask,split", *(f"{c},images/{c}.nii.gz,{m},{s}" for c, m, s in rows)])
    (original / "cases.csv").write_text(table)
    for case in ("alpha", "beta", "gamma.2"):
        verdict(review, case, "accepted")
    take(review)
    write_dataset(review, original / "cases.csv")
    dataset = read_dataset(DatasetConfig(folder=review.path / "dataset"))
    assert (dataset.train, dataset.validation, dataset.test) == (("gamma.2", "old"), ("beta",), ("alpha",))


def test_the_original_s_cases_are_known_by_their_scans(review, tmp_path):
    """DICOM series and scans with pseudonyms are called otherwise in a review than in the dataset."""
    original = make_original(tmp_path / "mine", ("one", "two", "old"), ("two", "old"))
    series = write_series(Volume(np.zeros((1, *SHAPE), np.float32), Grid(SHAPE, np.eye(4))), original / "images/three")
    for number, file in enumerate(reversed(series.files)):
        file.rename(file.with_name(f"{number}.dcm"))  # not in the order of the slices
    ordered = [series.files[0].with_name(f"{number}.dcm") for number in reversed(range(len(series.files)))]
    rows = [
        ("one", "one.nii.gz", "", ""), ("two", "two.nii.gz", "two.nii.gz", "train"),
        ("three", "three", "old.nii.gz", "validation"), ("old", "old.nii.gz", "old.nii.gz", "train"),
    ]  # fmt: skip
    table = [f"{c},images/{image},{mask and f'labels/{mask}'},{split}" for c, image, mask, split in rows]
    (original / "cases.csv").write_text("\n".join(["case,image,mask,split", *table]))
    write_volume(original / "images/one.nii.gz", Volume(np.ones((1, *SHAPE), np.float32), make_mask(0).grid))
    write_volume(original / "images/old.nii.gz", Volume(np.ones((1, *SHAPE), np.float32) * 2, make_mask(0).grid))
    scans = {"alpha": [original / "images/one.nii.gz"], "beta": [original / "images/two.nii.gz"], "gamma.2": ordered}
    renamed = [case.model_copy(update={"source": digest_files(scans[case.case])}) for case in review.manifest.cases]
    write_manifest(review.path, review.manifest.model_copy(update={"cases": tuple(renamed)}))
    review = open_review(review.path)
    for case in scans:
        verdict(review, case, "accepted")
    take(review)
    assert {case.id for case in write_dataset(review, original / "cases.csv")} == {"alpha"}
    dataset = read_dataset(DatasetConfig(folder=review.path / "dataset"))
    assert {case.id for case in dataset.cases} == {"alpha", "two", "three", "old"}
    assert (dataset.train, dataset.validation) == (("alpha", "old", "two"), ("three",))


def test_a_dataset_with_channels_along_the_fourth_axis_takes_the_reviewed_cases(review, tmp_path):
    """As the Decathlon's have them, while a review has a file a channel."""
    original = make_original(tmp_path / "mine", ("old",), ("old",))
    grid = make_mask(0).grid
    write_volume(original / "images/old.nii.gz", Volume(np.ones((2, *SHAPE), np.float32), grid))
    (original / "dataset.json").write_text(json.dumps({"channel_names": {"0": "T1", "1": "CT"}}))
    second = Volume(np.full((1, *SHAPE), 7.5, np.float32), grid)
    write_volume(review.path / "scans/alpha_0001.nii.gz", second)
    images = (*review.case("alpha").images, "scans/alpha_0001.nii.gz")
    cases = [case.model_copy(update={"images": images}) for case in review.manifest.cases if case.case == "alpha"]
    write_manifest(review.path, review.manifest.model_copy(update={"cases": tuple(cases)}))
    review = open_review(review.path)
    verdict(review, "alpha", "accepted")
    take(review)
    expected = read_case(reviewed_cases(review)[0])[0]
    write_dataset(review, original)
    dataset = read_dataset(DatasetConfig(folder=review.path / "dataset"))
    assert (dataset.train, dataset.channels, dataset.modalities) == (("alpha", "old"), ("T1", "CT"), ("mr", "ct"))
    write_joined(tmp_path / "round", read_dataset(DatasetConfig(folder=original)), reviewed_cases(review), ())
    joined = read_dataset(DatasetConfig(folder=tmp_path / "round"))
    assert (joined.train, joined.channels) == (dataset.train, dataset.channels)
    for read in (dataset, joined):
        volume, mask = read_case(read.select(["alpha"])[0])
        assert np.array_equal(volume.array, expected.array)
        assert mask is not None
        assert volume.grid.matches(expected.grid)


@pytest.mark.parametrize(
    ("document", "given"), [("dataset.json", ""), ("labels.json", ""), ("labels.yaml", "table.csv")]
)
def test_a_dataset_of_other_labels_is_refused(review, tmp_path, document, given):
    original = make_original(tmp_path / "mine", ("old",), ("old",))
    labels = {"background": 0, "tumour": 1, "liver": 4}
    (original / document).write_text(json.dumps({"labels": labels} if document == "dataset.json" else labels))
    (original / "table.csv").write_text("image,mask\nimages/old.nii.gz,labels/old.nii.gz\n")
    with pytest.raises(DatasetError, match="masks of both would not mean the same"):
        write_dataset(review, original / given)


def test_terms_can_be_stated(review, hand_in):
    segments = segments_of()
    segments[0] = replace(segments[0], name="Leber")
    hand_in("alpha", make_mask(0), segments=segments)
    assert take(review).refused[0].code == Refusal.RENAMED_SEGMENT
    assert take(review, renamed={"Leber": "liver"}).exit_code == 0
    with pytest.raises(ConfigError, match="no label is called lever"):
        take(review, renamed={"Leber": "lever"})
