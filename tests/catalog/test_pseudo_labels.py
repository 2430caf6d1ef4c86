"""Pseudo-labels come back where they were put, and what people do to them is taken in or refused by name."""

from __future__ import annotations

import csv
import shutil
from dataclasses import replace

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from medseg.catalog.datasets import Dataset
from medseg.catalog.pseudo_labels import (
    LABEL,
    RECORD,
    SUMMARY,
    WEIGHT,
    PseudoLabelMaps,
    PseudoLabelRecord,
    read_record,
    read_records,
    write_pseudo_label,
    write_summary,
)
from medseg.catalog.pseudo_review import read_pseudo_labels, take_in
from medseg.catalog.sources import scan_digest
from medseg.errors import DatasetError, LabelError
from medseg.geometry import Grid
from medseg.io.nifti import read_mask
from medseg.io.scan import inspect_scan, read_case
from medseg.labels import LabelMap
from medseg.volume import Case, Source

LABELS = LabelMap.parse({"organ": 3, "tumour": 7})
SHAPE = (6, 5, 4)


def write_scan(path, affine, shape=SHAPE):
    image = nibabel.Nifti1Image(np.random.default_rng(0).normal(size=shape).astype(np.float32), affine)
    nibabel.save(image, path)
    return Case(path.name.split(".")[0], (Source("nifti", (path,)),))


def grid_of(case):
    return inspect_scan(case.images[0]).grid


def some_maps(grid, seed=0):
    shape = grid.shape
    rng = np.random.default_rng(seed)
    label = rng.choice(np.array([0, 3, 7, 255], np.uint8), shape)
    confidence, uncertainty, weight = (rng.integers(0, 256, shape, dtype=np.uint8) for _ in range(3))
    return PseudoLabelMaps(grid, label, confidence, uncertainty, np.where(label == 255, 0, weight).astype(np.uint8))


def some_record(case, **fields):
    known = {"case": case.id, "scan": scan_digest(case), "made_from": "m", "teachers": ("t",), "temperature": 1.5}
    return PseudoLabelRecord.model_validate({**known, "thresholds": {"organ": 0.8}, **fields})


@pytest.fixture
def dataset(tmp_path):
    scans = tmp_path / "scans"
    scans.mkdir()
    cases = tuple(write_scan(scans / f"u{number}.nii.gz", np.diag([1, 2, 3, 1.0])) for number in range(3))
    labelled = write_scan(scans / "l0.nii.gz", np.eye(4), (4, 4, 4))
    return Dataset("test", (*cases, labelled), LABELS, ("image",), ("mr",), ("l0",))


@pytest.fixture
def folder(tmp_path, dataset):
    """Three pseudo-labels: u0 scores 0.5, u1 scores 0.9, u2 was left out before anything was predicted."""
    folder = tmp_path / "pseudo"
    for number, case in enumerate(dataset.cases[:2]):
        record = some_record(case, score=(0.5, 0.9)[number], kept={"organ": 0.7, "tumour": 0.4})
        write_pseudo_label(folder, case, some_maps(grid_of(case), number), record, LABELS)
    left_out = dataset.cases[2]
    record = some_record(left_out, status="left-out", reason="another organ")
    write_pseudo_label(folder, left_out, None, record, LABELS)
    write_summary(folder, read_records(folder))
    return folder


def edit_table(folder, edited, separator=",", **cells):
    """Change a row as a spreadsheet would save it."""
    with (folder / SUMMARY).open(encoding="utf-8-sig", newline="") as stream:
        rows = list(csv.DictReader(stream))
    for row in rows:
        if row["case"] == edited:
            row.update(cells)
    with (folder / SUMMARY).open("w", encoding="utf-8-sig", newline="") as stream:
        writer = csv.DictWriter(stream, rows[0].keys(), delimiter=separator)
        writer.writeheader()
        writer.writerows(rows)


def edit_label(folder, case, array, affine=None):
    path = folder / case / LABEL
    affine = nibabel.load(path).affine if affine is None else affine
    nibabel.save(nibabel.Nifti1Image(array, affine), path)


@settings(max_examples=12, deadline=None)
@given(
    turn=st.tuples(*[st.floats(-0.4, 0.4)] * 3),
    spacing=st.tuples(*[st.floats(0.4, 5.0)] * 3),
    order=st.permutations(range(3)),
    flips=st.tuples(*[st.sampled_from((-1, 1))] * 3),
    shear=st.floats(0, 0.3),
)
def test_maps_lie_exactly_on_their_scan(tmp_path_factory, turn, spacing, order, flips, shear):
    """Oblique, flipped, anisotropic and sheared: the affine and codes are the scan's, for every map."""
    affine = np.eye(4)
    affine[:3, :3] = (Rotation.from_rotvec(turn).as_matrix()[:, list(order)] * flips) * spacing
    affine[:3, 0] += shear * affine[:3, 1]
    affine[:3, 3] = (-31, 17.5, 4)
    tmp_path = tmp_path_factory.mktemp("store")
    case = write_scan(tmp_path / "scan.nii.gz", affine)
    maps = some_maps(grid_of(case))
    record = write_pseudo_label(tmp_path / "out", case, maps, some_record(case), LABELS)
    scan = nibabel.load(case.images[0].files[0])
    for name, array in zip(record.files, (maps.label, maps.confidence, maps.uncertainty, maps.weight), strict=True):
        written = nibabel.load(tmp_path / "out" / case.id / name)
        np.testing.assert_array_equal(written.affine, scan.affine)
        np.testing.assert_array_equal(np.asarray(written.dataobj.get_unscaled()), array)
        assert (written.header["qform_code"], written.header["sform_code"]) == (
            scan.header["qform_code"],
            scan.header["sform_code"],
        )
        assert read_mask(tmp_path / "out" / case.id / name).grid.matches(maps.grid)
    assert read_record(tmp_path / "out", case.id) == record


def test_a_second_library_reads_the_same_voxels(folder):
    array = sitk.GetArrayFromImage(sitk.ReadImage(str(folder / "u0" / LABEL))).T
    np.testing.assert_array_equal(array, some_maps(Grid(SHAPE, np.eye(4))).label)


def test_cases_come_ready_for_training(folder, dataset):
    cases = [case for case, _ in read_pseudo_labels(folder, dataset)]
    assert [case.id for case in cases] == ["u0", "u1"]
    assert cases[0].mask == folder / "u0" / LABEL
    assert cases[0].weight == folder / "u0" / WEIGHT
    assert cases[0].images == dataset.cases[0].images


def test_the_table_lists_the_worst_first(folder):
    with (folder / SUMMARY).open(encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    assert [row["case"] for row in rows] == ["u2", "u0", "u1"]
    assert rows[0]["reason"] == "another organ"
    assert rows[1]["kept"] == "0.4"


def test_what_is_held_back_waits(folder, dataset):
    path = folder / "u0" / RECORD
    record = read_record(folder, "u0")
    path.write_text(record.model_copy(update={"held_back": True}).model_dump_json())
    assert [case.id for case, _ in read_pseudo_labels(folder, dataset)] == ["u1"]
    edit_table(folder, "u0", status="accepted")
    assert [case.id for case, _ in read_pseudo_labels(folder, dataset)] == ["u0", "u1"]


@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_a_person_accepts_in_a_spreadsheet(folder, dataset, separator):
    edit_table(folder, "u0", separator, status="Accepted ", reviewer="JD")
    read_pseudo_labels(folder, dataset)
    record = read_record(folder, "u0")
    assert (record.status, record.reviewer) == ("accepted", "JD")
    label, weight = (read_mask(folder / "u0" / name).array for name in (LABEL, WEIGHT))
    np.testing.assert_array_equal(weight, np.where(label == 255, 0, 255))
    before = (folder / "u0" / WEIGHT).stat().st_mtime_ns
    assert read_pseudo_labels(folder, dataset)[0][0].id == "u0"
    assert (folder / "u0" / WEIGHT).stat().st_mtime_ns == before, "taken in once"


def test_what_is_rejected_never_returns(folder, dataset):
    edit_table(folder, "u0", status="rejected")
    (folder / "u0" / LABEL).unlink()  # whoever rejects may also delete
    assert [case.id for case, _ in read_pseudo_labels(folder, dataset)] == ["u1"]
    edit_table(folder, "u0", status="accepted")
    assert [case.id for case, _ in read_pseudo_labels(folder, dataset)] == ["u1"]
    assert read_record(folder, "u0").status == "rejected"


def test_an_edited_label_counts_fully(folder, dataset):
    drawn = np.zeros(SHAPE, np.uint8)
    drawn[1:3, 1:3, 1:3], drawn[5] = 3, 255
    edit_label(folder, "u1", drawn)
    read_pseudo_labels(folder, dataset)
    assert read_record(folder, "u1").status == "edited"
    weight = read_mask(folder / "u1" / WEIGHT).array
    np.testing.assert_array_equal(weight, np.where(drawn == 255, 0, 255))


def test_a_label_saved_with_other_axes_is_understood(folder, dataset):
    """As programs do that store scans in LPS order."""
    path = folder / "u1" / LABEL
    image = nibabel.load(path)
    drawn = np.zeros(SHAPE, np.uint8)
    drawn[0, 1, 2] = 7
    turned = nibabel.Nifti1Image(drawn[::-1], image.affine @ [[-1, 0, 0, 5], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
    nibabel.save(turned, path)
    read_pseudo_labels(folder, dataset)
    assert read_record(folder, "u1").status == "edited"
    case, _ = read_pseudo_labels(folder, dataset)[1]
    volume, mask = read_case(case)
    np.testing.assert_array_equal(mask.array, drawn)
    assert read_mask(case.weight).grid.matches(volume.grid)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda f: edit_label(f, "u0", np.full(SHAPE, 4, np.uint8)), r"case u0: .*values \[4\]"),
        (lambda f: edit_label(f, "u0", np.zeros((6, 5, 3), np.uint8)), "case u0: .*scan's own grid"),
        (lambda f: edit_label(f, "u0", np.zeros(SHAPE, np.uint8), np.eye(4)), "case u0: .*scan's own grid"),
        (lambda f: edit_label(f, "u0", np.full(SHAPE, 0.5, np.float32)), "case u0: .*can't be used"),
        (lambda f: (f / "u0" / LABEL).write_bytes(b"no image"), "case u0: .*can't be used"),
        (lambda f: (f / "u0" / LABEL).unlink(), "case u0: label.nii.gz is missing"),
        (lambda f: (f / "u0" / WEIGHT).write_bytes((f / "u1" / WEIGHT).read_bytes()), "case u0: weight.*edit label"),
        (lambda f: (f / "u0" / RECORD).unlink(), "case u0: record.json is missing"),
        (lambda f: (f / "u0" / RECORD).write_text("{}"), "case u0: record.json: "),
        (lambda f: (f / "u0").rename(f / "u7"), "case u7: its record is of case u0"),
        (lambda f: edit_table(f, "u0", status="fine"), "case u0 has the status 'fine'"),
        (lambda f: edit_table(f, "u0", case="u9"), "no pseudo-label of case 'u9'"),
        (lambda f: (f / SUMMARY).write_text("status,case\naccepted\n"), "no pseudo-label of case ''"),
        (lambda f: (f / SUMMARY).write_text("case,status\nu0,rejected\nu0,\n"), "case u0 is there twice"),
        (lambda f: (f / SUMMARY).write_text("name,state\n"), "columns case and status are gone"),
        (lambda f: (f / SUMMARY).write_text(f'case,status\n"{"u0," * 50_000}'), "csv: not a readable table"),
        (lambda f: edit_table(f, "u2", status="accepted"), "u2 can't be accepted: nothing was predicted"),
    ],
)
def test_nonsense_is_refused_by_name_and_changes_nothing(folder, dataset, edit, message):
    edit(folder)
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    with pytest.raises(DatasetError, match=message):
        read_pseudo_labels(folder, dataset)
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def test_a_case_that_is_to_be_made_anew_may_stand_in_the_table(folder, dataset):
    shutil.rmtree(folder / "u0")
    assert [case.id for case, _ in read_pseudo_labels(folder, dataset)] == ["u1"]


def test_a_folder_without_its_table_is_read(folder, dataset):
    (folder / SUMMARY).unlink()
    assert len(read_pseudo_labels(folder, dataset)) == 2


def test_folders_that_hold_nothing_are_refused(tmp_path, dataset, folder):
    with pytest.raises(DatasetError, match="no such folder"):
        read_pseudo_labels(tmp_path / "nowhere", dataset)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DatasetError, match="no pseudo-label is there"):
        read_pseudo_labels(tmp_path / "empty", dataset)
    for case in ("u0", "u1"):
        edit_table(folder, case, status="rejected")
    with pytest.raises(DatasetError, match="none of the 3 pseudo-labels"):
        read_pseudo_labels(folder, dataset)


def test_cases_of_another_dataset_and_held_out_ones_are_refused(folder, dataset):
    with pytest.raises(DatasetError, match="doesn't have: u0"):
        read_pseudo_labels(folder, replace(dataset, cases=dataset.cases[1:]))
    with pytest.raises(DatasetError, match="held-out cases: u1"):
        read_pseudo_labels(folder, replace(dataset, validation=("u1",)))
    assert [case.id for case, _ in read_pseudo_labels(folder, replace(dataset, train=("l0", "u0")))] == ["u1"]


def test_a_scan_that_changed_is_noticed(folder, dataset):
    write_scan(dataset.cases[0].images[0].files[0], np.diag([1, 2, 3, 1.0]), (6, 5, 5))
    with pytest.raises(DatasetError, match="scans of u0 have changed"):
        read_pseudo_labels(folder, dataset)


def test_a_decision_that_was_interrupted_is_finished(folder, dataset, monkeypatch):
    """Killed between the weights and the record: the next read does both again."""
    from medseg.catalog import pseudo_review

    edit_table(folder, "u0", status="accepted")

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(pseudo_review, "write_record", killed)
        with pytest.raises(KeyboardInterrupt):
            take_in(folder, dataset)
    assert read_record(folder, "u0").status == "auto"
    assert {record.case: record.status for record in take_in(folder, dataset)}["u0"] == "accepted"


def test_255_as_a_label_is_refused(tmp_path, dataset):
    labels = LabelMap.parse({"organ": 255})
    case = dataset.cases[0]
    with pytest.raises(LabelError, match="255 is a label"):
        write_pseudo_label(tmp_path / "out", case, some_maps(grid_of(case)), some_record(case), labels)
    assert not (tmp_path / "out" / case.id).exists()
