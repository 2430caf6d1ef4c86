"""Unlabelled scans that don't look like the labelled ones are left out of a training, by name and with a reason."""

from __future__ import annotations

import csv

import nibabel as nib
import numpy as np
import pytest

from medseg.config import ExperimentConfig
from medseg.errors import DatasetError
from medseg.training.run import RunOptions, run_training

from .conftest import AFFINE, write_case

CPU = RunOptions(device="cpu")


@pytest.fixture
def mixed(experiment, tmp_path):
    """Two labelled scans, and an experiment that learns from others for two steps."""
    folder = tmp_path / "data"
    for seed in range(2):
        write_case(folder, f"labelled_{seed}", seed)

    def make(**unlabelled) -> ExperimentConfig:
        values = experiment.model_dump(mode="json")
        values["dataset"].update(folder=str(folder), validation=[])
        values["training"].update(steps=2)
        values["unlabelled"].update(method="mix-teacher", labelled_weight=0.5, labelled_first=0, **unlabelled)
        return ExperimentConfig.model_validate(values)

    return folder, make


def add_scan(folder, name, seed, array=None):
    """Write an unlabelled scan: one like the labelled ones, unless voxels are given."""
    write_case(folder, name, seed)
    (folder / "labels" / f"{name}.nii.gz").unlink()
    if array is not None:
        nib.save(nib.Nifti1Image(array.astype(np.float32), AFFINE), folder / "images" / f"{name}.nii.gz")


def left_out(run_folder):
    with (run_folder / "left_out.csv").open(newline="") as lines:
        return {row["case"]: row["reason"] for row in csv.DictReader(lines)}


def test_strangers_are_left_out_with_a_reason_and_the_others_learnt_from(mixed, tmp_path, caplog):
    folder, make = mixed
    add_scan(folder, "alike", 7)
    add_scan(folder, "ramp", 8, np.exp(np.linspace(0, 9, 22 * 20 * 18)).reshape(22, 20, 18))
    add_scan(folder, "wide", 9, np.random.default_rng(0).normal(size=(70, 20, 18)))
    damaged = folder / "images" / "damaged.nii.gz"
    damaged.write_bytes((folder / "images" / "alike.nii.gz").read_bytes()[:900])
    run = run_training(make(), tmp_path / "run", CPU)
    assert run.model is not None
    reasons = left_out(tmp_path / "run")
    assert set(reasons) == {"ramp", "wide", "damaged"}
    assert "intensities are unlike" in reasons["ramp"]
    assert "field of view" in reasons["wide"]
    assert "damaged" in reasons["damaged"]
    assert "3 of 4 unlabelled scans are left out" in caplog.text


def test_a_training_of_strangers_alone_is_refused(mixed, tmp_path):
    folder, make = mixed
    add_scan(folder, "wide", 9, np.random.default_rng(0).normal(size=(70, 20, 18)))
    with pytest.raises(DatasetError, match="none of the 1 unlabelled scans looks like .*wide: its field of view"):
        run_training(make(), tmp_path / "run", CPU)


def test_strangers_may_stay_if_that_is_wished(mixed, tmp_path):
    folder, make = mixed
    add_scan(folder, "wide", 9, np.random.default_rng(0).normal(size=(70, 20, 18)))
    assert run_training(make(leave_out=False), tmp_path / "run", CPU).model is not None
    assert not (tmp_path / "run" / "left_out.csv").exists()
