"""Catalogues become cases: channels together, refusals by name, nothing lost."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from medseg.batch.listing import list_cases
from medseg.catalog.entries import Catalog, CatalogEntry
from medseg.errors import ReasonCode
from medseg.volume import Source


def accepted(path, case, kind="nifti"):
    return CatalogEntry("accepted", (Path(path),), case, source=Source(kind, (Path(path),)), path=Path(path))


def catalog(*entries):
    return Catalog(Path("/scans"), entries)


def test_one_channel_takes_every_file_as_it_is():
    listing = list_cases(catalog(accepted("x_0000.nii.gz", "x_0000"), accepted("x_0001.nii.gz", "x_0001")))
    assert [case.id for case in listing.cases] == ["x_0000", "x_0001"]


def test_channel_files_of_one_folder_are_one_case_in_their_order():
    listing = list_cases(
        catalog(
            accepted("a/x_0001.nii.gz", "a_x_0001"),
            accepted("a/x_0000.nii.gz", "a_x_0000"),
            accepted("b/x_0000.nii.gz", "b_x_0000"),
            accepted("b/x_0001.nii.gz", "b_x_0001"),
            accepted("whole.nii.gz", "whole"),
            accepted("series", "case-1", "dicom"),
        ),
        channels=2,
    )
    assert {case.id: [str(source.files[0]) for source in case.images] for case in listing.cases} == {
        "whole": ["whole.nii.gz"],
        "case-1": ["series"],
        "a_x": ["a/x_0000.nii.gz", "a/x_0001.nii.gz"],
        "b_x": ["b/x_0000.nii.gz", "b/x_0001.nii.gz"],
    }
    assert listing.sources["a_x"] == Path("a/x_0000.nii.gz")


def test_a_missing_channel_rejects_the_case():
    listing = list_cases(catalog(accepted("x_0000.nii.gz", "x_0000")), channels=2)
    assert listing.cases == ()
    (rejected,) = listing.rejected
    assert (rejected.case, rejected.reason) == ("x", ReasonCode.CHANNELS_MISMATCH)


@pytest.mark.parametrize(
    "files", [("x_0000.nii", "x_0002.nii"), ("x_0001.nii", "x_0002.nii"), ("x_0000.nii", "x_0000.nii.gz")]
)
def test_channels_are_those_that_files_are_named_after(files):
    """As many files as the model has channels, and yet the second channel isn't there, or the first."""
    listing = list_cases(catalog(*(accepted(file, file.partition(".")[0]) for file in files)), channels=2)
    assert listing.cases == ()
    assert [(rejected.case, rejected.reason) for rejected in listing.rejected] == [("x", "CHANNELS_MISMATCH")]
    assert "the model takes 0000, 0001" in listing.rejected[0].message


def test_channels_are_known_whatever_the_ending():
    names = ("x_0000.NII.GZ", "x_0001.NII.GZ", "y_0000.hdr", "y_0001.hdr")
    listing = list_cases(catalog(*(accepted(name, name.partition(".")[0]) for name in names)), channels=2)
    assert [case.id for case in listing.cases] == ["x", "y"]


def test_a_case_never_takes_the_name_of_another():
    entries = [accepted("x_0000.nii.gz", "x_0000"), accepted("x_0001.nii.gz", "x_0001")]
    other = accepted("other/x.nii.gz", "x")
    listing = list_cases(catalog(*entries, other), channels=2)
    names = [case.id for case in listing.cases]
    assert len(set(names)) == len(names) == 2


def test_refused_and_left_out_files_are_accounted_for():
    listing = list_cases(
        catalog(
            CatalogEntry("refused", (Path("a"),), "", ReasonCode.UNREADABLE, "can't be opened", path=Path("a")),
            CatalogEntry("refused", (Path("b"),), "cut", ReasonCode.TRUNCATED, "is cut short", path=Path("b.nii")),
            CatalogEntry("refused", (Path("c"),), "", ReasonCode.UNREADABLE, "can't be opened", path=Path("c")),
            CatalogEntry("skipped", (Path("d"), Path("e")), reason=ReasonCode.LOCALIZER),
            CatalogEntry("skipped", (Path("f"),), reason=ReasonCode.NOT_A_SCAN),
            CatalogEntry("skipped", (Path("g"),), reason=ReasonCode.LOCALIZER),
        )
    )
    assert [(result.case, result.reason) for result in listing.rejected] == [
        ("unreadable_1", "UNREADABLE"),
        ("cut", "TRUNCATED"),
        ("unreadable_2", "UNREADABLE"),
    ]
    assert listing.sources == {"unreadable_1": Path("a"), "cut": Path("b.nii"), "unreadable_2": Path("c")}
    assert listing.left_out == {"LOCALIZER": 3, "NOT_A_SCAN": 1}


def test_what_the_index_noticed_goes_with_the_case():
    flagged = replace(accepted("series", "case-1", "dicom"), flags=(ReasonCode.DUPLICATE,))
    parts = [replace(accepted(f"x_000{n}.nii", f"x_000{n}"), flags=(ReasonCode.QFORM_SFORM_DISAGREE,)) for n in (0, 1)]
    flags = {case.id: case.flags for case in list_cases(catalog(flagged, *parts), channels=2).cases}
    assert flags == {"case-1": (ReasonCode.DUPLICATE,), "x": (ReasonCode.QFORM_SFORM_DISAGREE,)}
