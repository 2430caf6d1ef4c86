"""Cases through reading, network and writing: each on its own, whole or not at all."""

from __future__ import annotations

import errno
import json
import threading
from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest

from medseg.batch.pipeline import AHEAD
from medseg.batch.record import Inputs, finished_record, read_record
from medseg.batch.summary import Failure
from medseg.batch.worker import Worker
from medseg.errors import GeometryError, ModelError, ReasonCode


@pytest.fixture
def worker(predictor, tmp_path):
    return Worker(predictor, tmp_path / "out" / "cases", model_digest="m", settings_digest="s")


def test_a_case_becomes_a_folder_with_mask_and_record(worker, make_cases):
    (case,) = make_cases(-1)
    (result,) = worker.run([case])
    assert result.status == "done"
    folder = worker.folder / "case_0"
    assert sorted(path.name for path in folder.iterdir()) == ["case.json", "mask.nii.gz"]
    scan, mask = nib.load(case.case.images[0].files[0]), nib.load(folder / "mask.nii.gz")
    assert np.array_equal(scan.affine, mask.affine)
    assert scan.shape == mask.shape
    assert np.bincount(np.asarray(mask.dataobj).astype(int).ravel()).tolist() == [53, 5, 0, 2]
    record = read_record(folder)
    assert record == result.record
    assert record.volumes_ml == {"organ": pytest.approx(10), "tumour": pytest.approx(4)}
    assert record.geometry.spacing == pytest.approx((10, 10, 20))
    assert record.geometry.axcodes == "LAS"
    assert set(record.seconds) == {"read", "prepare", "network", "postprocess", "measure", "write"}


def test_finished_cases_are_skipped_and_changed_ones_redone(worker, predictor, make_cases):
    cases = make_cases(-1, -2, -3)
    first = list(worker.run(cases))
    assert [result.was_done for result in first] == [False] * 3
    predictor.seen.clear()
    again = list(worker.run(cases))
    assert predictor.seen == []
    assert [result.record for result in again] == [result.record for result in first]
    assert all(result.was_done for result in again)

    make_cases(-1, -2.5, -3)  # another scan under the same name
    assert {result.case: result.was_done for result in worker.run(cases)} == {
        "case_0": True, "case_1": False, "case_2": True,
    }  # fmt: skip
    assert predictor.seen == [-2.5]


@pytest.mark.parametrize("change", [{"model_digest": "x"}, {"settings_digest": "x"}, {"redo": True}])
def test_another_model_or_setting_redoes(worker, predictor, make_cases, change):
    cases = make_cases(-1)
    list(worker.run(cases))
    (result,) = replace(worker, **change).run(cases)
    assert result.status == "done"
    assert not result.was_done
    assert len(predictor.seen) == 2


@pytest.mark.parametrize("damage", ["mask", "record", "no mask"])
def test_a_damaged_result_is_redone(worker, predictor, make_cases, damage):
    cases = make_cases(-1)
    list(worker.run(cases))
    folder = worker.folder / "case_0"
    whole = (folder / "mask.nii.gz").read_bytes()
    if damage == "mask":
        (folder / "mask.nii.gz").write_bytes(whole[:-5])
    elif damage == "record":
        (folder / "case.json").write_text("{")
    else:
        (folder / "mask.nii.gz").unlink()
    (result,) = worker.run(cases)
    assert not result.was_done
    assert nib.load(folder / "mask.nii.gz").shape == (5, 4, 3)
    assert np.asarray(nib.load(folder / "mask.nii.gz").dataobj).sum() == 11


@pytest.mark.parametrize(
    ("error", "status", "reason"),
    [
        (GeometryError(ReasonCode.CHANNELS_MISMATCH, "two channels"), "rejected", "CHANNELS_MISMATCH"),
        (ModelError("does not fit"), "failed", "MODEL_MISMATCH"),
        (MemoryError(), "failed", "OUT_OF_MEMORY"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), "failed", "OUT_OF_MEMORY"),
        (ValueError("Mr Jones 1950-01-01"), "failed", "UNEXPECTED"),
    ],
)
def test_a_bad_case_costs_only_itself(worker, predictor, make_cases, error, status, reason):
    predictor.errors[-2] = error
    results = {result.case: result for result in worker.run(make_cases(-1, -2, -3))}
    assert [results[f"case_{n}"].status for n in range(3)] == ["done", status, "done"]
    bad = results["case_1"]
    assert bad.reason == reason
    assert bad.message
    assert "Jones" not in bad.message  # the text of an unexpected error may quote a header
    assert not (worker.folder / "case_1").exists()


def test_an_unreadable_scan_costs_only_itself(worker, make_cases):
    cases = make_cases(-1, -2, -3)
    path = cases[1].case.images[0].files[0]
    path.write_bytes(path.read_bytes()[:-30])
    results = {result.case: result for result in worker.run(cases)}
    assert [results[f"case_{n}"].status for n in range(3)] == ["done", "rejected", "done"]
    assert results["case_1"].message.endswith(".") is False
    cases[0].case.images[0].files[0].unlink()
    gone = {result.case: result for result in worker.run(cases)}["case_0"]
    assert (gone.status, gone.reason) == ("rejected", "UNREADABLE")


def test_the_picture_is_drawn_into_the_folder_and_counts_as_output(worker, make_cases):
    drawn = []

    def picture(volume, mask, labels, path):
        drawn.append((volume.grid.shape, int(mask.array.max()), labels.targets))
        path.write_bytes(b"png")

    cases = make_cases(-1)
    (result,) = replace(worker, picture=picture).run(cases)
    assert drawn == [((5, 4, 3), 3, ("organ", "tumour"))]
    assert set(result.record.outputs) == {"mask.nii.gz", "overlay.png"}
    (worker.folder / "case_0" / "overlay.png").unlink()
    assert finished_record(worker.folder / "case_0", result.record.inputs) is None


def test_a_failed_write_leaves_nothing_and_the_others_are_done(worker, make_cases):
    def picture(volume, mask, labels, path):
        if volume.array[0, 0, 0, 0] == -2:
            path.write_bytes(b"half")
            raise OSError(errno.EIO, "device error")
        path.write_bytes(b"png")

    results = {result.case: result for result in replace(worker, picture=picture).run(make_cases(-1, -2, -3))}
    assert [results[f"case_{n}"].status for n in range(3)] == ["done", "failed", "done"]
    assert results["case_1"].reason == Failure.OUTPUT
    assert sorted(path.name for path in worker.folder.iterdir()) == ["case_0", "case_2"]


def test_reading_and_writing_overlap_the_network_and_are_bounded(worker, predictor, make_cases):
    cases = make_cases(*range(-8, 0))
    threads, ahead = set(), []
    infer = predictor.infer

    def watched(volume):
        threads.add(threading.current_thread().name)
        ahead.append(len(list(worker.folder.glob("case_*"))))
        return infer(volume)

    predictor.infer = watched
    assert len(list(worker.run(cases))) == 8
    assert threads == {threading.main_thread().name}
    assert all(done > started - AHEAD - 1 for started, done in enumerate(ahead))


def test_the_record_names_no_path(worker, make_cases, tmp_path):
    list(worker.run(make_cases(-1)))
    text = (worker.folder / "case_0" / "case.json").read_text()
    assert str(tmp_path) not in text
    assert (
        json.loads(text)["inputs"]
        == Inputs(source=json.loads(text)["inputs"]["source"], model="m", settings="s").model_dump()
    )
