"""From dataset to model to masks to scores with four commands, on two blobs that a small network learns."""

from __future__ import annotations

import csv
import json
import runpy
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

SETTINGS = {
    "name": "blobs",
    "dataset.labels": "{ball: 1}",
    "dataset.modality": "mr",
    "dataset.validation": "[case_3]",
    "plan.patch": "[16, 16, 16]",
    "plan.batch": 2,
    "network.features": 4,
    "training.steps": 30,
    "training.optimiser": "adamw",
    "training.learning_rate": 0.01,
    "training.warmup_steps": 0,
    "training.ema_decay": 0.5,
    "training.precision": "float32",
}
OVERRIDES = [word for field, value in SETTINGS.items() for word in ("--set", f"{field}={value}")]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    folder = tmp_path_factory.mktemp("balls")
    voxels = np.stack(np.meshgrid(*[np.arange(20)] * 3, indexing="ij"), -1)
    for number in range(4):
        rng = np.random.default_rng(number)
        mask = (np.linalg.norm(voxels - rng.uniform(8, 12, 3), axis=-1) < 5).astype(np.uint8)
        image = (100 * mask + rng.normal(0, 10, mask.shape)).astype(np.float32)
        for kind, array in (("images", image), ("labels", mask)):
            (folder / kind).mkdir(exist_ok=True)
            nib.save(nib.Nifti1Image(array, np.diag([1, 1, 2, 1.0])), folder / kind / f"case_{number}.nii.gz")
    return folder


def test_the_whole_way(medseg, dataset, tmp_path):
    run, results = tmp_path / "run", tmp_path / "results"
    shared = ["--data", dataset, "--output", run, *OVERRIDES]

    planned = medseg("plan", *shared)
    assert planned.exit_code == 0
    assert "16x16x16" in planned.stdout.replace(" x ", "x")
    assert {path.name for path in run.iterdir()} >= {"plan.yaml", "config.yaml", "fingerprint.json"}

    prepared = medseg("prepare", *shared)
    assert "3 cases prepared" in prepared.stdout

    stopped = medseg("train", *shared, "--max-seconds", "0.01")
    assert stopped.exit_code == 1  # not done yet, as of the pipelines
    assert "goes on" in stopped.stdout
    assert not (run / "model").exists()

    trained = medseg("train", *shared)
    assert trained.exit_code == 0
    assert (run / "model" / "model.json").is_file()
    assert "Held-out mean Dice" in trained.stdout

    segmented = medseg("segment", dataset / "images", "--model", run / "model", "--output", results)
    assert segmented.exit_code == 0
    scored = medseg("evaluate", results, dataset, "--output", results / "evaluation")
    assert scored.exit_code == 0
    assert "ball" in scored.stdout  # named by the run, not by value
    assert {path.name for path in (results / "evaluation").iterdir()} == {"scores.csv", "summary.json", "dice.png"}
    assert json.loads((results / "evaluation" / "summary.json").read_text())["mean_dice"] > 0.7
    rows = list(csv.DictReader((results / "evaluation" / "scores.csv").read_text().splitlines()))
    assert {row["case"] for row in rows} == {f"case_{number}" for number in range(4)}


def test_pruning_heeds_what_is_set(medseg, dataset, tmp_path):
    medseg("train", "--data", dataset, *OVERRIDES, "--set", "training.steps=2", "--output", tmp_path / "run")
    wishes = ["--set", "training.steps=3", "--set", "training.learning_rate=0.004"]
    pruned = medseg("prune", tmp_path / "run/model", "--data", dataset, "--output", tmp_path / "pruned", *wishes)
    assert pruned.exit_code == 0
    training = json.loads((tmp_path / "pruned/model/model.json").read_text())["provenance"]["config"]["training"]
    assert (training["steps"], training["learning_rate"], training["optimiser"]) == (3, 0.004, "adamw")


def test_a_score_on_what_the_start_has_learnt_says_so(medseg, dataset, tmp_path):
    shared = ["--data", dataset, *OVERRIDES, "--set", "training.steps=2"]
    plain = medseg("train", *shared, "--output", tmp_path / "run")
    assert "no measure" not in plain.stdout
    held = ["--init", tmp_path / "run/model", "--set", "dataset.validation=[case_1, case_3]"]
    tuned = medseg("train", *shared, *held, "--output", tmp_path / "tuned")
    assert "has learnt from 1 of the held-out cases (case_1)" in " ".join(tuned.stdout.split())


def test_a_missing_prediction_is_named_and_the_exit_code_is_1(medseg, dataset, tmp_path):
    (tmp_path / "predictions").mkdir()
    truth = dataset / "labels" / "case_0.nii.gz"
    (tmp_path / "predictions" / truth.name).write_bytes(truth.read_bytes())
    result = medseg("evaluate", tmp_path / "predictions", dataset)
    assert result.exit_code == 1
    assert "case_1" in result.stdout


def test_predictions_without_a_true_mask_are_counted_on_the_screen(medseg, dataset, tmp_path):
    (tmp_path / "predictions").mkdir()
    for name in ("case_0", "stranger", "other"):
        truth = (dataset / "labels" / "case_0.nii.gz").read_bytes()
        (tmp_path / "predictions" / f"{name}.nii.gz").write_bytes(truth)
    result = medseg("evaluate", tmp_path / "predictions", dataset)
    assert "2 predictions have no true mask" in result.stdout


def test_a_dataset_folder_called_by_a_number_is_a_folder(tmp_path, monkeypatch):
    script = runpy.run_path(str(Path(__file__).parents[2] / "pipelines" / "train_model.py"))
    seen = []
    for step in ("show_dataset", "show_plan", "train"):
        monkeypatch.setitem(script["main"].__globals__, step, lambda config, *_: seen.append(config.dataset.folder))
    (tmp_path / "own.yaml").write_text("name: own")
    script["main"](tmp_path / "own.yaml", Path("2025"), tmp_path / "run")
    assert seen == [Path("2025")] * 3


@pytest.mark.parametrize("name", ["train_model", "segment_folder"])
def test_ctrl_c_ends_a_pipeline_with_a_sentence(name, tmp_path, monkeypatch):
    def stopped(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    (tmp_path / "own.yaml").write_text("name: own")
    monkeypatch.setattr("medseg.catalog.datasets.read_dataset", stopped)
    monkeypatch.setattr("medseg.catalog.index.index_scans", stopped)
    monkeypatch.setattr("sys.argv", [name, str(tmp_path / "own.yaml"), str(tmp_path), str(tmp_path / "out")])
    with pytest.raises(SystemExit, match="the same command goes on"):
        runpy.run_path(str(Path(__file__).parents[2] / "pipelines" / f"{name}.py"), run_name="__main__")
