"""``medseg segment`` on folders as they are: DICOM and NIfTI, sound and broken."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
import torch

from medseg.geometry import Grid
from medseg.io.dicom_write import write_series
from medseg.quality.viewer import niivue_file
from medseg.volume import Volume

from .conftest import write_scan


def table(path):
    return list(csv.DictReader(path.read_text(encoding="utf-8").splitlines()))


def write_dicom(folder, seed=0):
    rng = np.random.default_rng(seed)
    affine = np.diag([-2.0, -2.0, 3.0, 1.0])
    affine[:3, 3] = 20, 30, -40
    grid = Grid((20, 18, 12), affine)
    volume = Volume(rng.normal(0, 50, (1, *grid.shape)).astype(np.float32), grid)
    return write_series(volume, folder, seed=seed, patient=f"CANARY^Patient{seed}", description="CANARY abdomen")


def break_file(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def test_a_mixed_folder_in_a_process_of_its_own(model, scans, tmp_path):
    """The whole command as a user runs it: the good are done, the bad are named, the exit code is 1."""
    write_dicom(scans / "dicom" / "CANARY_name")
    write_dicom(scans / "dicom" / "CANARY_gap", seed=1)
    (scans / "dicom" / "CANARY_gap" / "0005.dcm").unlink()
    break_file(write_scan(scans / "cut.nii.gz", 7))
    nan = nib.load(write_scan(scans / "nan.nii", 8))
    array = nan.get_fdata()
    array[3, 3, 3] = np.nan
    nib.save(nib.Nifti1Image(array.astype(np.float32), nan.affine), scans / "nan.nii")
    (scans / "notes.txt").write_text("not a scan")
    output = tmp_path / "out"
    command = [sys.executable, "-m", "medseg", "segment", scans, "-m", model, "-o", output]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr

    rows = {row["case"]: row for row in table(output / "cases.csv")}
    assert {case: row["status"] for case, row in rows.items() if not case.startswith("case-")} == {
        "a_scan": "done", "b_scan": "done", "other": "done", "cut": "rejected", "nan": "rejected",
    }  # fmt: skip
    assert (rows["cut"]["reason"], rows["nan"]["reason"]) == ("TRUNCATED", "NOT_FINITE")
    (dicom,) = [case for case, row in rows.items() if case.startswith("case-") and row["status"] == "done_with_flags"]
    (gap,) = [case for case, row in rows.items() if case.startswith("case-") and row["status"] == "rejected"]
    assert rows[gap]["reason"] == "MISSING_SLICE"
    assert sorted(path.name for path in (output / "cases").iterdir()) == sorted(["a_scan", "b_scan", "other", dicom])
    for case in ("a_scan", "b_scan", "other", dicom):
        assert {path.name for path in (output / "cases" / case).iterdir()} == {
            "case.json",
            "mask.nii.gz",
            "overlay.png",
            *(["view.html"] if niivue_file() else []),
        }
    run = json.loads((output / "run.json").read_text())
    assert {status: count for status, count in run["cases"].items() if count} == {
        "done": 3, "done_with_flags": 1, "rejected": 3,
    }  # fmt: skip
    assert run["left_out"] == {"NOT_A_SCAN": 1}
    check_places(output, scans, dicom)
    check_privacy(output)


def check_places(output, scans, dicom):
    """Every mask lies on its scan, as a second library sees both."""
    for case, path in (("a_scan", "a/scan.nii.gz"), ("b_scan", "b/scan.nii.gz"), ("other", "other.nii")):
        scan, mask = sitk.ReadImage(str(scans / path)), sitk.ReadImage(str(output / "cases" / case / "mask.nii.gz"))
        assert mask.GetSize() == scan.GetSize()
        for what in ("GetOrigin", "GetSpacing", "GetDirection"):
            assert getattr(mask, what)() == pytest.approx(getattr(scan, what)(), abs=1e-5)
    series = sitk.ImageSeriesReader()
    series.SetFileNames(series.GetGDCMSeriesFileNames(str(scans / "dicom" / "CANARY_name")))
    scan, mask = series.Execute(), sitk.ReadImage(str(output / "cases" / dicom / "mask.nii.gz"))
    corners = [(0, 0, 0), (mask.GetWidth() - 1, 0, 0), (0, mask.GetHeight() - 1, mask.GetDepth() - 1)]
    for corner in corners:  # the slices may be counted from either end
        index = scan.TransformPhysicalPointToContinuousIndex(mask.TransformIndexToPhysicalPoint(corner))
        assert np.abs(np.array(index) - np.rint(index)).max() < 1e-4
        assert all(-1e-4 <= i <= size - 1 + 1e-4 for i, size in zip(index, scan.GetSize(), strict=True))


def check_privacy(output):
    """No output but sources.csv, which only its owner may read, knows a path or a DICOM name."""
    assert stat.S_IMODE((output / "sources.csv").stat().st_mode) == 0o600
    assert any("CANARY_name" in row["source"] for row in table(output / "sources.csv"))
    for path in output.rglob("*"):
        if path.is_file() and path.name != "sources.csv":
            assert b"CANARY" not in path.read_bytes(), path.name


def test_a_rerun_does_only_what_is_left(medseg, model, scans, tmp_path):
    output = tmp_path / "out"
    assert medseg("segment", scans, "-m", model, "-o", output, "--no-pictures").exit_code == 0
    before = {path: path.stat().st_mtime_ns for path in output.glob("cases/*/*")}
    first = table(output / "cases.csv")
    shutil.rmtree(output / "cases" / "b_scan")
    again = medseg("segment", scans, "-m", model, "-o", output, "--no-pictures")
    assert "3 of 3 cases done" in again.stdout
    assert "2 of them by an earlier run" in again.stdout
    changed = {path.parent.name for path, time in before.items() if path.stat().st_mtime_ns != time}
    assert changed == {"b_scan"}
    keep = [name for name in first[0] if name != "seconds"]
    assert [[row[name] for name in keep] for row in table(output / "cases.csv")] == [
        [row[name] for name in keep] for row in first
    ]


def test_another_setting_redoes(medseg, model, scans, tmp_path):
    output = tmp_path / "out"
    scan = scans / "other.nii"
    medseg("segment", scan, "-m", model, "-o", output, "--no-pictures")
    again = medseg("segment", scan, "-m", model, "-o", output, "--no-pictures", "--flips")
    assert "earlier" not in again.stdout
    assert json.loads((output / "run.json").read_text())["inference"]["flips"] is True


def test_pictures_that_an_earlier_run_did_not_draw_are_drawn(medseg, model, scans, tmp_path):
    output = tmp_path / "out"
    command = ("segment", scans, "-m", model, "-o", output)
    medseg(*command, "--no-pictures")
    assert not list(output.glob("cases/*/overlay.png"))
    medseg(*command)
    assert list(output.glob("cases/*/overlay.png"))
    before = {path: path.stat().st_mtime_ns for path in output.glob("cases/*/mask.nii.gz")}
    medseg(*command, "--no-pictures")
    assert {path: path.stat().st_mtime_ns for path in output.glob("cases/*/mask.nii.gz")} == before


def test_cases_of_earlier_runs_are_counted(medseg, model, scans, tmp_path):
    output = tmp_path / "out"
    first = medseg("segment", scans, "-m", model, "-o", output)
    assert "earlier runs" not in first.stdout
    write_scan(tmp_path / "other" / "another.nii.gz")
    second = medseg("segment", tmp_path / "other", "-m", model, "-o", output)
    count = len(list((output / "cases").iterdir())) - 1
    assert f"{count} case folders are of earlier runs" in second.stdout


@pytest.mark.parametrize("wishes", [("--overlap", 0.25), ()])
def test_results_of_a_run_that_was_stopped_are_not_taken_for_those_of_the_run_before(
    medseg, model, scans, tmp_path, wishes
):
    output, later, other = tmp_path / "out", tmp_path / "later", tmp_path / "other"
    shutil.copytree(model, other)
    if not wishes:
        (other / "model.json").write_text(json.dumps({**json.loads((model / "model.json").read_text()), "name": "b"}))
    medseg("segment", scans, "-m", model, "-o", output, "--no-pictures")
    medseg("segment", scans, "-m", other, "-o", later, "--no-pictures", *wishes)
    uses = [
        ("report", output),
        ("evaluate", output, later),
        ("review", "export", output, "--scans", scans, "-o", tmp_path / "review", "--key", tmp_path / "key"),
    ]
    shutil.rmtree(output / "cases" / "a_scan")
    shutil.copytree(later / "cases" / "a_scan", output / "cases" / "a_scan")  # so far a killed run would have come
    for use in uses:
        told = medseg(*use)
        assert told.exit_code == 2, told.output
        assert "1 of 3 cases are of another model or other settings than run.json" in told.stderr
    medseg("segment", scans, "-m", other, "-o", output, "--no-pictures", *wishes)
    assert medseg(*uses[0]).exit_code == 0


def test_nothing_to_segment_says_so(medseg, model, tmp_path):
    (tmp_path / "empty").mkdir()
    result = medseg("segment", tmp_path / "empty", "-m", model, "-o", tmp_path / "out")
    assert result.exit_code == 3
    assert "no scan was found" in result.stderr


@pytest.mark.parametrize("verb", ["segment", "convert", "index"])
def test_scans_of_formats_that_are_not_read_are_not_passed_over_in_silence(medseg, model, scans, tmp_path, verb):
    for name in ("one.nrrd", "two.NRRD", "three.mha", "notes.txt"):
        (scans / name).write_text("")
    wishes = {"segment": ["-m", model, "-o", tmp_path / "out"], "convert": ["-o", tmp_path / "out"], "index": []}
    result = medseg(verb, scans, *wishes[verb])
    assert "left out: 1 .mha, 2 .nrrd; medseg reads NIfTI and DICOM: convert them to NIfTI" in result.stdout


@pytest.mark.parametrize("verb", ["segment", "convert", "index"])
def test_files_that_are_only_named_like_dicom_are_not_passed_over_in_silence(medseg, model, scans, tmp_path, verb):
    """A slice of which an interrupted copy left nothing is missed at no end of its series."""
    (scans / "0042.dcm").write_bytes(b"")
    wishes = {"segment": ["-m", model, "-o", tmp_path / "out"], "convert": ["-o", tmp_path / "out"], "index": []}
    assert "left out: 1 files, NOT_DICOM" in medseg(verb, scans, *wishes[verb]).stdout


def test_only_bad_scans_is_exit_code_3(medseg, model, tmp_path):
    break_file(write_scan(tmp_path / "scans" / "cut.nii.gz"))
    assert medseg("segment", tmp_path / "scans", "-m", model, "-o", tmp_path / "out").exit_code == 3


@pytest.mark.parametrize("shape", [(20, 18, 1), (3, 3, 3), (40, 1, 12)])
def test_small_and_flat_scans_are_segmented(medseg, model, tmp_path, shape):
    write_scan(tmp_path / "scans" / "one.nii.gz", 0, shape)
    result = medseg("segment", tmp_path / "scans", "-m", model, "-o", tmp_path / "out")
    assert result.exit_code == 0, result.output
    assert nib.load(tmp_path / "out" / "cases" / "one" / "mask.nii.gz").shape == shape


def test_a_constant_scan_is_segmented(medseg, model, tmp_path):
    nib.save(nib.Nifti1Image(np.full((16, 16, 16), -1000, np.int16), np.eye(4)), tmp_path / "air.nii.gz")
    assert medseg("segment", tmp_path / "air.nii.gz", "-m", model, "-o", tmp_path / "out").exit_code == 0


def test_two_channels_for_a_model_of_one_are_rejected(medseg, model, scans, tmp_path):
    nib.save(nib.Nifti1Image(np.zeros((8, 8, 8, 2), np.float32), np.eye(4)), scans / "two.nii.gz")
    assert medseg("segment", scans, "-m", model, "-o", tmp_path / "out", "--no-pictures").exit_code == 1
    rows = {row["case"]: row for row in table(tmp_path / "out" / "cases.csv")}
    assert rows["two"]["status"] == "rejected"
    assert [rows[case]["status"] for case in ("a_scan", "b_scan", "other")] == ["done"] * 3


def test_a_scan_of_another_modality_costs_only_itself(medseg, model, scans, tmp_path):
    write_dicom(scans / "dicom")
    made_for_mr = tmp_path / "model"
    shutil.copytree(model, made_for_mr)
    record = json.loads((model / "model.json").read_text())
    (made_for_mr / "model.json").write_text(json.dumps({**record, "modalities": ["MR"]}))
    result = medseg("segment", scans, "-m", made_for_mr, "-o", tmp_path / "out", "--no-pictures")
    assert result.exit_code == 1
    reasons = [row["reason"] for row in table(tmp_path / "out" / "cases.csv")]
    assert sorted(reasons) == ["", "", "", "MODALITY_MISMATCH"]


@pytest.fixture
def one_thread(monkeypatch):
    """Keep torch to one thread, here and in workers: it adds in another order with two, and random weights tip over."""
    threads = torch.get_num_threads()
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.usefixtures("one_thread")
def test_one_process_and_several_give_the_same_masks(medseg, model, scans, tmp_path):
    masks = {}
    for workers in (0, 2):
        output = tmp_path / f"out_{workers}"
        assert medseg("segment", scans, "-m", model, "-o", output, "--workers", workers).exit_code == 0
        masks[workers] = {path.parent.name: path.read_bytes() for path in output.glob("cases/*/mask.nii.gz")}
    assert len(masks[0]) == 3
    assert masks[0] == masks[2]


def test_a_stopped_run_ends_its_workers_and_is_gone_on_with(model, scans, tmp_path):
    for number in range(60):
        write_scan(scans / f"more_{number}.nii.gz", number)
    output = tmp_path / "out"
    command = list(map(str, [sys.executable, "-m", "medseg", "segment", scans, "-m", model, "-o", output]))
    run = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    end = time.monotonic() + 60
    while not list(output.glob("cases/[!.]*/case.json")) and time.monotonic() < end:  # hidden ones are being written
        time.sleep(0.02)
    children = Path(f"/proc/{run.pid}/task/{run.pid}/children").read_text().split()
    run.send_signal(signal.SIGINT)
    told = run.communicate()[1]
    assert run.returncode == 130, told
    assert "the same command goes on from what is done" in told
    assert children
    assert not [number for number in children if Path(f"/proc/{number}").exists()]
    log = [json.loads(line) for line in (output / "audit.jsonl").read_text().splitlines()]
    assert log[-1]["ended_by"] == "KeyboardInterrupt"
    done = {path.parent.name for path in output.glob("cases/[!.]*/case.json")}
    assert 0 < len(done) < 63
    again = subprocess.run(command, capture_output=True, text=True, check=False)
    assert again.returncode == 0
    assert "63 of 63 cases done" in again.stdout
    assert f"{len(done)} of them by an earlier run" in again.stdout


def test_inference_does_not_load_monai(model, tmp_path):
    """It costs two to three seconds, which is more than segmenting a small scan takes."""
    scan = write_scan(tmp_path / "scan.nii.gz")
    code = (
        "import sys\nfrom medseg.cli.app import app\n"
        f"words = ['segment', {str(scan)!r}, '-m', {str(model)!r}, '-o', {str(tmp_path / 'out')!r}, '--workers', '0']\n"
        "app(words, standalone_mode=False)\n"
        "heavy = ('monai', 'lightning_fabric', 'matplotlib', 'polars', 'tensorboard')\n"
        "print('loaded', [name for name in heavy if name in sys.modules])"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, env=environment)
    assert "loaded []" in done.stdout, done.stdout + done.stderr


def test_scipy_is_loaded_before_the_memory_is_limited(model):
    """Its OpenBLAS, loaded by a thread beyond the limit, spins for ever: cases hung until their timeout."""
    code = (
        "import sys\nfrom pathlib import Path\nfrom medseg.batch import opening\nfrom medseg.batch.job import Job\n"
        "from medseg.config import SegmentConfig\n"
        "opening.limit_memory = lambda limit: print('loaded', 'scipy.linalg' in sys.modules)\n"
        f"job = Job(model=Path({str(model)!r}), folder=Path('cases'), config=SegmentConfig(memory_limit_gb=4))\n"
        "opening.open_worker(job, None)"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, env=environment)
    assert "loaded True" in done.stdout, done.stdout + done.stderr


@pytest.mark.parametrize(("speed", "overlap", "precision"), [("fast", 0.25, "auto"), ("accurate", 0.625, "float32")])
def test_the_speed_that_is_asked_for_is_applied(medseg, model, scans, tmp_path, speed, overlap, precision):
    output = tmp_path / "out"
    command = ["segment", scans, "-m", model, "-o", output, "--speed", speed, "--workers", 0, "--no-pictures"]
    assert medseg(*command).exit_code == 0
    applied = json.loads((output / "run.json").read_text())["inference"]
    assert (applied["overlap"], applied["precision"]) == (overlap, precision)


def test_an_unknown_speed_is_refused(medseg, model, scans, tmp_path):
    shown = medseg("segment", scans, "-m", model, "-o", tmp_path / "out", "--speed", "warp")
    assert shown.exit_code == 2
    assert "speed" in shown.output
    assert not (tmp_path / "out").exists()
