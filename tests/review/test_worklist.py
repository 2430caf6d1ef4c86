"""worklist.csv as SlicerCaseIterator reads it, and as spreadsheets leave it."""

from __future__ import annotations

import csv
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medseg.review.refusal import Refusal, ReviewError
from medseg.review.worklist import HEADER, entered_verdicts, read_worklist, write_worklist

from .test_import import take


def test_slicer_case_iterator_finds_scan_and_mask(review):
    """It joins path, image and mask, and takes the table's folder for what is relative (CsvTableIterator.py)."""
    with (review.path / "worklist.csv").open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert tuple(rows[0]) == HEADER
    assert [row["case"] for row in rows] == ["gamma.2", "beta", "alpha"]
    assert [float(row["priority"]) for row in rows] == sorted((float(row["priority"]) for row in rows), reverse=True)
    for row in rows:
        for column in ("image", "mask"):
            assert (review.path / row["path"] / row[column]).is_file()
        assert row["mask"].endswith(".seg.nrrd")


TABLE = "case,status,reviewer,decided,comment\nalpha,accepted,ab,2026-11-20,fine\nbeta,,,,\n"


@pytest.mark.parametrize(
    "content",
    [
        TABLE.encode(),
        TABLE.replace("\n", "\r\n").encode("utf-8-sig"),
        TABLE.replace(",", ";").replace("\n", "\r\n").encode("utf-8-sig"),
        TABLE.replace(",", "\t").encode("utf-16"),
        TABLE.replace("2026-11-20", "46346").encode(),
        TABLE.replace("2026-11-20", "20.11.2026").encode(),
        TABLE.replace("accepted", " Accept ").encode(),
        b"STATUS,Case,note,comment,decided,reviewer\naccepted,alpha,x,fine,2026-11-20,ab\n",
        b"case;status;reviewer;decided;comment;;\nalpha;accepted;ab;2026-11-20;fine;;\n;;;;;;\n",
    ],
)
def test_what_spreadsheets_make_of_it_is_read(tmp_path, content):
    path = tmp_path / "worklist.csv"
    path.write_bytes(content)
    rows, problems = read_worklist(path)
    assert problems == []
    (row,) = rows
    assert (row.case, row.status, row.reviewer, row.decided, row.comment) == (
        "alpha", "accepted", "ab", "2026-11-20", "fine",
    )  # fmt: skip


def test_other_encodings_keep_their_letters(tmp_path):
    path = tmp_path / "worklist.csv"
    path.write_bytes("case;status;comment\nalpha;flagged;größer\n".encode("cp1252"))
    assert read_worklist(path)[0][0].comment == "größer"


def test_columns_may_be_deleted(tmp_path):
    path = tmp_path / "worklist.csv"
    path.write_text("case,priority\nalpha,0.5\n")
    assert read_worklist(path) == ([], [])
    path.write_text("status,priority\naccepted,0.5\n")
    with pytest.raises(ReviewError, match="line 2: a status without a case") as caught:
        read_worklist(path)
    assert caught.value.code == Refusal.WORKLIST


def test_entries_that_mean_nothing_are_named(tmp_path):
    path = tmp_path / "worklist.csv"
    path.write_text("case,status,decided\nalpha,perhaps,\nbeta,accepted,11/12/26\ngamma.2,accepted,\n")
    rows, problems = read_worklist(path)
    assert [row.case for row in rows] == ["gamma.2"]
    assert [(bad.case, bad.message) for bad in problems] == [
        ("alpha", "worklist.csv, line 2: 'perhaps' is no status; write accepted, corrected, flagged, rejected"),
        ("beta", "worklist.csv, line 3: '11/12/26' is no date; write it as 2025-12-09"),
    ]


@given(st.binary(max_size=200))
def test_no_content_crashes_it(tmp_path_factory, content):
    path = tmp_path_factory.mktemp("any") / "worklist.csv"
    path.write_bytes(content)
    with suppress(ReviewError):
        read_worklist(path)


def test_verdicts_in_the_table_are_taken(review, hand_in):
    from .conftest import make_mask, segments_of
    from .test_corrected import corrected_of

    hand_in("alpha", corrected_of(make_mask(0)), segments=segments_of(status="inprogress"))
    path = review.path / "worklist.csv"
    path.write_text("case,status\nalpha,corrected\nbeta,accepted\ngamma.2,corrected\n02. Mrz,accepted\n")
    summary = take(review)
    assert {one.version.case: one.version.status for one in summary.taken} == {"alpha": "corrected", "beta": "accepted"}
    assert {one.case: one.code for one in summary.refused} == {
        "gamma.2": Refusal.NO_MASK,  # corrected, but where?
        "02. Mrz": Refusal.UNKNOWN_CASE,
    }


@pytest.mark.parametrize("name", ["alpha~anna", "alpha~Anna"])
@pytest.mark.parametrize("reviewer", ["anna", ""])
def test_a_row_finishes_the_mask_of_its_reviewer(review, hand_in, name, reviewer):
    from .conftest import make_mask, segments_of
    from .test_corrected import corrected_of

    hand_in("alpha", corrected_of(make_mask(0)), name=name, segments=segments_of(status="inprogress"))
    (review.path / "worklist.csv").write_text(f"case,status,reviewer\nalpha,accepted,{reviewer}\n")
    summary = take(review)
    assert summary.refused == ()
    assert [one.version.status for one in summary.taken] == ["corrected"]


def test_a_row_without_a_reviewer_says_nothing_of_several_peoples_masks(review, hand_in):
    from .conftest import make_mask, segments_of

    for name in ("alpha~anna", "alpha~bob"):
        hand_in("alpha", make_mask(0), name=name, segments=segments_of(status="inprogress"))
    (review.path / "worklist.csv").write_text("case,status\nalpha,accepted\n")
    summary = take(review)
    assert summary.taken == ()
    assert [one.code for one in summary.refused] == [Refusal.WORKLIST, Refusal.UNFINISHED, Refusal.UNFINISHED]
    assert "line 2: several people handed in alpha; write into the column reviewer" in summary.refused[0].message


def test_a_row_of_somebody_without_a_file_is_that_persons_own(review, hand_in):
    from .conftest import make_mask
    from .test_corrected import corrected_of

    hand_in("alpha", corrected_of(make_mask(0)), name="alpha~anna")
    (review.path / "worklist.csv").write_text("case,status,reviewer\nalpha,accepted,bob\n")
    summary = take(review)
    assert sorted(one.version.status for one in summary.taken) == ["accepted", "corrected"]
    assert list(summary.conflicts) == ["alpha"]


def test_a_row_of_another_reviewer_than_the_sessions_is_no_contradiction_in_the_table(review):
    from .test_import import verdict

    verdict(review, "alpha", "rejected", who="anna")
    (review.path / "worklist.csv").write_text("case,status,reviewer\nalpha,accepted,bob\nbeta,accepted,\n")
    summary = take(review)
    assert summary.refused == ()
    assert list(summary.conflicts) == ["alpha"]


def test_a_row_that_contradicts_a_session_is_refused(review):
    from .test_import import verdict

    verdict(review, "alpha", "rejected")
    (review.path / "worklist.csv").write_text("case,status\nalpha,accepted\n")
    summary = take(review)
    assert summary.taken == ()
    assert summary.refused[0].code == Refusal.WORKLIST


def test_verdicts_of_several_people_on_a_case_outlive_a_new_export(review):
    path = review.path / "worklist.csv"
    path.write_text("case,status,reviewer\nalpha,accepted,anna\nbeta,flagged,anna\nalpha,rejected,bob\n")
    write_worklist(path, review.manifest, entered_verdicts(path))
    rows, _ = read_worklist(path)
    assert [(row.case, row.status, row.reviewer) for row in rows] == [
        ("beta", "flagged", "anna"),
        ("alpha", "accepted", "anna"),
        ("alpha", "rejected", "bob"),
    ]


def test_verdicts_outlive_a_new_export(review):
    path = review.path / "worklist.csv"
    path.write_text("case,status,comment\nalpha,flagged,=HYPERLINK(1)\n")
    entered = entered_verdicts(path)
    write_worklist(path, review.manifest, entered)
    assert [row.comment for row in entered_verdicts(path)["alpha"]] == ["=HYPERLINK(1)"]
    assert "'=HYPERLINK" in path.read_text()
    path.write_text("case,status\nalpha,perhaps\n")
    with pytest.raises(ReviewError, match="repair it"):
        entered_verdicts(path)
