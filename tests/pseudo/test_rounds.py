"""Rounds with a training that is told its outcome: what is trained on what, promoted, refused, rolled back, resumed."""

from __future__ import annotations

import csv
import json
import re
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from medseg.catalog.datasets import read_dataset
from medseg.catalog.pseudo_labels import SUMMARY, read_records
from medseg.catalog.pseudo_review import read_pseudo_labels
from medseg.catalog.splits import k_folds
from medseg.errors import ConfigError, DatasetError
from medseg.networks.model import load_model
from medseg.pseudo import rounds
from medseg.pseudo.rounds import RoundsOptions, self_train
from medseg.pseudo.teachers import Teacher, Teachers, network_digest
from medseg.quality.metrics import State, StructureScore
from medseg.training.run import RunOptions, TrainingRun, run_training
from medseg.training.setup import set_up


class Training:
    """Stands in for run_training: writes a model of random weights, and scores held-out cases as told."""

    def __init__(self, write_run, dice):
        self.write_run, self.dice, self.folders, self.configs = write_run, dice, [], {}

    def __call__(self, config, folder, options):
        name = "/".join(folder.parts[folder.parts.index("out") + 1 :])
        self.folders.append(name)
        self.configs[name] = config
        dataset = read_dataset(config.dataset)
        if config.unlabelled.method == "pseudo-labels":
            assert read_pseudo_labels(config.unlabelled.pseudo_labels, dataset)
        self.write_run(folder, config, max(1, options.folds), seed=len(self.folders))
        held = dataset.train if options.folds else dataset.validation
        scores = [self._score(case, target, name) for case in held for target in ("dim", "bright")]
        return TrainingRun(folder / "model", load_model(folder / "model").plan, scores)

    def _score(self, case, target, name):
        return StructureScore(case, target, State.SCORED, self.dice(name, case), 0.5, 1.0, 0.5, 1.0, 1.0)


@pytest.fixture
def start(write_run, teachers, make_experiment, blobs, monkeypatch, tmp_path):
    """Begin rounds whose networks see intensities, whatever weights lie on disk."""
    members = [member.network for member in teachers.members]

    def put_eyes(loaded: Teachers) -> Teachers:
        made = [
            Teacher(members[number % 2], network_digest(member.network), member.learnt, member.held_out)
            for number, member in enumerate(loaded.members)
        ]
        return Teachers(tuple(made), teachers.plan, loaded.labels, teachers.inference)

    for name in ("read_teachers", "gather_teachers"):
        real = getattr(rounds, name)
        monkeypatch.setattr(rounds, name, lambda *args, real=real: put_eyes(real(*args)))

    def go(dice=lambda name, case: 0.8, folder=None, churn=0.5, **sections):
        monkeypatch.setattr(rounds, "churn", lambda *_: churn)
        sections.setdefault("pseudo", {})
        sections["pseudo"] = {"folds": 2, **sections["pseudo"]}
        train = Training(write_run, dice)
        options = sections.pop("options", {})
        config = make_experiment(folder or blobs, **sections)
        return self_train(config, tmp_path / "out", RoundsOptions("cpu", train=train, **options)), train

    return go


def better(name, case):
    return 0.8 if name == "teacher" else 0.85 if "round_1" in name else 0.9


def test_better_students_are_promoted(start, tmp_path):
    result, train = start(better)
    promotion = result.promotion
    assert promotion.promoted
    assert promotion.verified
    assert promotion.model == "student/model"
    assert (tmp_path / "out" / promotion.model / "model.json").is_file()
    assert json.loads((tmp_path / "out" / "promotion.json").read_text())["promoted"] is True
    assert train.folders == [
        "teacher",
        "round_1/fold_0/student",
        "round_1/fold_1/student",
        "round_2/fold_0/student",
        "round_2/fold_1/student",
        "student",
    ]
    assert "round_2/pseudo_labels" in str(train.configs["student"].unlabelled.pseudo_labels)
    assert train.configs["teacher"].unlabelled.method == "supervised"


def test_the_promoted_student_knows_what_was_held_out_from_its_fold_students(start, tmp_path):
    result, _ = start(better)
    model = load_model(tmp_path / "out" / result.promotion.model)
    assert model.scores["mean"] > 0.8
    assert model.postprocessing is not None
    assert load_model(tmp_path / "out" / "round_2" / "fold_0" / "student" / "model").postprocessing is None


def test_worse_students_are_refused_and_never_trained_to_the_end(start, tmp_path):
    result, train = start(lambda name, case: 0.8 if name == "teacher" else 0.79 + 0.02 * (case == "l0"))
    promotion = result.promotion
    assert not promotion.promoted
    assert promotion.model == "teacher/model"
    assert "worse than supervised" in promotion.reason or "rolled back" in promotion.reason
    assert "student" not in train.folders


def test_a_round_that_makes_it_worse_is_rolled_back(start):
    falling = {"teacher": 0.8, "round_1": 0.85, "round_2": 0.7}
    result, train = start(lambda name, case: falling[name.split("/")[0]] if name != "student" else 0.0)
    assert [report.kept for report in result.promotion.rounds] == [True, False]
    assert "rolled back" in result.promotion.rounds[1].reason
    assert result.promotion.promoted
    assert "round_1/pseudo_labels" in str(train.configs["student"].unlabelled.pseudo_labels)


def test_rounds_end_when_labels_no_longer_change(start):
    result, train = start(better, churn=0.005)
    assert len(result.promotion.rounds) == 2
    assert "learns nothing new" in result.promotion.rounds[1].reason
    assert result.promotion.promoted
    assert "round_2/fold_0/student" not in train.folders


def test_no_fold_student_sees_its_fold(start, tmp_path):
    _, train = start(better)
    dataset = read_dataset(train.configs["teacher"].dataset)
    for number, fold in enumerate(k_folds(dataset.labelled, 2, 0)):
        for round_number in (1, 2):
            config = train.configs[f"round_{round_number}/fold_{number}/student"]
            assert config.dataset.validation == [case.id for case in fold.validation]
            assert config.dataset.train == [case.id for case in fold.train]
            records = read_records(config.unlabelled.pseudo_labels)
            taught = ("teacher", number) if round_number == 1 else (f"round_1/fold_{number}/student", 0)
            network = load_model(tmp_path / "out" / taught[0] / "model").networks[taught[1]]
            assert {record.teachers for record in records} == {(network_digest(network),)}


def test_no_fold_student_learns_from_other_scans_of_its_patients(start, tmp_path):
    """u0, u1 and u2 are further scans of the patients of l0, l1 and l2."""
    _, train = start(better, dataset={"patients": r"[lu](\d)"}, pseudo={"rounds": 1})
    out = tmp_path / "out" / "round_1"
    for fold in ("fold_0", "fold_1"):  # as an earlier version left them, but for what their teacher knows
        beside = shutil.ignore_patterns("calibration.json")
        shutil.copytree(out / "pseudo_labels", out / fold / "pseudo_labels", ignore=beside, dirs_exist_ok=True)
    path = out / "pseudo_labels" / "u1" / "label.nii.gz"
    label = nib.load(path)
    nib.save(nib.Nifti1Image(np.ones(label.shape, np.uint8), label.affine), path)
    decide(out / "pseudo_labels", "u2", "rejected")
    _, train = start(better, dataset={"patients": r"[lu](\d)"}, pseudo={"rounds": 1})
    for number in range(2):
        config = train.configs[f"round_1/fold_{number}/student"]
        labelled = {record.case for record in read_records(config.unlabelled.pseudo_labels)}
        assert labelled == {f"u{n}" for n in range(3) if f"l{n}" not in config.dataset.validation}
        assert set_up(config, tmp_path / f"fold_{number}").train


def test_without_a_scan_of_other_patients_the_supervised_model_is_kept(start, blobs, tmp_path):
    folder = tmp_path / "one"
    shutil.copytree(blobs, folder)
    for name in ("u1", "u2"):
        (folder / "images" / f"{name}.nii.gz").unlink()
    result, _ = start(better, folder=folder, dataset={"patients": r"[lu](\d)"})
    assert not result.promotion.promoted
    assert re.search(r"no unlabelled scan is left to learn from without fold \d", result.promotion.reason)


def test_no_fold_decides_when_its_teacher_or_student_stops(start):
    """A teacher that stopped where its fold was served best would hand that on to the student measured there."""
    _, train = start(better, training={"validate_every": 10, "patience": 1})
    measured = [train.configs[name].training for name in train.folders if name != "student"]
    assert {(training.validate_every, training.patience) for training in measured} == {(0, 0)}
    assert train.configs["student"].training.patience == 1, "cases held out for validation may stop it"


def test_steps_of_the_gate_are_a_share(start):
    _, train = start(better, pseudo={"gate_steps": 0.5, "rounds": 1})
    assert train.configs["round_1/fold_0/student"].training.steps == 20
    assert train.configs["student"].training.steps == 40


def test_killed_rounds_go_on_and_done_ones_are_not_repeated(start):
    def killed_in_round_2(name, case):
        if name == "round_2/fold_1/student":
            raise KeyboardInterrupt
        return better(name, case)

    with pytest.raises(KeyboardInterrupt):
        start(killed_in_round_2)
    result, train = start(better)
    assert result.promotion.promoted
    assert not any(name.startswith("round_1") for name in train.folders)
    assert len(result.promotion.rounds) == 2


def test_people_are_asked_between_rounds_and_their_decisions_go_on(start, tmp_path):
    waiting, train = start(better, options={"pause": True})
    assert waiting.promotion is None
    assert "round_1/pseudo_labels" in waiting.waiting
    assert train.folders == ["teacher"]
    table = tmp_path / "out" / "round_1" / "pseudo_labels" / SUMMARY
    rows = list(csv.reader(table.read_text().splitlines()))
    for row in rows:
        row[1] = "rejected" if row[0] == "u0" else row[1]
    with table.open("w", newline="") as stream:
        csv.writer(stream).writerows(rows)
    again, _ = start(better, options={"pause": True})
    assert "round_2/pseudo_labels" in again.waiting
    done, train = start(better, options={"pause": True})
    assert done.promotion.promoted
    for folder in ("round_1/fold_0", "round_1/fold_1", "round_2", "round_2/fold_1"):
        statuses = {r.case: r.status for r in read_records(tmp_path / "out" / folder / "pseudo_labels")}
        assert statuses["u0"] == "rejected"


def decide(folder, case, status):
    table = folder / SUMMARY
    rows = list(csv.reader(table.read_text().splitlines()))
    with table.open("w", newline="") as stream:
        csv.writer(stream).writerows([[row[0], status, *row[2:]] if row[0] == case else row for row in rows])


def statuses(folder):
    return {record.case: record.status for record in read_records(folder / "pseudo_labels")}


def test_later_decisions_reach_fold_students_and_later_rounds(start, tmp_path):
    out = tmp_path / "out"
    start(better)
    decide(out / "round_1" / "pseudo_labels", "u1", "accepted")
    start(better)
    assert statuses(out / "round_1")["u1"] == statuses(out / "round_2")["u1"] == "accepted"
    fold = read_records(out / "round_1" / "fold_0" / "pseudo_labels")
    assert {(record.status, len(record.teachers)) for record in fold if record.case == "u1"} == {("auto", 1)}
    decide(out / "round_1" / "pseudo_labels", "u1", "rejected")
    start(better)
    for folder in ("round_1", "round_1/fold_0", "round_1/fold_1", "round_2", "round_2/fold_0"):
        assert statuses(out / folder)["u1"] == "rejected", folder


def test_a_corrected_label_replaces_the_accepted_one(start, tmp_path):
    out = tmp_path / "out"
    start(better)
    decide(out / "round_1" / "pseudo_labels", "u1", "accepted")
    start(better)
    path = out / "round_1" / "pseudo_labels" / "u1" / "label.nii.gz"
    label = nib.load(path)
    drawn = np.zeros(label.shape, np.uint8)
    drawn[4:8, 4:8, 4:8] = 1
    nib.save(nib.Nifti1Image(drawn, label.affine), path)
    start(better)
    for folder in ("round_1/fold_0", "round_2", "round_2/fold_1"):
        copy = nib.load(out / folder / "pseudo_labels" / "u1" / "label.nii.gz")
        np.testing.assert_array_equal(np.asarray(copy.dataobj), drawn)
        assert statuses(out / folder)["u1"] == "edited"


def test_a_decision_in_a_later_round_is_not_overwritten(start, tmp_path):
    out = tmp_path / "out"
    start(better)
    decide(out / "round_1" / "pseudo_labels", "u1", "accepted")
    start(better)
    decide(out / "round_2" / "pseudo_labels", "u1", "rejected")
    start(better)
    assert statuses(out / "round_1")["u1"] == "accepted"
    assert statuses(out / "round_2")["u1"] == statuses(out / "round_2" / "fold_0")["u1"] == "rejected"


def test_settings_that_students_do_not_follow_from_keep_them(start):
    start(better, pseudo={"rounds": 1})
    _, train = start(better, pseudo={"rounds": 2}, training={"checkpoint_every": 7})
    assert not any(name.startswith("round_1") for name in train.folders)
    assert "round_2/fold_0/student" in train.folders


def test_a_sitting_that_was_killed_before_people_were_asked_asks_them(start, tmp_path, monkeypatch):
    real = rounds._Rounds._ask
    monkeypatch.setattr(rounds._Rounds, "_ask", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        start(better, options={"pause": True})
    monkeypatch.setattr(rounds._Rounds, "_ask", real)
    waiting, train = start(better, options={"pause": True})
    assert "round_1/pseudo_labels" in waiting.waiting
    assert not any(name.startswith("round_1") for name in train.folders)


def test_a_student_of_labels_before_the_review_is_trained_anew(start, tmp_path):
    start(better, pseudo={"rounds": 1})
    stale = tmp_path / "out" / "round_1" / "fold_0" / "student" / "stale"
    stale.write_text("from before")
    table = tmp_path / "out" / "round_1" / "pseudo_labels" / SUMMARY
    table.write_text(table.read_text().replace("u1,auto", "u1,rejected"))
    start(better, pseudo={"rounds": 1})
    assert not stale.exists()


def test_too_few_labelled_scans_are_said_to_be_unverified(start, blobs, tmp_path):
    few = {"train": ["l0", "l1", "l2"], "validation": ["l3", "l4"]}
    result, train = start(better, dataset=few)
    promotion = result.promotion
    assert promotion.promoted
    assert not promotion.verified
    assert "not verified: of 3 labelled scans" in promotion.reason
    assert promotion.labelled_weight == 0.5
    assert train.folders == ["teacher", "round_1/student", "round_2/student"]
    assert (tmp_path / "out" / promotion.model / "model.json").is_file()


def test_sabotaged_scans_leave_the_supervised_model(start, blobs, tmp_path):
    """Noise in place of the unlabelled scans: all are left out, and nothing is promoted."""
    folder = tmp_path / "sabotaged"
    shutil.copytree(blobs, folder)
    for number in range(3):
        path = folder / "images" / f"u{number}.nii.gz"
        noise = np.random.default_rng(number).normal(0, 80, (22, 20, 18)).astype(np.float32)
        nib.save(nib.Nifti1Image(noise, nib.load(path).affine), path)
    result, train = start(better, folder=folder)
    assert not result.promotion.promoted
    assert "no unlabelled scan is left" in result.promotion.reason
    assert train.folders == ["teacher"]


def test_what_can_not_begin_is_one_sentence(start, blobs, tmp_path):
    with pytest.raises(ConfigError, match="labelled_weight is 1"):
        start(unlabelled={"labelled_weight": 1})
    lists = {"train": ["l0", "l1", "l2", "l3", "l4"], "validation": []}
    only = tmp_path / "only"
    shutil.copytree(blobs, only)
    for path in (only / "images").glob("u*"):
        path.unlink()
    with pytest.raises(DatasetError, match="no unlabelled scan"):
        start(folder=only, dataset=lists)


def test_time_that_is_up_is_said(start, monkeypatch, write_run):
    monkeypatch.setattr(Training, "__call__", lambda self, config, folder, options: TrainingRun(None, None))
    result, _ = start(better, options={"max_seconds": 1.0})
    assert result.promotion is None
    assert "time is up" in result.waiting


@pytest.mark.slow
def test_real_rounds_end_with_a_model(make_experiment, blobs, tmp_path):
    config = make_experiment(blobs, training={"steps": 60}, pseudo={"rounds": 1, "folds": 2, "leave_out": False})
    result = self_train(config, tmp_path / "out", RoundsOptions("cpu"))
    assert load_model(tmp_path / "out" / result.promotion.model).labels.targets == ("dim", "bright")
    assert len(result.promotion.supervised) == 10
    assert run_training(config, tmp_path / "plain", RunOptions("cpu")).model == Path(tmp_path / "plain" / "model")
