"""What a dataset is taken to be: labels, channels, who trains and who is held out."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medseg.catalog.datasets import Dataset, read_dataset
from medseg.catalog.index import index_scans
from medseg.config import DatasetConfig
from medseg.errors import DatasetError, LabelError, ScanError
from medseg.geometry import Grid
from medseg.io import dicom_write
from medseg.volume import Volume

ScanWriter = Callable[..., Path]


def read(folder: Path, **wishes: Any) -> Dataset:
    return read_dataset(DatasetConfig(folder=folder, **wishes))


def splits(folder: Path, **lists: Any) -> dict[str, str]:
    (folder / "splits.json").write_text(json.dumps(lists))
    return {"splits": "splits.json"}


class TestSelection:
    def test_without_wishes_every_labelled_case_trains(self, paired: Path) -> None:
        dataset = read(paired)
        assert dataset.train == ("a", "b", "c")
        assert dataset.validation == ()
        assert (dataset.layout, dataset.name) == ("images/ + labels/", paired.name)
        assert [case.id for case in dataset.labelled] == ["a", "b", "c"]
        assert [case.id for case in dataset.unlabelled] == ["d"]

    def test_the_rest_trains_when_validation_is_named(self, paired: Path) -> None:
        assert read(paired, validation=["b"]).train == ("a", "c")

    def test_lists_of_the_splits_file(self, paired: Path) -> None:
        wishes = splits(paired, seed=7, few=["a"], held=["c"])
        dataset = read(paired, train="few", validation="held", **wishes)
        assert (dataset.train, dataset.validation) == (("a",), ("c",))
        assert [case.id for case in dataset.unlabelled] == ["b", "d"]  # b has a mask that is not to be used

    def test_a_test_list_of_the_splits_file_stays_apart(self, paired: Path) -> None:
        wishes = splits(paired, train=["a"], validation=["b"], test=["c"])
        for named in ({"train": "train"}, {"validation": "validation"}, {"train": "train", "validation": "validation"}):
            dataset = read(paired, **named, **wishes)
            assert dataset.test == ("c",)
            assert "c" not in {case.id for case in (*dataset.labelled, *dataset.unlabelled)}
            assert "c" in {case.id for case in dataset.set_apart}

    def test_lists_called_train_and_validation_hold_without_being_named(self, paired: Path) -> None:
        dataset = read(paired, **splits(paired, train=["a"], validation=["b"]))
        assert (dataset.train, dataset.validation) == (("a",), ("b",))
        assert [case.id for case in dataset.unlabelled] == ["c", "d"]

    def test_test_cases_may_lie_elsewhere(self, paired: Path) -> None:
        dataset = read(paired, **splits(paired, test=["c", "elsewhere"]))
        assert [case.id for case in dataset.set_apart] == ["c"]

    def test_a_list_that_keeps_no_case_from_training_is_told(
        self, paired: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        dataset = read(paired, **splits(paired, validation=["b"], tets=["c", "elsewhere"]))
        assert "c" in dataset.train
        assert "the list 'tets' means nothing here, so its 1 cases train; call it test" in caplog.text
        caplog.clear()
        read(paired, validation="tets", **splits(paired, tets=["c"]))
        read(paired, **splits(paired, train=["a"], tets=["c"]))
        assert not caplog.text

    def test_lists_may_hold_the_files_of_scans(self, paired: Path) -> None:
        dataset = read(paired, **splits(paired, validation=["b.nii"], test=["images/c.nii.gz"]))
        assert (dataset.train, dataset.validation, dataset.test) == (("a",), ("b",), ("c",))

    def test_a_test_case_is_not_trained_on(self, paired: Path) -> None:
        wishes = splits(paired, train=["a", "c"], test=["c"])
        with pytest.raises(DatasetError, match=r"1 cases are both in train and in test: c; keep each in one"):
            read(paired, **wishes)

    def test_unlabelled_cases_of_a_training_list_don_t_train(self, paired: Path) -> None:
        dataset = read(paired, train=["a", "d"])
        assert dataset.train == ("a",)
        assert "d" in [case.id for case in dataset.unlabelled]

    @pytest.mark.parametrize(
        "words", [("train", "val", "test"), ("training", "validating", "testing"), ("Training", "Valid", "TEST")]
    )
    def test_lists_hold_under_other_words_too(self, paired: Path, words: tuple[str, str, str]) -> None:
        dataset = read(paired, **splits(paired, **{word: [id_] for word, id_ in zip(words, "abc", strict=True)}))
        assert (dataset.train, dataset.validation, dataset.test) == (("a",), ("b",), ("c",))

    def test_a_list_is_known_by_the_name_it_has_in_the_file_too(self, paired: Path) -> None:
        dataset = read(paired, validation="Val", **splits(paired, Training=["a"], Val=["b"]))
        assert (dataset.train, dataset.validation) == (("a",), ("b",))

    @pytest.mark.parametrize("words", [("train", "val", "test"), ("training", "Validating", "Testing")])
    def test_a_table_s_own_split_holds_and_its_test_cases_stay_apart(
        self, paired: Path, words: tuple[str, str, str]
    ) -> None:
        rows = [f"images/{n}.nii.gz,labels/{n}.nii.gz,{s}" for n, s in zip("abc", words, strict=True)]
        (paired / "t.csv").write_text("\n".join(["image,mask,split", *rows, "images/d.nii.gz,,"]))
        dataset = read(paired / "t.csv")
        assert (dataset.train, dataset.validation, dataset.test) == (("a",), ("b",), ("c",))
        assert [case.id for case in dataset.unlabelled] == ["d"]

    @pytest.mark.parametrize(
        ("wishes", "message"),
        [
            ({"train": ["a", "x", "y"]}, r"dataset.train names 2 cases that the folder doesn't hold: x, y"),
            ({"validation": ["x"]}, r"dataset.validation names 1 cases"),
            ({"train": ["a", "b"], "validation": ["b"]}, r"1 cases are both in train and in validation: b"),
            ({"train": ["a", "a"]}, r"dataset.train names a more than once"),
            ({"validation": ["d"]}, r"1 validation cases have no mask to be measured by: d"),
            ({"train": ["d"]}, r"none of the 1 training cases has a mask"),
            ({"validation": ["a", "b", "c"]}, r"none of the 1 training cases has a mask"),
            ({"train": "few"}, r"dataset.train: there is no list called 'few'; there is no list: set dataset.splits"),
            ({"splits": "gone.json", "train": "few"}, r"gone.json: there is no such file"),
        ],
    )
    def test_refused(self, paired: Path, wishes: dict[str, Any], message: str) -> None:
        with pytest.raises(DatasetError, match=message):
            read(paired, **wishes)

    def test_unknown_list_names_the_known_ones(self, paired: Path) -> None:
        with pytest.raises(DatasetError, match=r"there is no list called 'labelled'; there are few, held"):
            read(paired, train="labelled", **splits(paired, few=["a"], held=["b"]))

    @pytest.mark.parametrize(("text", "message"), [("{", "not valid JSON"), ('{"seed": 7}', "holds no list of case")])
    def test_malformed_splits(self, paired: Path, text: str, message: str) -> None:
        (paired / "splits.json").write_text(text)
        with pytest.raises(DatasetError, match=message):
            read(paired, splits="splits.json", train="x")

    def test_no_labelled_case_at_all(self, tmp_path: Path, write_scan: ScanWriter) -> None:
        write_scan(tmp_path / "images" / "a.nii.gz")
        (tmp_path / "labels").mkdir()
        with pytest.raises(DatasetError, match=r"none of the 1 training cases has a mask"):
            read(tmp_path)

    def test_duplicate_ids_are_refused(self, paired: Path) -> None:
        (paired / "t.csv").write_text("image,mask,case\nimages/a.nii.gz,labels/a.nii.gz,x\nimages/b.nii.gz,,x\n")
        with pytest.raises(DatasetError, match=r"1 case names occur more than once: x"):
            read(paired / "t.csv")

    def test_select_names_unknown_cases(self, paired: Path) -> None:
        dataset = read(paired)
        assert [case.id for case in dataset.select(["c", "a"])] == ["c", "a"]
        with pytest.raises(DatasetError, match=r"has no case called z"):
            dataset.select(["a", "z"])


class TestPatients:
    def test_default_is_the_case_itself(self, paired: Path) -> None:
        assert [case.patient for case in read(paired).cases] == ["a", "b", "c", "d"]

    def test_pattern_and_shared_patient(self, tmp_path: Path, write_scan: ScanWriter, write_mask: ScanWriter) -> None:
        for name in ("p1_day1", "p1_day2", "p2_day1"):
            write_scan(tmp_path / "images" / f"{name}.nii.gz")
            write_mask(tmp_path / "labels" / f"{name}.nii.gz")
        pattern = r"^(p\d+)_"
        assert [case.patient for case in read(tmp_path, patients=pattern).cases] == ["p1", "p1", "p2"]
        assert read(tmp_path, patients=pattern, validation=["p2_day1"]).train == ("p1_day1", "p1_day2")
        with pytest.raises(DatasetError, match=r"1 validation cases are of patients who are also trained on: p1_day2"):
            read(tmp_path, patients=pattern, validation=["p1_day2"])

    def test_scans_of_one_patient_in_dicom_headers(self, tmp_path: Path, write_mask: ScanWriter) -> None:
        for number, patient in enumerate(("Ann", "Ben", "Ann", "")):
            self._write(tmp_path, f"visit{number}", patient, number, write_mask)
        cases = read(tmp_path).cases
        assert [case.patient for case in cases] == ["visit0", "visit1", "visit0", "visit3"]
        with pytest.raises(DatasetError, match=r"1 validation cases are of patients who are also trained on: visit2"):
            read(tmp_path, validation=["visit2"])
        named = read(tmp_path, patients=r"(visit\d)", validation=["visit2"])
        assert named.validation == ("visit2",)

    def test_one_identifier_for_everybody_is_an_anonymisers(self, tmp_path: Path, write_mask: ScanWriter) -> None:
        for number in range(3):
            self._write(tmp_path, f"scan{number}", "ANONYMOUS", number, write_mask)
        assert [case.patient for case in read(tmp_path, validation=["scan2"]).cases] == ["scan0", "scan1", "scan2"]
        self._write(tmp_path, "other", "Ann", 3)
        assert [case.patient for case in read(tmp_path).labelled] == ["scan0", "scan1", "scan2"]

    def test_scans_that_are_added_without_masks_change_no_patients_name(
        self, tmp_path: Path, write_mask: ScanWriter
    ) -> None:
        for number, patient in enumerate(("Ann", "Ben", "Ann")):
            self._write(tmp_path, f"visit{number}", patient, number, write_mask)
        before = [case.patient for case in read(tmp_path).labelled]
        self._write(tmp_path, "added", "Ann", 3)
        assert [case.patient for case in read(tmp_path).labelled] == before == ["visit0", "visit1", "visit0"]
        assert read(tmp_path).unlabelled[0].patient == "visit0"

    def test_a_table_and_headers_speak_of_the_same_patients(self, tmp_path: Path, write_mask: ScanWriter) -> None:
        for number, patient in enumerate(("Ann", "Ann", "Ben")):
            self._write(tmp_path, f"visit{number}", patient, number, write_mask)
        rows = [f"images/visit{n},labels/visit{n}.nii.gz,{p}" for n, p in enumerate(("", "p1", ""))]
        (tmp_path / "t.csv").write_text("\n".join(["image,mask,patient", *rows]))
        assert [case.patient for case in read(tmp_path / "t.csv").cases] == ["p1", "p1", "visit2"]

    @staticmethod
    def _write(folder: Path, name: str, patient: str, seed: int, write_mask: ScanWriter | None = None) -> None:
        volume = Volume(np.zeros((1, 4, 4, 4), np.float32), Grid((4, 4, 4), np.eye(4)))
        dicom_write.write_series(volume, folder / "images" / name, seed=seed, patient=patient)
        if write_mask:
            write_mask(folder / "labels" / f"{name}.nii.gz")

    @pytest.mark.parametrize(
        ("pattern", "message"),
        [("(", "not a regular expression"), ("p.", "needs a group"), ("(z)", "finds no patient in the case id a")],
    )
    def test_refused(self, paired: Path, pattern: str, message: str) -> None:
        with pytest.raises(DatasetError, match=message):
            read(paired, patients=pattern)


class TestNames:
    """A case is called as its scan is in results, whatever its files are called."""

    @pytest.fixture
    def odd(self, tmp_path: Path, write_scan: ScanWriter, write_mask: ScanWriter) -> Path:
        for seed, name in enumerate(("Li 1 a", "Li 1 b", "Li 2 a", "Mö 3 a")):
            write_scan(tmp_path / "images" / f"{name}.nii.gz", seed=seed)
            if name != "Mö 3 a":
                write_mask(tmp_path / "labels" / f"{name}.nii.gz", (1,))
        return tmp_path

    def test_they_are_those_of_the_index(self, odd: Path) -> None:
        dataset = read(odd)
        assert {case.id for case in dataset.cases} == {case.id for case in index_scans(odd / "images").cases()}
        assert dataset.train == ("Li_1_a", "Li_1_b", "Li_2_a")
        assert [case.id for case in dataset.unlabelled] == ["M_3_a"]

    def test_lists_and_patterns_speak_of_files(self, odd: Path) -> None:
        dataset = read(odd, patients=r"^(\w+ \d)", validation=["Li 2 a"], **splits(odd, train=["Li 1 a"]))
        assert (dataset.train, dataset.validation) == (("Li_1_a",), ("Li_2_a",))
        assert {case.id: case.patient for case in dataset.cases}["Li_1_b"] == "Li 1"

    def test_lists_may_hold_ids_as_well(self, odd: Path) -> None:
        dataset = read(odd, train=["Li_1_a", "Li 1 b"], validation=["Li_2_a"])
        assert (dataset.train, dataset.validation) == (("Li_1_a", "Li_1_b"), ("Li_2_a",))

    def test_who_has_no_patient_is_one_of_its_own(self, odd: Path) -> None:
        assert all(case.patient == case.id for case in read(odd).cases)

    def test_names_that_would_become_one_stay(self, odd: Path, write_scan: ScanWriter) -> None:
        write_scan(odd / "images" / "Li_1_a.nii.gz", seed=9)
        assert {"Li 1 a", "Li_1_a", "Li_1_b"} <= {case.id for case in read(odd).cases}


class TestLabels:
    def test_discovered_from_the_masks(self, paired: Path) -> None:
        assert read(paired).labels.describe() == "1 label_1, 2 label_2"

    def test_a_labels_file_may_be_as_in_dataset_json(self, paired: Path) -> None:
        (paired / "labels.json").write_text(
            '{"channel_names": {"0": "CT"}, "labels": {"background": 0, "a": 1, "b": 2}}'
        )
        assert [label.name for label in read(paired).labels.labels] == ["a", "b"]

    def test_configuration_before_dataset_json_before_labels_file(self, paired: Path) -> None:
        (paired / "labels.json").write_text('{"1": "from_file", "2": "b"}')
        assert read(paired).labels.targets == ("from_file", "b")
        (paired / "dataset.json").write_text('{"labels": {"background": 0, "from_document": 1, "b": 2}}')
        assert read(paired).labels.targets == ("from_document", "b")
        assert read(paired, labels={"from_config": 1, "b": 2}).labels.targets == ("from_config", "b")

    def test_yaml_file(self, paired: Path) -> None:
        (paired / "labels.yaml").write_text("liver: 1\ntumour: 2\nignore: 3\n")
        labels = read(paired).labels
        assert (labels.targets, labels.ignore) == (("liver", "tumour"), 3)

    @pytest.mark.parametrize(
        ("document", "message"),
        [
            ('{"labels": {"a": 1, "b": 1}}', r"dataset.json: .*label values repeat"),
            ('{"labels": {"a": 1, "b": 2.5}}', r"'b' has the value 2.5, which is no whole number"),
            ('{"labels": {"a": true, "b": 2}}', r"'a' has the value True, which is no whole number"),
            ('{"labels": {"a": [1, 2.5], "b": 2}}', r"'a' has the value 2.5, which is no whole number"),
            ('{"labels": {"a": Infinity, "b": 2}}', r"'a' has the value inf, which is no whole number"),
            ('{"labels": {"a:1": null}}', r"'a:1' has no value; in YAML a blank follows the colon"),
            ('{"labels": ["a", "b"]}', r"dataset.json: a label map is 'name: value' pairs, not list"),
            (
                '{"labels": {"labels": [{"value": 1, "name": "a", "colour": [0, 300, 0]}, {"value": 2, "name": "b"}]}}',
                r"the label map is wrong at labels.0.colour.1: Input should be less than or equal to 255",
            ),
            ('{"labels": {"a": [], "b": 2}}', r"the label map is wrong at values: Tuple should have at least 1 item"),
            ('{"labels": {"a": [1, 2], "b": 2}, "regions_class_order": [1]}', r"regions_class_order needs 2 values"),
        ],
    )
    def test_malformed(self, paired: Path, document: str, message: str) -> None:
        (paired / "dataset.json").write_text(document)
        with pytest.raises(LabelError, match=message):
            read(paired)

    def test_only_a_document_may_name_the_background(self, paired: Path) -> None:
        (paired / "dataset.json").write_text('{"labels": {"0": "Clear Label", "1": "a", "2": "b"}}')
        assert read(paired).labels.targets == ("a", "b")
        with pytest.raises(LabelError, match="greater than or equal to 1"):
            read(paired, labels={"liver": 0, "tumour": 1})

    def test_a_damaged_mask_is_left_to_the_examination_of_all_cases(self, paired: Path) -> None:
        (paired / "labels" / "a.nii.gz").write_bytes(b"no mask")
        assert read(paired).labels.describe() == "1 label_1, 2 label_2"
        for name in "bc":
            (paired / "labels" / f"{name}.nii.gz").write_bytes(b"no mask")
        with pytest.raises(ScanError, match=r"case a: its mask a.nii.gz"):
            read(paired)

    def test_all_masks_empty(self, tmp_path: Path, write_scan: ScanWriter, write_mask: ScanWriter) -> None:
        write_scan(tmp_path / "images" / "a.nii.gz")
        write_mask(tmp_path / "labels" / "a.nii.gz", (0,))
        with pytest.raises(DatasetError, match=r"none of the 1 masks shows any structure"):
            read(tmp_path)

    def test_a_dataset_json_beside_a_table_holds_for_it(self, paired: Path) -> None:
        document = {"labels": {"background": 0, "organ": 1, "ignore": 2}, "channel_names": {"0": "CT"}}
        (paired / "dataset.json").write_text(json.dumps(document))
        (paired / "t.csv").write_text("image,mask\nimages/a.nii.gz,labels/a.nii.gz\n")
        dataset = read(paired / "t.csv")
        assert (dataset.labels.values, dataset.labels.ignore) == ((1,), 2)
        assert (dataset.channels, dataset.modalities) == (("CT",), ("ct",))
        (paired / "t.csv").write_text("image_T1,mask\nimages/a.nii.gz,labels/a.nii.gz\n")
        assert read(paired / "t.csv").channels == ("T1",)  # the table knows better what it lists


class TestChannels:
    def test_unknown_nifti(self, paired: Path) -> None:
        dataset = read(paired)
        assert (dataset.channels, dataset.modalities) == (("image",), ("other",))
        assert read(paired, modality="mr").modalities == ("mr",)

    def test_dicom_says_ct(self, tmp_path: Path, write_series: ScanWriter, write_mask: ScanWriter) -> None:
        write_series(tmp_path / "images" / "a")
        write_mask(tmp_path / "labels" / "a.nii.gz")
        assert read(tmp_path).modalities == ("ct",)

    @pytest.mark.parametrize(
        ("word", "modality"),
        [
            ("CT", "ct"), ("ct_portal", "ct"), ("MRI", "mr"), ("T1w", "mr"), ("t1gd", "mr"), ("T2", "mr"),
            ("FLAIR", "mr"), ("ADC", "mr"), ("PET", "other"), ("CBCT", "other"), ("contrast", "other"), ("US", "other"),
            ("mrsa", "other"),
        ],
    )  # fmt: skip
    def test_words(self, paired: Path, word: str, modality: str) -> None:
        (paired / "dataset.json").write_text(json.dumps({"channel_names": {"0": word}}))
        dataset = read(paired)
        assert (dataset.channels, dataset.modalities) == ((word,), (modality,))

    def test_four_dimensional_files_hold_channels(
        self, tmp_path: Path, write_scan: ScanWriter, write_mask: ScanWriter
    ) -> None:
        write_scan(tmp_path / "images" / "a.nii.gz", channels=3)
        write_mask(tmp_path / "labels" / "a.nii.gz")
        assert read(tmp_path).channels == ("channel_0", "channel_1", "channel_2")
        (tmp_path / "dataset.json").write_text('{"channel_names": {"0": "T1", "1": "T2"}}')
        with pytest.raises(DatasetError, match=r"case a has 3 channels, but the dataset names 2"):
            read(tmp_path)

    def test_uneven_number_of_files_is_refused(self, paired: Path) -> None:
        entries = [
            {"image": ["images/a.nii.gz", "images/b.nii.gz"], "label": "labels/a.nii.gz"},
            {"image": "images/c.nii.gz", "label": "labels/c.nii.gz"},
        ]
        (paired / "dataset.json").write_text(json.dumps({"training": entries}))
        with pytest.raises(DatasetError, match=r"1 cases have another number of image files than a with 2: c"):
            read(paired)
        del entries[1]["label"]  # an unlabelled case is nobody's condition
        (paired / "dataset.json").write_text(json.dumps({"training": entries}))
        assert [case.id for case in read(paired).unlabelled] == ["c"]


@pytest.mark.skipif("MEDSEG_DATA" not in os.environ, reason="MEDSEG_DATA does not name the folder of real scans")
class TestRealScans:
    def root(self) -> Path:
        return Path(os.environ["MEDSEG_DATA"])

    def test_hippocampus(self) -> None:
        lists = {"splits": "splits.json", "validation": "validation"}
        dataset = read(self.root() / "hippocampus", train="train", **lists)
        assert (len(dataset.labelled), len(dataset.unlabelled), len(dataset.validation)) == (180, 0, 28)
        assert dataset.labels.values == (1, 2)
        few = read(self.root() / "hippocampus", train="labelled_6", **lists)
        assert (len(few.labelled), len(few.unlabelled)) == (6, 174)

    def test_left_atrium(self) -> None:
        dataset = read(self.root() / "left_atrium", splits="splits.json", train="labelled_8")
        assert (len(dataset.labelled), len(dataset.unlabelled), dataset.labels.values) == (8, 72, (1,))
