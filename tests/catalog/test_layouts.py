"""Every layout is read as it is; what is wrong with one is said in a sentence that names it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from medseg.catalog.layouts import read_listing
from medseg.catalog.sources import sound_case
from medseg.config import IngestConfig
from medseg.errors import DatasetError
from medseg.io.scan import inspect_scan, read_scan

ScanWriter = Callable[..., Path]


def ids(folder: Path) -> list[str]:
    return [case.id for case in read_listing(folder).cases]


def write_json(path: Path, document: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document))
    return path


class TestPaired:
    def test_cases_and_masks_meet_by_name(self, paired: Path) -> None:
        listing = read_listing(paired)
        assert {case.id: case.mask.name if case.mask else None for case in listing.cases} == {
            "a": "a.nii.gz", "b": "b.nii.gz", "c": "c.nii.gz", "d": None,
        }  # fmt: skip
        assert all(len(case.images) == 1 and case.images[0].kind == "nifti" for case in listing.cases)

    def test_endings_of_image_and_mask_may_differ(
        self, tmp_path: Path, write_scan: ScanWriter, write_mask: ScanWriter
    ) -> None:
        write_scan(tmp_path / "images" / "a.nii")
        write_scan(tmp_path / "images" / "b.img")
        write_mask(tmp_path / "labels" / "a.nii.gz")
        write_mask(tmp_path / "labels" / "b.nii")
        assert ids(tmp_path) == ["a", "b"]

    def test_numbered_names_are_channels(self, tmp_path: Path, write_scan: ScanWriter, write_mask: ScanWriter) -> None:
        for case in ("x", "y"):
            write_scan(tmp_path / "images" / f"{case}_0001.nii.gz", seed=1)
            write_scan(tmp_path / "images" / f"{case}_0000.nii.gz", seed=2)
            write_mask(tmp_path / "labels" / f"{case}.nii.gz")
        first = read_listing(tmp_path).cases[0]
        assert first.id == "x"
        assert [source.files[0].name for source in first.images] == ["x_0000.nii.gz", "x_0001.nii.gz"]

    def test_numbered_names_that_masks_share_are_cases(
        self, tmp_path: Path, write_scan: ScanWriter, write_mask: ScanWriter
    ) -> None:
        for number in range(3):
            write_scan(tmp_path / "images" / f"scan_{number:04d}.nii.gz", seed=number)
        write_mask(tmp_path / "labels" / "scan_0001.nii.gz")
        assert ids(tmp_path) == ["scan_0000", "scan_0001", "scan_0002"]

    def test_a_folder_is_a_dicom_case_in_slice_order(
        self, tmp_path: Path, write_series: ScanWriter, write_mask: ScanWriter
    ) -> None:
        write_series(tmp_path / "images" / "patient7")
        write_mask(tmp_path / "labels" / "patient7.nii.gz")
        case, _ = sound_case(read_listing(tmp_path).cases[0], IngestConfig())
        assert case.id == "patient7"
        assert [path.name for path in case.images[0].files] == ["3", "1", "4", "2"]
        assert read_scan(case.images[0]).array.shape == (1, 6, 5, 4)

    def test_hidden_files_and_notes_are_passed_over(self, paired: Path) -> None:
        (paired / "images" / "._a.nii.gz").write_bytes(b"twin")
        (paired / "images" / "README.txt").write_text("notes")
        assert ids(paired) == ["a", "b", "c", "d"]

    @pytest.mark.parametrize(
        ("path", "message"),
        [
            ("labels/z.nii.gz", r"1 masks in labels/ have no image .* images/: z"),
            ("images/a.nii", r"images/ holds a.nii and a.nii.gz: case a is there twice"),
            ("labels/a.nii", r"labels/ holds a.nii and a.nii.gz: case a is there twice"),
            ("images/e.nrrd", r"images/e.nrrd: medseg reads NIfTI and DICOM"),
            ("images/slice1.dcm", r"images/slice1.dcm: the DICOM slices of each case belong in a folder"),
        ],
    )
    def test_refused(self, paired: Path, path: str, message: str) -> None:
        (paired / path).write_bytes(b"")
        with pytest.raises(DatasetError, match=message):
            read_listing(paired)

    def test_missing_channel_is_named(self, tmp_path: Path, write_scan: ScanWriter, write_mask: ScanWriter) -> None:
        for name in ("x_0000", "x_0001", "y_0001"):
            write_scan(tmp_path / "images" / f"{name}.nii.gz")
        write_mask(tmp_path / "labels" / "x.nii.gz")
        with pytest.raises(DatasetError, match=r"case y has 1 of 2 channels; y_0000 is missing"):
            read_listing(tmp_path)

    def test_two_series_in_one_case_are_refused(
        self, tmp_path: Path, write_series: ScanWriter, write_mask: ScanWriter
    ) -> None:
        write_series(tmp_path / "images" / "p" / "one", seed=1)
        write_series(tmp_path / "images" / "p" / "two", seed=2)
        write_mask(tmp_path / "labels" / "p.nii.gz")
        case = read_listing(tmp_path).cases[0]
        with pytest.raises(DatasetError, match=r"case p: .* is not one sound DICOM series: 8 files make 2 series"):
            sound_case(case, IngestConfig())

    def test_a_gap_is_read_as_the_policy_says(
        self, tmp_path: Path, write_series: ScanWriter, write_mask: ScanWriter
    ) -> None:
        (write_series(tmp_path / "images" / "p") / "4").unlink()  # the third of four slices
        write_mask(tmp_path / "labels" / "p.nii.gz")
        case = read_listing(tmp_path).cases[0]
        with pytest.raises(DatasetError, match="lacks 1 slice"):
            sound_case(case, IngestConfig())
        repaired, _ = sound_case(case, IngestConfig(missing_slice="repair"))
        assert read_scan(repaired.images[0]).array.shape == (1, 6, 5, 4)

    def test_empty_case_folder_is_refused(self, paired: Path) -> None:
        (paired / "images" / "e").mkdir()
        with pytest.raises(DatasetError, match=r"case e: its folder e/ is empty"):
            read_listing(paired)

    def test_images_without_a_scan_are_refused(self, tmp_path: Path) -> None:
        (tmp_path / "images").mkdir()
        (tmp_path / "labels").mkdir()
        with pytest.raises(DatasetError, match=r"images/ holds no scan"):
            read_listing(tmp_path)


NNUNET_DOCUMENT = {
    "channel_names": {"0": "T1", "1": "FLAIR"},
    "labels": {"background": 0, "whole": [1, 2], "core": 2, "ignore": 3},
    "regions_class_order": [1, 2],
    "file_ending": ".nii.gz",
}


class TestNnunet:
    @pytest.fixture
    def folder(self, tmp_path: Path, write_scan: ScanWriter, write_mask: ScanWriter) -> Path:
        for case in ("p1", "p2"):
            for channel in range(2):
                write_scan(tmp_path / "imagesTr" / f"{case}_{channel:04d}.nii.gz", seed=channel)
            write_mask(tmp_path / "labelsTr" / f"{case}.nii.gz", (1, 2))
        write_scan(tmp_path / "imagesTs" / "t1_0000.nii.gz")
        write_json(tmp_path / "dataset.json", NNUNET_DOCUMENT)
        return tmp_path

    def test_cases_channels_regions_and_ignore(self, folder: Path) -> None:
        listing = read_listing(folder)
        assert [case.id for case in listing.cases] == ["p1", "p2"]  # test images stay out
        assert listing.channels == ("T1", "FLAIR")
        assert listing.document is not None
        labels = listing.document.labels()
        assert labels is not None
        assert labels.targets == ("whole", "core")
        assert labels.ignore == 3
        assert [region.paints for region in labels.regions] == [1, 2]

    def test_file_lists_are_followed(self, folder: Path) -> None:
        lists = {"q": {"images": ["imagesTr/p1_0000.nii.gz", "imagesTr/p1_0001.nii.gz"], "label": "labelsTr/p1.nii.gz"}}
        write_json(folder / "dataset.json", {**NNUNET_DOCUMENT, "dataset": lists})
        assert ids(folder) == ["q"]

    def test_name_without_channel_is_refused(self, folder: Path, write_scan: ScanWriter) -> None:
        write_scan(folder / "imagesTr" / "p3.nii.gz")
        with pytest.raises(DatasetError, match=r"imagesTr/: p3 lacks nnU-Net's channel number"):
            read_listing(folder)

    def test_missing_labels_folder_is_refused(self, tmp_path: Path, write_scan: ScanWriter) -> None:
        write_scan(tmp_path / "imagesTr" / "a_0000.nii.gz")
        with pytest.raises(DatasetError, match=r"imagesTr/ is there but labelsTr/ with the masks is not"):
            read_listing(tmp_path)


class TestDecathlon:
    @pytest.fixture
    def folder(self, tmp_path: Path, write_scan: ScanWriter, write_mask: ScanWriter) -> Path:
        for name in ("a", "b"):
            write_scan(tmp_path / "imagesTr" / f"{name}.nii.gz", channels=2)
            write_mask(tmp_path / "labelsTr" / f"{name}.nii.gz")
        write_json(
            tmp_path / "dataset.json",
            {
                "name": "BRATS",
                "modality": {"1": "T1w", "0": "FLAIR"},
                "labels": {"0": "Background", "1": "edema"},
                "training": [
                    {"image": f"./imagesTr/{name}.nii.gz", "label": f"./labelsTr/{name}.nii.gz"} for name in "ab"
                ],
                "test": ["./imagesTs/c.nii.gz"],
            },
        )
        return tmp_path

    def test_cases_and_document(self, folder: Path) -> None:
        listing = read_listing(folder)
        assert [case.id for case in listing.cases] == ["a", "b"]
        assert listing.channels == ("FLAIR", "T1w")  # by number, not by order of writing
        assert listing.document is not None
        assert listing.document.name == "BRATS"
        labels = listing.document.labels()
        assert labels is not None
        assert labels.describe() == "1 edema"
        assert inspect_scan(listing.cases[0].images[0], channels_last=True).channels == 2
        assert read_listing(folder / "dataset.json") == listing

    def test_lists_of_images_are_channels_and_validation_is_held_out(self, folder: Path) -> None:
        entries = [{"image": ["imagesTr/a.nii.gz", "imagesTr/b.nii.gz"], "label": "labelsTr/a.nii.gz"}]
        held = [{"image": "imagesTr/b.nii.gz", "label": "labelsTr/b.nii.gz"}]
        write_json(folder / "dataset.json", {"training": entries, "validation": held})
        listing = read_listing(folder)
        assert [len(case.images) for case in listing.cases] == [2, 1]
        assert listing.lists == {"validation": ("b",)}

    @pytest.mark.parametrize(
        ("training", "message"),
        [
            ([{"image": "imagesTr/gone.nii.gz"}], r"training\[0\]: gone.nii.gz is not there"),
            ([{"image": "imagesTr/a.nii.gz", "label": "labelsTr/gone.nii.gz"}], r"training\[0\]: gone.nii.gz is not"),
            ([{"label": "labelsTr/a.nii.gz"}], r"training\[0\]: a path 'image' and a path 'label' are expected"),
            (["imagesTr/a.nii.gz"], r"training\[0\]: a path 'image'"),
            ({"a": "b"}, r"'training' must be a list"),
        ],
    )
    def test_malformed_entries_are_refused(self, folder: Path, training: object, message: str) -> None:
        write_json(folder / "dataset.json", {"training": training})
        with pytest.raises(DatasetError, match=message):
            read_listing(folder)

    def test_channel_numbers_with_a_gap_are_refused(self, folder: Path) -> None:
        document = json.loads((folder / "dataset.json").read_text())
        write_json(folder / "dataset.json", {**document, "modality": {"0": "T1", "2": "T2"}})
        with pytest.raises(DatasetError, match=r"channel names are written as"):
            read_listing(folder)


class TestCsv:
    def table(self, folder: Path, text: str) -> Path:
        path = folder / "scans.csv"
        path.write_text(text)
        return path

    def test_columns(self, paired: Path) -> None:
        text = (
            "case,patient,image_T1,image_T2,mask,split\n"
            "one,p1,images/a.nii.gz,images/b.nii.gz,labels/a.nii.gz,train\n"
            "two,p1,images/c.nii.gz,images/d.nii.gz,,\n"
            "\n"
            "three,p2,images/b.nii.gz,images/c.nii.gz,labels/b.nii.gz,Val\n"
        )
        listing = read_listing(self.table(paired, text))
        assert listing.channels == ("T1", "T2")
        assert [(case.id, case.patient, len(case.images), case.mask is not None) for case in listing.cases] == [
            ("one", "p1", 2, True), ("three", "p2", 2, True), ("two", "p1", 2, False),
        ]  # fmt: skip
        assert listing.lists == {"train": ("one",), "validation": ("three",)}

    def test_semicolons_byte_order_mark_and_default_names(self, paired: Path) -> None:
        path = paired / "scans.csv"
        path.write_text("image;mask\nimages/a.nii.gz;labels/a.nii.gz\n", encoding="utf-8-sig")
        assert ids(path) == ["a"]

    def test_paths_written_on_windows(self, paired: Path) -> None:
        case = read_listing(self.table(paired, "image,mask\r\nimages\\a.nii.gz,.\\labels\\a.nii.gz\r\n")).cases[0]
        images, mask = (paired / "images" / "a.nii.gz",), paired / "labels" / "a.nii.gz"
        assert (case.id, case.images[0].files, case.mask) == ("a", images, mask)

    def test_a_backslash_may_belong_to_a_name(self, tmp_path: Path, write_scan: ScanWriter) -> None:
        write_scan(tmp_path / "a\\b.nii.gz")
        assert ids(self.table(tmp_path, "case,image\none,a\\b.nii.gz\n")) == ["one"]

    def test_a_lone_table_in_a_folder_is_found(self, tmp_path: Path, write_scan: ScanWriter) -> None:
        write_scan(tmp_path / "scans" / "a.nii.gz")
        self.table(tmp_path, "image,mask\nscans/a.nii.gz,\n")
        assert ids(tmp_path) == ["a"]

    def test_a_folder_is_a_dicom_series(self, tmp_path: Path, write_series: ScanWriter) -> None:
        write_series(tmp_path / "pacs" / "s1")
        case = read_listing(self.table(tmp_path, "image,mask\npacs/s1,\n")).cases[0]
        assert (case.id, case.images[0].kind) == ("s1", "dicom")

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("", r"the columns are empty"),
            ("scan,mask\n", r"the columns are scan, mask; they may be image"),
            ("image,image_T1,mask\n", r"the columns are image, image_T1, mask"),
            ("image,mask,mask\nimages/a.nii.gz,labels/a.nii.gz,\n", r"columns are image, mask, mask; .* each once"),
            ("image,mask\nimages/z.nii.gz,\n", r"line 2: z.nii.gz is not there; paths are relative to scans.csv"),
            ("image,mask\nimages/a.nii.gz,labels/z.nii.gz\n", r"line 2: z.nii.gz is not there"),
            (f"image,mask\nimages/a.nii.gz,see {'note' * 1000}\n", r"line 2: see note.* is not there"),
            ("image_1,image_2,mask\nimages/a.nii.gz,,labels/a.nii.gz\n", r"line 2: every image column needs a path"),
            ("image,case\nimages/a.nii.gz,../up\n", r"line 2: '../up' can't be the name of a case"),
            ("image,mask\nimages/a.nii.gz,,extra\n", r"line 2: there are more cells than columns"),
        ],
    )
    def test_refused(self, paired: Path, text: str, message: str) -> None:
        with pytest.raises(DatasetError, match=message):
            read_listing(self.table(paired, text))


class TestUnknown:
    def test_missing_folder(self, tmp_path: Path) -> None:
        with pytest.raises(DatasetError, match="there is no such dataset folder"):
            read_listing(tmp_path / "gone")

    def test_empty_folder(self, tmp_path: Path) -> None:
        with pytest.raises(DatasetError, match="the dataset folder is empty; it needs images/ "):
            read_listing(tmp_path)

    def test_unknown_layout_says_what_was_found(self, tmp_path: Path) -> None:
        (tmp_path / "volumes").mkdir()
        (tmp_path / "notes.txt").write_text("")
        with pytest.raises(
            DatasetError, match=r"found volumes/, notes.txt\); name the folder with --data; a dataset is images/"
        ):
            read_listing(tmp_path)

    def test_two_tables_are_no_layout(self, tmp_path: Path) -> None:
        for name in ("a.csv", "b.csv"):
            (tmp_path / name).write_text("image,mask\n")
        with pytest.raises(DatasetError, match=r"unknown layout \(found a.csv, b.csv\); name one of its tables with"):
            read_listing(tmp_path)

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ('{"labels": ', r"dataset.json: not valid JSON \(line 1"),
            ("[1, 2]", r"dataset.json: 'name: value' pairs are expected, not list"),
        ],
    )
    def test_malformed_json(self, paired: Path, text: str, message: str) -> None:
        (paired / "dataset.json").write_text(text)
        with pytest.raises(DatasetError, match=message):
            read_listing(paired)

    def test_a_file_of_another_kind(self, tmp_path: Path) -> None:
        path = tmp_path / "scan.nii.gz"
        path.write_bytes(np.zeros(3).tobytes())
        with pytest.raises(DatasetError, match="not a dataset; name a folder, a CSV"):
            read_listing(path)
