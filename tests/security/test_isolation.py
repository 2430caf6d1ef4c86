"""medseg asks no network for anything, and runs nothing that lies in a model folder."""

from __future__ import annotations

import os
import pickle
import shutil
import subprocess
from pathlib import Path

import nibabel as nib
import numpy as np

from medseg.interpreter import command_of
from medseg.io import dicom_pool

SETTINGS = (
    "dataset.labels={ball: 1}", "dataset.modality=mr", "dataset.validation=[case_3]", "plan.patch=[16, 16, 16]",
    "plan.batch=2", "network.features=4", "training.steps=2", "training.precision=float32",
)  # fmt: skip


def write_dataset(folder):
    voxels = np.stack(np.meshgrid(*[np.arange(18)] * 3, indexing="ij"), -1)
    for number in range(4):
        mask = (np.linalg.norm(voxels - 8, axis=-1) < 4 + number / 4).astype(np.uint8)
        image = (100 * mask + np.random.default_rng(number).normal(0, 10, mask.shape)).astype(np.float32)
        for kind, array in (("images", image), ("labels", mask)):
            (folder / kind).mkdir(parents=True, exist_ok=True)
            nib.save(nib.Nifti1Image(array, np.eye(4)), folder / kind / f"case_{number}.nii.gz")
    return folder


def test_training_and_segmenting_open_no_socket(guarded, tmp_path):
    data, run, results = write_dataset(tmp_path / "data"), tmp_path / "run", tmp_path / "results"
    settings = [word for setting in SETTINGS for word in ("--set", setting)]
    trained = guarded(["train", "--data", data, "--output", run, *settings])
    assert trained.code == 0, trained.screen
    assert "NETWORK" not in trained.screen
    segmented = guarded(["segment", data / "images", "--model", run / "model", "--output", results])
    assert segmented.code == 0, segmented.screen
    assert "NETWORK" not in segmented.screen
    assert (results / "report.html").is_file()
    assert len(list((results / "cases").glob("*/mask.nii.gz"))) == 4


class Evil:
    """Unpickled, it makes a file."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self):
        return Path.touch, (self.mark,)


def test_code_and_pickles_beside_the_weights_are_neither_run_nor_read(guarded, model, scans, tmp_path):
    folder, mark = tmp_path / "downloaded", tmp_path / "owned"
    shutil.copytree(model, folder)
    for name in ("__init__.py", "model.py", "medseg.py", "torch.py", "sitecustomize.py", "hubconf.py", "conftest.py"):
        (folder / name).write_text(f"open({str(mark)!r}, 'w').close()\n")
    for name in ("weights.pt", "weights.pth", "model.pkl", "checkpoint.pt", "weights.safetensors.index.json"):
        (folder / name).write_bytes(pickle.dumps(Evil(mark)))
    pickle.loads((folder / "weights.pt").read_bytes())
    assert mark.exists(), "this pickle should be evil"
    mark.unlink()
    done = guarded(["segment", scans, "--model", folder, "--output", tmp_path / "out"])
    assert done.code == 0, done.screen
    assert not mark.exists()
    read = {Path(name.partition(":")[2]).name for name in done.opened if str(folder) in name}
    assert read <= {"model.json", "exported.json", "weights.safetensors"}
    assert "model.json" in read


def test_code_among_the_scans_is_not_run_by_processes_that_begin_there(tmp_path, monkeypatch):
    mark = tmp_path / "owned"
    for name in ("pickle.py", "os.py", "sitecustomize.py", "medseg.py"):
        (tmp_path / name).write_text(f"open({str(mark)!r}, 'w').close()\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(dicom_pool, "MIN_FILES", 0)
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    assert list(dicom_pool.read_many([tmp_path / "pickle.py"] * 4)) == [()] * 4
    done = subprocess.run(command_of("pickle:dumps", "a scan"), check=False, capture_output=True)
    assert done.returncode == 1
    assert b"a scan" in done.stderr  # what sys.exit shows of a value that is no number
    assert not mark.exists()
