"""``medseg review``: from the results of a batch to a dataset with what a person corrected."""

from __future__ import annotations

import shutil

import numpy as np

from medseg.catalog.datasets import read_dataset
from medseg.config import DatasetConfig
from medseg.io.nifti import read_mask, write_mask
from medseg.review.folder import open_review
from medseg.volume import Mask, Source

from ..cli.conftest import model, scans  # noqa: F401
from .test_import import verdict


def test_a_round_from_a_real_batch(medseg, model, scans, tmp_path):  # noqa: F811
    results, folder = tmp_path / "out", tmp_path / "review"
    words = (
        "segment",
        scans,
        "-m",
        model,
        "-o",
        results,
        "--no-pictures",
        "--no-report",
        "--pseudonymize",
        "--workers",
        0,
    )
    assert medseg(*words).exit_code == 0
    done = medseg("review", "export", results, "--scans", scans, "-o", folder, "--first", 2)
    assert done.exit_code == 0, done.stderr
    assert "2 cases to review" in done.stdout
    review = open_review(folder)
    assert all(case.case.startswith("case-") for case in review.manifest.cases)
    names = [path.name for path in folder.rglob("*")]
    assert not [name for name in names if "scan." in name or "other" in name]  # what the scans are called

    case = review.manifest.cases[0]
    prediction = review.prediction(case)
    changed = prediction.array.copy()
    changed[:5] = 0
    scan = Source("nifti", (folder / case.images[0],))
    write_mask(folder / "corrected" / f"{case.case}.nii.gz", Mask(changed, prediction.grid), scan)
    done = medseg("review", "import", folder)
    assert done.exit_code == 0, done.stderr
    assert "1 verdicts taken (1 corrected), 0 known before" in done.stdout
    assert "mean" in done.stdout
    assert "1 cases to train on" in done.stdout
    (labelled,) = read_dataset(DatasetConfig(folder=folder / "dataset")).labelled
    assert np.array_equal(read_mask(labelled.mask).array, changed)
    assert "0 verdicts taken (nothing new), 1 known before" in medseg("review", "import", folder).stdout


def test_a_conflict_is_told_and_chosen(medseg, review):
    verdict(review, "alpha", "accepted", who="ab")
    verdict(review, "alpha", "rejected", who="cd")
    done = medseg("review", "import", review.path)
    assert done.exit_code == 1
    assert "in conflict alpha: v001" in done.stdout
    assert "--choose alpha=VERSION" in done.stdout
    for lies_there in (True, False):  # what was handed in elsewhere, or to a server, does not
        done = medseg("review", "import", review.path, "--choose", "alpha=v001")
        assert done.exit_code == 0, lies_there
        assert "1 cases to train on" in done.stdout
        shutil.rmtree(review.path / "corrected")
        (review.path / "corrected").mkdir()


def test_refusals_are_told(medseg, review, hand_in):
    from .conftest import make_mask

    hand_in("alpha", make_mask(0), segments=[])
    done = medseg("review", "import", review.path)
    assert done.exit_code == 3
    assert "refused alpha (MISSING_SEGMENT)" in done.stdout


def test_wrong_words_end_in_one_sentence(medseg, review, tmp_path):
    for words, sentence in (
        (("review", "import", tmp_path), "no review.json is there"),
        (("review", "import", review.path, "--choose", "alpha"), "write it as CASE=VERSION"),
        (("review", "import", review.path, "--choose", "alpha=first"), "is no version"),
        (("review", "import", review.path, "--choose", "alpha=3"), "its versions are: none"),
        (("review", "import", review.path, "--renamed", "=liver"), "write it as SEGMENT=LABEL"),
        (("review", "export", tmp_path, "--scans", review.path / "scans"), "run.json"),
    ):
        done = medseg(*words)
        assert done.exit_code == 2
        assert sentence in done.stderr


def test_a_wrong_dataset_is_said_before_anything_is_taken(medseg, review, tmp_path):
    verdict(review, "alpha", "accepted")
    for name in ("images", "labels"):
        (tmp_path / "mine" / name).mkdir(parents=True)
    shutil.copy(review.path / "scans" / "alpha.nii.gz", tmp_path / "mine" / "images")
    (tmp_path / "mine" / "labels.json").write_text('{"tumour": 1}')
    for dataset, sentence in ((tmp_path / "mine", "labels of the original dataset"), (tmp_path, "unknown layout")):
        done = medseg("review", "import", review.path, "--dataset", dataset)
        assert done.exit_code == 2
        assert sentence in done.stderr
        assert not (review.path / "reviews").exists()


def test_help_has_an_example_of_each(medseg):
    assert "export" in medseg("review").output
    for verb in ("export", "import"):
        shown = medseg("review", verb, "--help")
        assert shown.exit_code == 0
        assert f"Example: medseg review {verb}" in shown.stdout
