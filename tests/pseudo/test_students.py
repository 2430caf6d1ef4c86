"""Students of pseudo-labels: what may measure them, and what a person's decisions are worth."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from medseg.catalog.pseudo_labels import read_record, write_record
from medseg.errors import ConfigError, DatasetError
from medseg.networks.model import load_model
from medseg.pseudo.label import Labeller
from medseg.training.labelled_weight import FALLBACK
from medseg.training.pretraining import run_pretraining
from medseg.training.run import RunOptions, run_training
from medseg.training.setup import set_up

CPU = RunOptions("cpu")


@pytest.fixture
def student(labeller: Labeller, dataset, make_experiment, blobs, tmp_path):
    """Return a configuration that learns from the teachers' labels."""
    folder = tmp_path / "pseudo"
    labeller.label(dataset, folder)

    def make(wishes=(), **unlabelled):
        changed = {"method": "pseudo-labels", "pseudo_labels": str(folder), **unlabelled}
        return make_experiment(blobs, dataset=dict(wishes), training={"steps": 2}, unlabelled=changed)

    return make


def test_cases_that_taught_the_teachers_do_not_measure_their_student(student, tmp_path):
    with pytest.raises(DatasetError, match="have learnt from 1 of the 1 held-out cases: l4"):
        run_training(student({"validation": ["l4"]}), tmp_path / "run", CPU)
    with pytest.raises(ConfigError, match=r"folds would be scored .*self_training.py"):
        run_training(student(), tmp_path / "run", RunOptions("cpu", folds=2))


def test_nor_do_they_choose_the_weight_of_its_losses(student, tmp_path):
    run = run_training(student(), tmp_path / "run", CPU)
    assert run.weight.weight == FALLBACK
    assert "can't judge pseudo-labels" in run.weight.reason
    assert not (tmp_path / "run" / "labelled_weight").exists()


def test_a_student_knows_what_its_teachers_knew(student, tmp_path):
    config = student(labelled_weight=0.5)
    report = config.unlabelled.pseudo_labels / "calibration.json"
    said = json.loads(report.read_text())
    report.write_text(json.dumps({**said, "learnt_from": [*said["learnt_from"], "elsewhere"]}))
    model = run_training(config, tmp_path / "run", CPU).model
    assert load_model(model).provenance["also_learnt"] == ["elsewhere"]


def test_a_report_that_is_no_report_is_named(student, tmp_path):
    config = student()
    (config.unlabelled.pseudo_labels / "calibration.json").write_text("[]")
    with pytest.raises(DatasetError, match=r"calibration.json can't be read"):
        run_training(config, tmp_path / "run", CPU)


def test_a_lost_report_is_asked_for_and_written_again(student, labeller, dataset, tmp_path):
    """Without it nobody would know what the teachers have learnt from."""
    config = student({"validation": ["l4"]})
    report = config.unlabelled.pseudo_labels / "calibration.json"
    before = report.read_bytes()
    report.unlink()
    with pytest.raises(DatasetError, match=r"calibration.json is missing.*run medseg pseudo-label again"):
        run_training(config, tmp_path / "run", CPU)
    assert labeller.label(dataset, report.parent).made == 0
    assert report.read_bytes() == before


def test_what_a_person_accepted_trains_though_the_other_labels_weigh_nothing(student, tmp_path):
    config = student(labelled_weight=1)
    folder = Path(config.unlabelled.pseudo_labels)
    write_record(folder, read_record(folder, "u1").model_copy(update={"status": "accepted"}))
    setup = set_up(config, tmp_path / "run")
    assert [case.id for case in setup.reviewed] == ["u1"]
    assert setup.unlabelled == ()
    model = run_training(config, tmp_path / "run", CPU).model
    assert load_model(model).provenance["also_learnt"] == ["u1"]
    with pytest.raises(ConfigError, match="folds would be scored on cases that the teachers of the pseudo-labels have"):
        run_training(config, tmp_path / "folds", RunOptions("cpu", folds=2))


def test_a_copy_of_a_test_case_is_not_learnt_from(make_experiment, blobs, tmp_path):
    folder = tmp_path / "blobs"
    shutil.copytree(blobs, folder)
    shutil.copy(folder / "images" / "l4.nii.gz", folder / "images" / "copy.nii.gz")
    (folder / "splits.json").write_text(json.dumps({"test": ["l4"]}))
    config = make_experiment(folder, dataset={"splits": "splits.json"}, unlabelled={"method": "mix-teacher"})
    for run in (run_training, run_pretraining):
        with pytest.raises(DatasetError, match="hold the same image as a training case: l4 and copy"):
            run(config, tmp_path / "run", CPU)
