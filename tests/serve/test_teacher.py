from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from threading import Event

import numpy as np
import pytest

from medseg.errors import ConfigError, DatasetError, OutputError
from medseg.io.nifti import write_mask, write_volume
from medseg.networks.model import load_model
from medseg.serve import service as service_module
from medseg.serve import teacher as module
from medseg.serve.lesson import LESSON, OUTCOME, Lesson, Outcome, learn
from medseg.serve.refusal import RequestError
from medseg.serve.server import _welcome, claimed, serve
from medseg.serve.service import model_in_use
from medseg.serve.settings import Address
from medseg.serve.sweep import Sweep
from medseg.volume import Case, Mask, Source

from .conftest import LABELS, NAME, scan_of, truth_of
from .test_app import NAMES, as_slicer_numbers, label_file, submit


@pytest.fixture
def labelled(client):
    """A server with two labelled cases."""
    http = client()
    for seed, case in enumerate(("alpha", "beta")):
        assert submit(http, case, label_file(as_slicer_numbers(seed)), NAMES).status_code == 200
    return http


def play(monkeypatch, script: str) -> None:
    """Let a process that only plays a lesson be started in its place; `folder` is the lesson's."""

    def command_of(_: str, folder: str) -> list[str]:
        return [sys.executable, "-c", f"import sys; folder = {folder!r}\n{script}"]

    monkeypatch.setattr(module, "command_of", command_of)


def wait(http, seconds: float = 20) -> dict:
    until = time.monotonic() + seconds
    while http.get("/train/?check_if_running=true").status_code == 200:
        assert time.monotonic() < until
        time.sleep(0.05)
    return http.get("/train/").json()


def test_a_training_needs_labels(client):
    http = client()
    answer = http.post(f"/train/{NAME}")
    assert answer.status_code == 400
    assert "label more" in answer.json()["detail"]
    assert http.get("/train/").status_code == 404


def test_a_lesson_is_of_what_is_labelled_and_as_the_client_wishes(labelled, monkeypatch):
    play(monkeypatch, "import time; time.sleep(30)")
    wish = {"steps": 7, "freeze_encoder": True, "folder": "/etc", "client_id": "x"}
    assert labelled.post(f"/train/{NAME}", json=wish).json()["status"] == "RUNNING"
    lesson = Lesson.model_validate_json((labelled.service.settings.output / "lessons/001" / LESSON).read_bytes())
    dataset = lesson.experiment.dataset
    assert sorted([*dataset.train, *dataset.validation]) == ["alpha", "beta"]
    assert len(dataset.validation) == 1
    assert lesson.experiment.training.steps == 7
    assert lesson.experiment.training.freeze_encoder
    assert "/etc" not in str(dataset.folder)
    assert labelled.post(f"/train/{NAME}").status_code == 429
    assert labelled.delete("/train/").json()["status"] == "STOPPED"
    assert labelled.get("/train/").json()["details"][-1].startswith("stopped")
    assert labelled.delete("/train/").json() is None
    assert labelled.post(f"/train/{NAME}", json={"steps": "many"}).status_code == 400


def test_a_training_that_the_system_does_not_end_at_once_is_stopped_all_the_same(labelled, monkeypatch):
    wait = subprocess.Popen.wait

    def is_stuck(process, timeout=None):
        if timeout == module.EXIT_SECONDS:
            raise subprocess.TimeoutExpired("lesson", timeout)
        return wait(process, timeout)

    play(monkeypatch, "import time; time.sleep(30)")
    labelled.post(f"/train/{NAME}")
    monkeypatch.setattr(subprocess.Popen, "wait", is_stuck)
    assert labelled.delete("/train/").json()["status"] == "STOPPED"


@pytest.mark.parametrize("is_promoted", [True, False])
def test_a_better_model_takes_over_and_a_worse_one_does_not(labelled, monkeypatch, model_folder, is_promoted):
    outcome = Outcome(is_promoted=is_promoted, reason="as played", dice_before=0.5, dice_after=0.6)
    play(
        monkeypatch,
        f"""
import pathlib, shutil
shutil.copytree({str(model_folder)!r}, folder + "/run/model")
pathlib.Path(folder, {OUTCOME!r}).write_text({outcome.model_dump_json()!r})""",
    )
    labelled.post("/train/", json={NAME: {"steps": 3}})
    told = wait(labelled)
    assert told["status"] == "DONE"
    assert ("in use" if is_promoted else "stays in use") in told["details"][-1]
    service = labelled.service
    new = service.settings.output / "lessons" / "001" / "run" / "model"
    assert service.segmenter.path == (new if is_promoted else model_folder)
    assert model_in_use(service.settings) == (new.resolve() if is_promoted else model_folder)
    assert labelled.post(f"/infer/{NAME}?image=gamma&output=json").status_code == 200
    assert "as played" in labelled.get("/logs/").text


def test_a_training_that_dies_changes_nothing(labelled, monkeypatch, model_folder):
    play(monkeypatch, "import os; os.abort()")
    labelled.post(f"/train/{NAME}")
    told = wait(labelled)
    assert told["status"] == "ERROR"
    assert "without a result" in told["details"][-1]
    assert labelled.service.segmenter.path == model_folder


PROMOTED = Outcome(is_promoted=True, reason="as played", dice_before=0.5, dice_after=0.6)


def play_a_better_one(monkeypatch, model_folder) -> None:
    play(
        monkeypatch,
        f"""
import pathlib, shutil
shutil.copytree({str(model_folder)!r}, folder + "/run/model")
pathlib.Path(folder, {OUTCOME!r}).write_text({PROMOTED.model_dump_json()!r})""",
    )


def test_a_lesson_is_never_told_from_the_folder_of_another_one(labelled, monkeypatch, model_folder):
    lessons = labelled.service.settings.output / "lessons"
    play_a_better_one(monkeypatch, model_folder)
    for _ in range(2):
        labelled.post(f"/train/{NAME}")
        assert wait(labelled)["status"] == "DONE"
    shutil.rmtree(lessons / "001")  # somebody made room
    play(monkeypatch, "import os; os.abort()")
    labelled.post(f"/train/{NAME}")
    assert wait(labelled)["status"] == "ERROR"
    assert sorted(folder.name for folder in lessons.iterdir()) == ["002", "003"]


def test_a_lesson_that_could_not_be_written_costs_itself_alone(labelled, monkeypatch):
    def full(target, text):
        target.parent.mkdir()
        raise OutputError(f"can't write {target}: the disk is full; free some space")

    play(monkeypatch, "import os; os.abort()")
    labelled.post(f"/train/{NAME}")
    wait(labelled)
    monkeypatch.setattr(module, "write_text", full)
    assert labelled.post(f"/train/{NAME}").status_code == 500
    assert labelled.get("/info/").status_code == 200


def test_a_model_that_can_not_be_noted_is_not_used(labelled, monkeypatch, model_folder):
    def full(target, text):
        raise OutputError(f"can't write {target}: the disk is full; free some space")

    play_a_better_one(monkeypatch, model_folder)
    monkeypatch.setattr(service_module, "write_text", full)
    labelled.post(f"/train/{NAME}")
    assert "can't be used" in wait(labelled)["details"][-1]
    assert labelled.service.segmenter.path == labelled.service.teacher.pupil.path == model_folder


def test_a_new_model_looks_at_all_studies_again_though_the_one_before_is_at_them(opened, model_folder, tmp_path):
    service = opened(ahead=True)
    seen, may_go_on = [], Event()

    def segment(case):
        may_go_on.wait(20)
        seen.append((case.id, service.segmenter.path))

    service.sweep.stop()
    service.sweep = Sweep(segment)
    service.sweep_all()
    better = shutil.copytree(model_folder, tmp_path / "better")
    service.promote(better)
    may_go_on.set()
    until = time.monotonic() + 20
    while service.sweep.running:
        assert time.monotonic() < until
        time.sleep(0.01)
    assert [task.status for task in service.sweep.tasks] == ["STOPPED", "DONE"]
    assert {case for case, model in seen if model == better} == set(service.studies.cases)
    assert len(seen) == len(service.studies.cases) + 1


def test_a_model_that_does_not_fit_beside_the_one_before_ends_the_training(labelled, monkeypatch, model_folder):
    def replace(model):
        raise RuntimeError("CUDA out of memory")

    play_a_better_one(monkeypatch, model_folder)
    monkeypatch.setattr(labelled.service.segmenter, "replace", replace)
    labelled.post(f"/train/{NAME}")
    told = wait(labelled)
    assert told["status"] == "ERROR"
    assert "unexpected error (RuntimeError)" in told["details"][-1]


def test_cases_that_the_model_learnt_from_are_never_held_out(labelled):
    teacher = labelled.service.teacher
    cases = labelled.service.studies.cases.values()
    object.__setattr__(teacher.pupil, "learnt", frozenset({"alpha", "beta", "gamma", "delta"}))
    train, held_out = teacher._divided(list(cases), ())
    assert held_out == ["epsilon"]
    assert len(train) == 4
    with pytest.raises(RequestError, match="label more"):
        teacher._divided([case for case in cases if case.id != "epsilon"], ())


def test_a_quarter_of_what_is_new_is_held_out_however_much_is_known(labelled):
    teacher = labelled.service.teacher
    old = [Case(f"old{number}", (), patient=f"old{number}") for number in range(40)]
    new = [Case(f"new{number}", (), patient=f"new{number}") for number in range(8)]
    object.__setattr__(teacher.pupil, "learnt", frozenset(case.id for case in old))
    train, held_out = teacher._divided([*old, *new], ())
    assert len(held_out) == 2
    assert set(train) == {case.id for case in (*old, *new)} - set(held_out)


def test_a_training_needs_something_new_to_learn_from(client, tmp_path, monkeypatch):
    image, label = (tmp_path / "dataset" / folder / "old.nii.gz" for folder in ("images", "labels"))
    for path in (image, label):
        path.parent.mkdir(parents=True)
    write_volume(image, scan_of(4))
    write_mask(label, Mask(truth_of(4), scan_of(4).grid), Source("nifti", (image,)), LABELS)
    http = client(dataset=tmp_path / "dataset")
    object.__setattr__(http.service.teacher.pupil, "learnt", frozenset({"old"}))
    play(monkeypatch, "")
    submit(http, "alpha", label_file(as_slicer_numbers(0)), NAMES)
    answer = http.post(f"/train/{NAME}")
    assert answer.status_code == 400
    assert "label more" in answer.json()["detail"]
    submit(http, "beta", label_file(as_slicer_numbers(1)), NAMES)
    assert http.post(f"/train/{NAME}").json()["details"] == ["learning from 2 cases, 1 held out"]


def test_a_lesson_compares_both_models_on_the_held_out_cases(labelled, monkeypatch, model_folder):
    play(monkeypatch, "")
    labelled.post(f"/train/{NAME}", json={"steps": 1})
    wait(labelled)
    folder = labelled.service.settings.output / "lessons" / "001"
    lesson = Lesson.model_validate_json((folder / LESSON).read_bytes())
    outcome = learn(lesson, folder)
    assert outcome.dice_before is not None
    assert outcome.dice_after is not None
    new = load_model(folder / "run" / "model")
    assert new.labels.values == (2, 5)
    assert new.provenance["training_cases"] == lesson.experiment.dataset.train
    before = load_model(model_folder)
    assert any(
        not np.array_equal(a.numpy(), b.numpy())
        for a, b in zip(new.networks[0].state_dict().values(), before.networks[0].state_dict().values(), strict=True)
    )


def test_certificates_that_can_not_be_used_are_named(settings, tmp_path):
    (tmp_path / "garbage.pem").write_text("no certificate")
    told = []
    for name in ("garbage.pem", "missing.pem"):
        files = {"certificate": tmp_path / name, "certificate_key": tmp_path / name}
        with pytest.raises(ConfigError, match=rf"https can't use .*{name}.*give PEM files"):
            serve(settings(), Address(port=0, **files), told.append)
    assert told == []


def test_nothing_is_written_among_the_scans(settings, studies):
    with pytest.raises(OutputError, match="inside the scan folder"):
        serve(settings(output=studies / "served"), Address(port=0), print)
    assert not (studies / "served").exists()


@pytest.mark.skipif(os.name != "posix", reason="locks of POSIX")
def test_one_output_folder_one_server(settings):
    chosen = settings()
    upload = chosen.output / "incoming" / "tmp" / "upload.nii.gz"
    upload.parent.mkdir(parents=True)
    upload.write_text("of the first server")
    with claimed(chosen.output), pytest.raises(ConfigError, match="another medseg serve uses"):
        serve(chosen, Address(port=0), print)
    assert upload.exists()
    with claimed(chosen.output):  # the first has ended
        pass


def test_a_file_in_place_of_the_output_folder_is_named(settings, tmp_path):
    (tmp_path / "served").write_text("")
    with pytest.raises(OutputError, match="a part of that path is a file"):
        serve(settings(), Address(port=0), print)


def test_a_dataset_that_is_none_is_named_before_anybody_labels(opened, tmp_path):
    with pytest.raises(DatasetError, match="no_data: there is no such dataset folder"):
        opened(dataset=tmp_path / "no_data")


def test_other_addresses_need_the_token_and_are_warned_of():
    with pytest.raises(ConfigError, match="this machine alone"):
        Address("0.0.0.0", needs_token=False)
    assert any("can read" in line for line in _welcome(Address("0.0.0.0"), "abc", 1))
    assert not any("can read" in line for line in _welcome(Address(), "abc", 1))
    assert list(_welcome(Address(), "abc", 1))[1] == "http://127.0.0.1:8000/key/abc"
    assert not Address("medseg.example").is_loopback
