"""A dataset that a small network learns in seconds: two bright blobs in noise."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from medseg.config import ExperimentConfig
from medseg.plan import ChannelNormalisation, NetworkPlan, Plan

AFFINE = np.diag([1.5, 1.5, 2.0, 1.0])


def small_plan(*features: int) -> Plan:
    """Return the plan that the blobs are trained with, and a U-Net of these feature maps."""
    stages = len(features)
    strides = ((1, 1, 1), *[(2, 2, 2)] * (stages - 1))
    return Plan(
        dimensions=3,
        spacing=(1.5, 1.5, 2.0),
        slice_axis=2,
        patch=(16, 16, 16),
        batch=2,
        channels=("image",),
        normalisation=(ChannelNormalisation(kind="zscore"),),
        mirror=(False, False, False),
        network=NetworkPlan(features=features, kernels=((3, 3, 3),) * stages, strides=strides),
    )


def write_case(folder: Path, name: str, seed: int) -> None:
    """Write one image and mask: label 1 is a bright ball, label 2 a brighter one, on noise."""
    rng = np.random.default_rng(seed)
    shape = np.array([22, 20, 18])
    mask = np.zeros(shape, np.uint8)
    voxels = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), -1)
    for label, side in ((1, 0.3), (2, 0.7)):
        centre = shape * [side, 0.5, 0.5] + rng.uniform(-1.5, 1.5, 3)
        mask[np.linalg.norm(voxels - centre, axis=-1) < rng.uniform(3.0, 4.0)] = label
    image = (100.0 * mask + rng.normal(0, 20, shape)).astype(np.float32)
    for kind, array in (("images", image), ("labels", mask)):
        (folder / kind).mkdir(parents=True, exist_ok=True)
        nib.save(nib.Nifti1Image(array, AFFINE), folder / kind / f"{name}.nii.gz")


@pytest.fixture(scope="session")
def blobs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six labelled cases, case_0 to case_5."""
    folder = tmp_path_factory.mktemp("blobs")
    for seed in range(6):
        write_case(folder, f"case_{seed}", seed)
    return folder


@pytest.fixture
def experiment(blobs: Path) -> ExperimentConfig:
    """Sixty steps of a two-stage network on four cases; two are held out."""
    return ExperimentConfig.model_validate(
        {
            "name": "blobs",
            "dataset": {
                "folder": str(blobs),
                "labels": {"dim": 1, "bright": 2},
                "validation": ["case_4", "case_5"],
                "modality": "mr",
            },
            "plan": {"patch": [16, 16, 16], "batch": 2},
            "network": {"features": 8, "max_features": 16},
            "training": {
                "steps": 60,
                "optimiser": "adamw",
                "learning_rate": 0.01,
                "weight_decay": 3e-5,
                "warmup_steps": 0,
                "ema_decay": 0.9,
                "precision": "float32",
                "checkpoint_every": 20,
                "loader_threads": 0,
            },
        }
    )
