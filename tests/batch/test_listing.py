"""Catalogues become cases: channels together, refusals by name, nothing lost."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from medseg.batch.listing import list_cases
from medseg.catalog.anonymous import without_names
from medseg.catalog.entries import Catalog, CatalogEntry
from medseg.catalog.index import index_scans
from medseg.config import IngestConfig
from medseg.errors import ReasonCode
from medseg.geometry import Grid
from medseg.io.nifti import write_volume
from medseg.io.scan import read_case
from medseg.volume import Source, Volume


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


def test_a_refused_file_of_the_same_name_keeps_its_own_row():
    whole = CatalogEntry(
        "refused", (Path("X.nii"),), "X", ReasonCode.NOT_3D, "X.nii has 4 dimensions", path=Path("X.nii")
    )
    listing = list_cases(catalog(accepted("x_0000.nii", "x_0000"), accepted("x_0001.nii", "x_0001"), whole), channels=2)
    assert [case.id for case in listing.cases] == ["x_0000"]
    assert {name: str(path) for name, path in listing.sources.items()} == {"x_0000": "x_0000.nii", "X": "X.nii"}


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


def test_the_number_of_an_unreadable_file_is_no_name_of_a_scan():
    lost = CatalogEntry("refused", (Path("a"),), "", ReasonCode.UNREADABLE, "can't be opened", path=Path("a"))
    listing = list_cases(catalog(lost, accepted("unreadable_1.nii", "unreadable_1")))
    assert listing.sources == {"unreadable_1": Path("unreadable_1.nii"), "unreadable_2": Path("a")}


def test_what_the_index_noticed_goes_with_the_case():
    flagged = replace(accepted("series", "case-1", "dicom"), flags=(ReasonCode.DUPLICATE,))
    parts = [replace(accepted(f"x_000{n}.nii", f"x_000{n}"), flags=(ReasonCode.QFORM_SFORM_DISAGREE,)) for n in (0, 1)]
    flags = {case.id: case.flags for case in list_cases(catalog(flagged, *parts), channels=2).cases}
    assert flags == {"case-1": (ReasonCode.DUPLICATE,), "x": (ReasonCode.QFORM_SFORM_DISAGREE,)}


class TestStacks:
    """NIfTI files with a fourth axis, which may be channels, as the Decathlon's are, or time."""

    @pytest.fixture
    def scans(self, tmp_path):
        for name, channels in (("anna", 3), ("berta", 5), ("carla", 1)):
            array = np.random.default_rng(channels).normal(size=(channels, 6, 5, 4)).astype(np.float32)
            write_volume(tmp_path / "scans" / f"{name}.nii.gz", Volume(array, Grid((6, 5, 4), np.eye(4))))
        return tmp_path / "scans"

    def test_a_fourth_axis_of_as_many_channels_as_the_model_takes_is_a_scan(self, scans):
        listing = list_cases(index_scans(scans), channels=3)
        assert [case.id for case in listing.cases] == ["anna", "carla"]
        (entry,) = listing.entries["anna"]
        assert (entry.shape, entry.axcodes, entry.patient) == ((6, 5, 4), "RAS", "anna")
        assert read_case(listing.cases[0])[0].array.shape == (3, 6, 5, 4)

    def test_numbers_at_the_end_of_their_names_are_no_channels(self, scans):
        for name in ("anna", "berta", "carla"):
            (scans / f"{name}.nii.gz").unlink()
        for number, channels in enumerate((3, 3, 1, 1, 1)):
            name = f"patient_{number:04}" if channels == 3 else f"dora_{number - 2:04}"
            array = np.ones((channels, 6, 5, 4), np.float32)
            write_volume(scans / f"{name}.nii.gz", Volume(array, Grid((6, 5, 4), np.eye(4))))
        listing = list_cases(index_scans(scans), channels=3)
        assert listing.rejected == ()
        assert [case.id for case in listing.cases] == ["patient_0000", "patient_0001", "dora"]

    def test_one_of_another_length_is_refused_with_both_numbers(self, scans):
        (refused,) = list_cases(index_scans(scans), channels=3).rejected
        assert (refused.case, refused.reason) == ("berta", "CHANNELS_MISMATCH")
        assert "berta holds 5 volumes along its fourth axis, the model takes 3 channels" in refused.message

    def test_models_of_one_channel_take_none(self, scans):
        listing = list_cases(index_scans(scans))
        assert [case.id for case in listing.cases] == ["carla"]
        assert [refused.reason for refused in listing.rejected] == ["NOT_3D", "NOT_3D"]

    def test_it_is_read_by_the_policies_that_it_was_indexed_with(self, scans):
        affine = np.array([[1, 0.3, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]])
        write_volume(scans / "sheared.nii", Volume(np.ones((3, 6, 5, 4), np.float32), Grid((6, 5, 4), affine)))
        strict = IngestConfig(nonorthonormal_affine="reject")
        listings = [list_cases(index_scans(scans, policy=policy), channels=3) for policy in (None, strict)]
        assert ["sheared" in listing.entries for listing in listings] == [True, False]

    def test_pseudonyms_hide_its_name(self, scans, tmp_path):
        listing = list_cases(without_names(index_scans(scans), tmp_path / "key"), channels=3)
        said = [*(case.id for case in listing.cases), *(refused.message for refused in listing.rejected)]
        assert len(said) == 3
        assert not any(name in text for text in said for name in ("anna", "berta", "carla"))
