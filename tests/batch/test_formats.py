"""Formats beside the NIfTI mask, measures and label tables of a batch."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest

from medseg.batch.formats import DICOM, Formats, class_names, write_tables
from medseg.batch.record import read_record
from medseg.batch.summary import case_rows
from medseg.batch.task import Task
from medseg.batch.worker import Worker
from medseg.config import SegmentConfig, make_segment_config
from medseg.errors import ConfigError, LabelError
from medseg.geometry import Grid
from medseg.io.dicom_write import write_series
from medseg.io.slicer import read_seg_nrrd
from medseg.labels import LabelMap
from medseg.volume import Case, Volume

EVERYTHING = Formats(("nifti", "seg-nrrd", *DICOM), per_class=True, lesions=("tumour",))


@pytest.fixture
def worker(predictor, tmp_path):
    return Worker(predictor, tmp_path / "out" / "cases", model_digest="m", settings_digest="s", formats=EVERYTHING)


@pytest.fixture
def series(tmp_path) -> Case:
    """A CT series with 5 organ and two single tumour voxels."""
    array = np.full((1, 6, 5, 4), -100, np.float32)
    array[0, 2, :, 1] = 5
    array[0, 4, 1, 2] = array[0, 4, 3, 2] = 50
    grid = Grid((6, 5, 4), np.diag([-10.0, -10, 20, 1]))
    return Case("series", (write_series(Volume(array, grid), tmp_path / "ct", patient="Canary^Anna"),))


def files_of(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def test_a_series_gets_every_format(worker, series):
    (result,) = worker.run([Task(series)])
    assert (result.is_done, result.message) == (True, "")
    folder = worker.folder / "series"
    assert files_of(folder) == [
        "case.json", "classes/organ.nii.gz", "classes/tumour.nii.gz", "dicom/contours.dcm", "dicom/measurements.dcm",
        "dicom/segmentation.dcm", "mask.nii.gz", "mask.seg.nrrd",
    ]  # fmt: skip
    assert sorted(result.record.outputs) == files_of(folder)[1:]
    mask = np.asarray(nib.load(folder / "mask.nii.gz").dataobj)
    assert np.array_equal(read_seg_nrrd(folder / "mask.seg.nrrd").mask.array, mask)
    for name, value in (("organ", 1), ("tumour", 3)):
        single = nib.load(folder / "classes" / f"{name}.nii.gz")
        assert np.array_equal(np.asarray(single.dataobj), mask == value)
        assert name in single.header.extensions[0].get_content().decode()
    objects = {path.stem: pydicom.dcmread(path) for path in (folder / "dicom").iterdir()}
    assert {str(found.PatientName) for found in objects.values()} == {"Canary^Anna"}
    assert objects["segmentation"].SOPInstanceUID in str(objects["measurements"].ContentSequence)
    others = [path for path in folder.rglob("*") if path.is_file() and path.parent.name != "dicom"]
    assert not any(b"Canary" in path.read_bytes() for path in others)


def test_dicom_results_are_written_where_medseg_runs_without_being_installed(worker, series, monkeypatch):
    monkeypatch.setattr("medseg.provenance._version", lambda package: None if package == "medseg" else "1.0")
    writing = replace(worker, formats=Formats(names=DICOM))
    (result,) = writing.run([Task(series)])
    assert result.is_done, result.message
    written = pydicom.dcmread(writing.folder / series.id / "dicom/segmentation.dcm")
    assert written.SoftwareVersions == "unknown"


def test_a_nifti_scan_has_no_dicom_results_and_says_why(worker, make_cases):
    (result,) = worker.run(make_cases(-1))
    assert result.is_done
    assert result.record.not_written == {
        "dicom-seg": "NOT_DICOM: the scan is no DICOM series, to which a segmentation belongs",
        "rtstruct": "NOT_DICOM: the scan is no DICOM series, on which contours are drawn",
        "dicom-sr": "NOT_DICOM: the scan is no DICOM series, to which a report belongs",
    }
    header, (row,) = case_rows([result], [])
    assert dict(zip(header, row, strict=True))["message"].startswith("no dicom-seg: NOT_DICOM")
    assert not (worker.folder / "case_0" / "dicom").exists()


def test_an_empty_mask_has_no_dicom_results(worker, tmp_path):
    volume = Volume(np.full((1, 4, 4, 4), -100, np.float32), Grid((4, 4, 4), np.diag([-1.0, -1, 2, 1])))
    (result,) = worker.run([Task(Case("empty", (write_series(volume, tmp_path / "ct"),)))])
    assert result.is_done
    assert set(result.record.not_written) == set(DICOM)
    assert all(reason.startswith("EMPTY: nothing was found") for reason in result.record.not_written.values())
    assert "mask.seg.nrrd" in result.record.outputs


def test_the_record_holds_the_measures(worker, series):
    (result,) = worker.run([Task(series)])
    found = read_record(worker.folder / "series").measures
    assert found == result.record.measures
    assert [(part.structure, part.lesion, part.voxels) for part in found] == [
        ("organ", None, 5), ("tumour", None, 2), ("tumour", 1, 1), ("tumour", 2, 1),
    ]  # fmt: skip
    assert found[0].incomplete
    assert found[0].plane == "axial"
    assert found[0].long_mm == pytest.approx(50)
    assert found[0].intensity[0].p50 == pytest.approx(5)


def test_what_was_found_has_a_volume_however_small(worker, series):
    (result,) = worker.run([Task(series)])
    record = result.record.model_copy(update={"volumes_ml": {"organ": 2.7e-5, "tumour": 0.0}})
    header, (row,) = case_rows([replace(result, record=record)], ["organ", "tumour"])
    assert dict(zip(header, row, strict=True))["organ_ml"] == 2.7e-5
    assert dict(zip(header, row, strict=True))["tumour_ml"] == 0


def test_a_run_has_a_table_of_measures_and_of_labels(worker, series, make_cases, tmp_path):
    results = list(worker.run([Task(series), *make_cases(-1)]))
    write_tables(tmp_path / "out", worker.labels, results, channels=1)
    with (tmp_path / "out" / "measures.csv").open(encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    assert [(row["case"], row["structure"], row["lesion"]) for row in rows] == [
        ("series", "organ", ""), ("series", "tumour", ""), ("series", "tumour", "1"), ("series", "tumour", "2"),
        ("case_0", "organ", ""), ("case_0", "tumour", ""), ("case_0", "tumour", "1"),
    ]  # fmt: skip
    assert float(rows[4]["volume_ml"]) == pytest.approx(10)
    assert (tmp_path / "out" / "labels.csv").read_text().splitlines()[1].startswith("1,organ,")
    assert (tmp_path / "out" / "labels.ctbl").exists()


def test_a_damaged_file_within_a_folder_is_made_again(worker, series):
    list(worker.run([Task(series)]))
    damaged = worker.folder / "series" / "dicom" / "segmentation.dcm"
    whole = damaged.read_bytes()
    damaged.write_bytes(whole[:-5])
    (result,) = worker.run([Task(series)])
    assert not result.was_done
    assert len(damaged.read_bytes()) == len(whole)
    (result,) = worker.run([Task(series)])
    assert result.was_done


def test_by_default_only_nifti_is_written(worker, make_cases):
    (result,) = replace(worker, formats=Formats.of(SegmentConfig())).run(make_cases(-1))
    assert list(result.record.outputs) == ["mask.nii.gz"]
    assert [part.lesion for part in result.record.measures] == [None, None]


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["liver", "kidney left"], ("liver", "2_kidney_left")),
        (["a/../b", "a_.._b"], ("1_a_.._b", "2_a_.._b")),
        (["Liver", "liver", "..", "Ä"], ("1_Liver", "2_liver", "3", "4")),
        (["a/b", "1_a_b", "3_liver", ".."], ("1_a_b", "2_1_a_b", "3_liver", "4")),
        (["4", "liver", "kidney", ".."], ("1_4", "liver", "kidney", "4")),
        (["x" * 100, "con:aux"], (f"1_{'x' * 64}", "2_con_aux")),
    ],
)
def test_classes_have_safe_and_different_names(names, expected):
    labels = LabelMap.parse({name: value for value, name in enumerate(names, start=1)})
    assert class_names(labels) == expected


def test_the_same_wishes_in_another_order_are_the_same_settings():
    wishes = [
        make_segment_config(formats=("nifti", "seg-nrrd", "rtstruct"), lesions=("cyst", "tumour")),
        make_segment_config(formats=("rtstruct", "nifti", "seg-nrrd", "nifti"), lesions=("tumour", "cyst")),
    ]
    assert wishes[0].model_dump() == wishes[1].model_dump()
    assert Formats.of(wishes[0]) == Formats.of(wishes[1])
    assert make_segment_config(formats=("seg-nrrd",)) == make_segment_config(formats=("nifti", "seg-nrrd"))


@pytest.mark.parametrize("change", ["gone", "empty"])
def test_a_series_that_vanishes_before_its_results_are_written_is_not_done(worker, series, monkeypatch, change):
    clean = worker.predictor.clean

    def change_scan(prediction):
        path = series.images[0].files[1]
        path.unlink() if change == "gone" else path.write_bytes(b"")
        return clean(prediction)

    monkeypatch.setattr(worker.predictor, "clean", change_scan)
    (result,) = worker.run([Task(series)])
    assert (result.status, result.reason) == ("rejected", "UNREADABLE" if change == "gone" else "NOT_DICOM")
    assert not (worker.folder / "series").exists()


def test_unknown_formats_and_lesions_are_refused():
    with pytest.raises(
        ConfigError, match=r"formats\.1: '\w+' is none of 'nifti', 'seg-nrrd', 'dicom-seg', 'rtstruct' or 'dicom-sr'"
    ):
        make_segment_config(formats=("nifti", "stl"))
    with pytest.raises(LabelError, match="no label is called cyst"):
        Formats(lesions=("cyst",)).labels(LabelMap.parse({"organ": 1, "tumour": 3}))
