"""Labelling with trained teachers: what is written, what is resumed, what is left out, what is refused."""

from __future__ import annotations

import csv
import json
import shutil
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

from medseg.catalog.pseudo_labels import REPORT, SUMMARY, read_record
from medseg.catalog.pseudo_review import read_pseudo_labels
from medseg.catalog.splits import Fold, k_folds
from medseg.config import PseudoLabelConfig, save_config
from medseg.errors import ConfigError, DatasetError, ModelError, OutputError
from medseg.io.nifti import read_mask
from medseg.labels import LabelMap
from medseg.pseudo.label import Labeller, check_similarity, hold_back
from medseg.pseudo.teachers import gather_teachers, read_run

CPU = torch.device("cpu")


@pytest.fixture(scope="session")
def labelled_once(labeller, dataset, tmp_path_factory):
    folder = tmp_path_factory.mktemp("labels") / "pseudo"
    return labeller.label(dataset, folder)


@pytest.fixture
def folder(labelled_once, tmp_path):
    """A copy that a test may change."""
    shutil.copytree(labelled_once.folder, tmp_path / "pseudo")
    return tmp_path / "pseudo"


def test_what_counts_is_mostly_right(labelled_once, blobs):
    assert [record.status for record in labelled_once.records] == ["auto"] * 3
    for case in ("u0", "u1", "u2"):
        mask = read_mask(blobs / "truth" / f"{case}.nii.gz").array
        label = read_mask(labelled_once.folder / case / "label.nii.gz").array
        known = label != 255
        assert (label[known] == mask[known]).mean() > 0.97
        assert 0.5 < known.mean() < 1
        assert (read_mask(labelled_once.folder / case / "weight.nii.gz").array[~known] == 0).all()
        for value in (1, 2):
            assert (label == value).sum() > 0.3 * (mask == value).sum()


def test_the_teachers_are_described(labelled_once):
    report = json.loads((labelled_once.folder / REPORT).read_text())
    assert report["held_out_cases"] == 5
    assert report["teachers"] == 2
    assert 0.1 <= report["temperature"] <= 10
    assert set(report["thresholds"]) == {"background", "dim", "bright"}
    assert all(0.6 <= value <= 0.95 for value in report["thresholds"].values())
    assert report["ece_after"] <= report["ece_before"] + 0.02
    record = labelled_once.records[0]
    assert len(record.teachers) == 2
    assert record.volumes_ml.keys() == {"dim", "bright"}
    assert record.agreement is not None


def test_students_read_what_teachers_wrote(folder, dataset):
    cases = [case for case, _ in read_pseudo_labels(folder, dataset)]
    assert [case.id for case in cases] == ["u0", "u1", "u2"]
    assert all(case.mask and case.weight for case in cases)


def test_a_stopped_labelling_goes_on_and_unchanged_scans_are_skipped(labeller, dataset, tmp_path):
    class Stop(Exception):
        pass

    def stop(what, done, total):
        if what == "unlabelled scans" and done == 2:
            raise Stop

    before, labeller.tell = labeller.tell, stop
    try:
        with pytest.raises(Stop):
            labeller.label(dataset, tmp_path / "out")
    finally:
        labeller.tell = before
    made = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("label.nii.gz")}
    assert len(made) == 2
    again = labeller.label(dataset, tmp_path / "out")
    assert again.made == 1
    assert {path: path.stat().st_mtime_ns for path in made} == made
    assert labeller.label(dataset, tmp_path / "out").made == 0


def test_a_place_that_can_t_be_written_is_refused_before_any_scan_is_looked_at(teachers, dataset, tmp_path):
    (tmp_path / "file").touch()
    looked_at = []
    labeller = Labeller(teachers, PseudoLabelConfig(), CPU, lambda *progress: looked_at.append(progress))
    with pytest.raises(OutputError, match="is a file, not a folder"):
        labeller.label(dataset, tmp_path / "file" / "out")
    assert looked_at == []


def test_a_damaged_folder_is_made_again(labeller, dataset, folder):
    (folder / "u1" / "confidence.nii.gz").write_bytes(b"")
    assert labeller.label(dataset, folder).made == 1
    assert read_mask(folder / "u1" / "confidence.nii.gz").array.any()


def test_what_people_decided_stays(labeller, dataset, folder):
    table = folder / SUMMARY
    rows = list(csv.reader(table.read_text().splitlines()))
    for row in rows:
        row[1] = {"u0": "rejected", "u1": "accepted"}.get(row[0], row[1])
    with table.open("w", newline="") as stream:
        csv.writer(stream).writerows(rows)
    other = Labeller(labeller.teachers, PseudoLabelConfig(precision=0.9, prototype_gate=False), CPU)
    other.__dict__["evidence"] = labeller.evidence
    labelling = other.label(dataset, folder)
    assert labelling.made == 1
    assert {record.case: record.status for record in labelling.records} == {
        "u0": "rejected",
        "u1": "accepted",
        "u2": "auto",
    }


def test_a_share_of_similarity_is_judged_by_held_out_scans_and_makes_other_labels(labeller, dataset, folder):
    before = json.loads((folder / REPORT).read_text())
    mixed = Labeller(labeller.teachers, PseudoLabelConfig(prototype_share=0.5), CPU)
    assert mixed.label(dataset, folder).made == 3
    after = json.loads((folder / REPORT).read_text())
    assert after["ece_before"] != before["ece_before"]
    assert after["thresholds"] != before["thresholds"]


@pytest.mark.parametrize(
    ("labels", "network", "words"),
    [
        ({"whole": [1, 2], "core": [2]}, "unet", "regions overlap"),
        ({"dim": 1}, "segresnet", "segresnet shows no features"),
    ],
)
def test_similarity_is_refused_where_there_is_none(labels, network, words):
    check_similarity(PseudoLabelConfig(), LabelMap.parse(labels), network)
    with pytest.raises(ConfigError, match=words):
        check_similarity(PseudoLabelConfig(prototype_share=0.3), LabelMap.parse(labels), network)


def test_one_teacher_alone_knows_nothing_of_its_fold(labeller, dataset, tmp_path):
    evidence = labeller.evidence.without(0)
    hidden = {case.id for case in labeller.teachers.members[0].held_out}
    assert hidden
    assert not hidden & {case.case for case in evidence.cases}
    assert not hidden & {exam.case for exam in evidence.exams}
    assert evidence.exams
    labelling = labeller.label(dataset, tmp_path / "alone", alone=0)
    assert labelling.records[0].teachers == (labeller.teachers.members[0].digest,)
    assert len(evidence.prototypes) == 1


def test_the_best_scans_come_first(labelled_once, folder):
    records = [
        record.model_copy(update={"score": score})
        for record, score in zip(labelled_once.records, (0.5, 0.9, 0.7), strict=True)
    ]
    held = hold_back(folder, records, 0.5)
    assert [record.held_back for record in held] == [True, False, False]
    assert read_record(folder, "u0").held_back
    assert not any(record.held_back for record in hold_back(folder, held, 1.0))
    unranked = [record.model_copy(update={"score": None}) for record in records]
    assert not any(record.held_back for record in hold_back(folder, unranked, 0.5))


@pytest.fixture
def with_scan(blobs, dataset, tmp_path):
    """The dataset with another unlabelled scan in place of its own."""

    def make(array, affine=None, patient=""):
        path = tmp_path / "odd.nii.gz"
        nib.save(nib.Nifti1Image(array, np.diag([1.5, 1.5, 2.0, 1.0]) if affine is None else affine), path)
        case = replace(dataset.cases[-1], id="odd", patient=patient or "odd")
        case = replace(case, images=(replace(case.images[0], files=(path,)),))
        return replace(dataset, cases=(*dataset.cases[:5], case))

    return make


@pytest.mark.parametrize(
    ("array", "affine", "reason"),
    [
        (np.random.default_rng(0).normal(0, 50, (22, 20, 18)), None, "noise, or another modality"),
        (np.full((22, 20, 18), np.nan), None, "NaN"),
        (np.linspace(0, 1, 22 * 20 * 18).reshape(22, 20, 18), np.diag([9, 9, 9, 1.0]), "voxels"),
        (np.zeros((22, 20, 18, 3)), None, "channel"),
        (np.linspace(0, 1, 22 * 20 * 18).reshape(22, 20, 18), None, "."),
    ],
)
def test_scans_that_do_not_belong_are_left_out(labeller, with_scan, tmp_path, array, affine, reason):
    import re

    labelling = labeller.label(with_scan(array.astype(np.float32), affine), tmp_path / "out")
    record = labelling.records[0]
    assert record.status == "left-out"
    assert re.search(reason, record.reason)
    with pytest.raises(DatasetError, match="none of the 1 pseudo-labels"):
        read_pseudo_labels(tmp_path / "out", with_scan(array.astype(np.float32), affine))


def test_copies_and_patients_of_others_are_refused(labeller, dataset, with_scan, tmp_path):
    copy = shutil.copy(dataset.cases[0].images[0].files[0], tmp_path / "copy.nii.gz")
    scan = with_scan(np.zeros((2, 2, 2), np.float32))
    twin = replace(scan.cases[-1], images=(replace(scan.cases[-1].images[0], files=(Path(copy),)),))
    with pytest.raises(DatasetError, match="odd and l0"):
        labeller.label(replace(scan, cases=(*scan.cases[:5], twin)), tmp_path / "out")
    kin = replace(dataset, validation=("u0",), cases=tuple(
        replace(case, patient="same") if case.id in ("u0", "u1") else case for case in dataset.cases
    ))  # fmt: skip
    with pytest.raises(DatasetError, match="u0 and u1"):
        labeller.label(kin, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_no_unlabelled_scan_is_one_sentence(labeller, dataset, tmp_path):
    with pytest.raises(DatasetError, match="no unlabelled scan"):
        labeller.label(replace(dataset, cases=dataset.cases[:5]), tmp_path / "out")


def test_a_lone_teacher_labels_with_fixed_thresholds(labeller, dataset, tmp_path):
    alone = labeller.teachers.alone(1)
    labelling = Labeller(alone, PseudoLabelConfig(), CPU).label(dataset, tmp_path / "out")
    report = json.loads((labelling.folder / REPORT).read_text())
    assert report["held_out_cases"] == 0
    assert set(report["thresholds"].values()) == {0.85}
    assert report["temperature"] == 1.0


def test_a_run_becomes_teachers_with_its_own_folds(write_run, make_experiment, blobs, dataset, tmp_path):
    run = read_run(write_run(tmp_path / "run", make_experiment(blobs), 2))
    folds = k_folds(dataset.labelled, 2, 0)
    assert [member.held_out for member in run.teachers.members] == [fold.validation for fold in folds]
    assert len(set(run.teachers.digests)) == 2
    changed = read_run(run.folder, overrides=["dataset.patients='^(.)'"])
    assert [member.held_out for member in changed.teachers.members] == [fold.validation for fold in folds]
    single = read_run(write_run(tmp_path / "single", make_experiment(blobs), 1), overrides=["pseudo.precision=0.8"])
    assert single.teachers.members[0].held_out == ()
    assert single.config.pseudo.precision == 0.8


@pytest.mark.parametrize("override", ["training.seed=5", "inference.flips=true", "name=other"])
def test_what_would_change_nothing_is_refused(write_run, make_experiment, blobs, tmp_path, override):
    run = write_run(tmp_path / "run", make_experiment(blobs), 1)
    section = override.partition("=")[0].partition(".")[0]
    with pytest.raises(ConfigError, match=f"{section} can't be changed for pseudo-labels, only pseudo and dataset"):
        read_run(run, overrides=[override])


def test_teachers_know_what_their_run_started_from_had_learnt(write_run, make_experiment, blobs, tmp_path):
    folder = write_run(tmp_path / "run", make_experiment(blobs), 2)
    record = folder / "model" / "model.json"
    said = json.loads(record.read_text())
    said["provenance"]["also_learnt"] = ["elsewhere"]
    record.write_text(json.dumps(said))
    teachers = read_run(folder).teachers
    assert teachers.learnt_from == ("elsewhere", *(f"l{number}" for number in range(5)))
    assert gather_teachers([folder], [Fold((), ())]).learnt_from == ("elsewhere",)


def test_runs_that_can_not_teach_are_refused(write_run, make_experiment, blobs, tmp_path):
    with pytest.raises(ModelError, match=r"no config.yaml"):
        read_run(tmp_path)
    run = write_run(tmp_path / "run", make_experiment(blobs), 2)
    fewer = tmp_path / "fewer"
    shutil.copytree(blobs, fewer)
    (fewer / "labels" / "l4.nii.gz").unlink()
    with pytest.raises(DatasetError, match="l4 differ"):
        read_run(run, fewer)
    other = make_experiment(blobs, dataset={"labels": {"dim": 1, "bright": 2, "more": 3}})
    save_config(other, run / "config.yaml")
    with pytest.raises(ModelError, match="3 more"):
        read_run(run)
    shutil.rmtree(run / "model")
    with pytest.raises(ModelError, match="no model yet"):
        read_run(run)
