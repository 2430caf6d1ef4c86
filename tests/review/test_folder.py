"""The record of a review folder is read, or refused in a sentence."""

from __future__ import annotations

import json

import pytest

from medseg.errors import OutputError
from medseg.review.folder import open_review
from medseg.review.refusal import Refusal, ReviewError


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("case", "../../outside"),
        ("case", ".hidden"),
        ("case", "a/b"),
        ("case", ""),
        ("mask", "/etc/passwd"),
        ("mask", "masks/../../x.seg.nrrd"),
        ("shown", "corrected/alpha.seg.nrrd"),
        ("images", ["scans/../../x.nii.gz"]),
        ("images", []),
        ("surprise", 1),
    ],
)
def test_names_in_a_record_are_no_paths(review, field, value):
    path = review.path / "review.json"
    record = json.loads(path.read_text())
    record["cases"][0][field] = value
    path.write_text(json.dumps(record))
    with pytest.raises(OutputError, match="export again"):
        open_review(review.path)


def test_a_case_that_is_not_there(review):
    with pytest.raises(ReviewError, match="none of the 3 cases") as caught:
        review.case("../alpha")
    assert caught.value.code == Refusal.UNKNOWN_CASE


def test_it_reads_what_it_wrote(review):
    assert open_review(review.path).manifest == review.manifest
