"""Teachers that are known or learn in seconds, and a dataset of bright blobs with scans that don't belong."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from medseg.catalog.datasets import Dataset, read_dataset
from medseg.catalog.splits import k_folds
from medseg.config import DatasetConfig, ExperimentConfig, InferenceConfig, PseudoLabelConfig
from medseg.labels import LabelMap
from medseg.outputs import NetworkOutput
from medseg.plan import ChannelNormalisation, NetworkPlan, Plan
from medseg.pseudo.label import Labeller
from medseg.pseudo.teachers import Teacher, Teachers, network_digest

SHAPE = np.array([22, 20, 18])


def ball(centre: np.ndarray, radius: float) -> np.ndarray:
    voxels = np.stack(np.meshgrid(*map(np.arange, SHAPE), indexing="ij"), -1)
    return np.linalg.norm(voxels - centre, axis=-1) < radius


def blobs_mask(seed: int) -> np.ndarray:
    """Label 1 is a ball on the left, label 2 one on the right."""
    rng = np.random.default_rng(seed)
    mask = np.zeros(SHAPE, np.uint8)
    for label, side in ((1, 0.3), (2, 0.7)):
        mask[ball(SHAPE * [side, 0.5, 0.5] + rng.uniform(-1.5, 1.5, 3), rng.uniform(3.0, 4.0))] = label
    return mask


def shown(mask: np.ndarray, seed: int) -> np.ndarray:
    """The scan of a mask: smooth noise, brighter where the labels are."""
    from scipy.ndimage import gaussian_filter

    noise = gaussian_filter(np.random.default_rng([1, seed]).normal(0, 1, SHAPE), 1.0)
    return (100.0 * mask + 20 * noise / noise.std()).astype(np.float32)


def save(folder: Path, kind: str, name: str, array: np.ndarray) -> None:
    (folder / kind).mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(array, np.diag([1.5, 1.5, 2.0, 1.0])), folder / kind / f"{name}.nii.gz")


@pytest.fixture(scope="session")
def blobs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Labelled cases l0 to l4, unlabelled u0 to u2 whose true masks lie in truth/."""
    folder = tmp_path_factory.mktemp("blobs")
    for number in range(8):
        mask = blobs_mask(number)
        name = f"l{number}" if number < 5 else f"u{number - 5}"
        save(folder, "images", name, shown(mask, number))
        save(folder, "labels" if number < 5 else "truth", name, mask)
    return folder


@pytest.fixture(scope="session")
def make_experiment() -> Callable[..., ExperimentConfig]:
    """Forty steps of a two-stage network; sections may be changed."""

    def make(folder: Path, **sections: dict) -> ExperimentConfig:
        values: dict = {
            "name": "blobs",
            "dataset": {"folder": str(folder), "labels": {"dim": 1, "bright": 2}, "modality": "mr"},
            "plan": {"patch": [16, 16, 16], "batch": 2, "mirror": [False, True, False]},
            "network": {"features": 8, "max_features": 16},
            "training": {
                "steps": 40,
                "learning_rate": 0.01,
                "weight_decay": 3e-5,
                "warmup_steps": 0,
                "ema_decay": 0.9,
                "precision": "float32",
                "loader_threads": 0,
            },
        }
        for section, fields in sections.items():
            values[section] = {**values.get(section, {}), **fields}
        return ExperimentConfig.model_validate(values)

    return make


class Intensity(nn.Module):
    """Knows that dim is about 100 and bright about 200; its features are intensities.

    Two of them with other gains see the same, and are unsure in other places.
    """

    def __init__(self, gain: float, limit: float = 50.0) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.tensor([gain, limit]))

    def forward(self, image: Tensor) -> NetworkOutput:
        gain, limit = self.gain
        dim, bright = limit - (image - 100).abs(), limit - functional.relu(200 - image)
        logits = torch.cat([image * 0, dim, bright], 1) * gain
        scaled = image / 100
        return NetworkOutput(logits, (), torch.cat([scaled, 1 - scaled, scaled * 0 + 0.5], 1))


@pytest.fixture(scope="session")
def dataset(blobs: Path) -> Dataset:
    """The blobs as a dataset."""
    return read_dataset(DatasetConfig(folder=blobs, labels={"dim": 1, "bright": 2}, modality="mr"))


@pytest.fixture(scope="session")
def teachers(dataset: Dataset) -> Teachers:
    """Two teachers of two folds of the labelled cases, who never need training."""
    plan = Plan(
        dimensions=3,
        spacing=(1.5, 1.5, 2.0),
        slice_axis=2,
        patch=(24, 24, 24),
        batch=2,
        channels=("image",),
        normalisation=(ChannelNormalisation(kind="clip", low=-200, high=500, mean=0, std=1),),
        mirror=(False, True, False),
        network=NetworkPlan(features=(4, 8), kernels=((3, 3, 3),) * 2, strides=((1, 1, 1), (2, 2, 2))),
    )
    members = tuple(
        Teacher(network, network_digest(network), fold.train, fold.validation)
        for network, fold in zip((Intensity(0.2), Intensity(0.1, 45.0)), k_folds(dataset.labelled, 2, 0), strict=True)
    )
    return Teachers(members, plan, dataset.labels, InferenceConfig(precision="float32"))


@pytest.fixture(scope="session")
def labeller(teachers: Teachers) -> Labeller:
    """Two teachers; the evidence is gathered once."""
    return Labeller(teachers, PseudoLabelConfig(), torch.device("cpu"))


@pytest.fixture
def write_run(dataset: Dataset, teachers: Teachers) -> Callable[..., Path]:
    """Write a run folder as training leaves it, with networks of random weights."""

    def write(folder: Path, config: ExperimentConfig, networks: int, seed: int = 0) -> Path:
        from medseg.config import save_config
        from medseg.networks.build import build_network
        from medseg.networks.model import Model, save_model
        from medseg.plan import save_plan

        folder.mkdir(parents=True, exist_ok=True)
        torch.manual_seed(seed)
        built = tuple(build_network(teachers.plan, dataset.labels.outputs) for _ in range(networks))
        cases = read_dataset(config.dataset).train
        save_config(config, folder / "config.yaml")
        save_plan(teachers.plan, folder / "plan.yaml")
        provenance = {"training_cases": list(cases), "folds": networks}
        save_model(Model(built, teachers.plan, dataset.labels, provenance=provenance), folder / "model")
        return folder

    return write


class Known(nn.Module):
    """Logits (0, x, -x) of the image x, times `gain`, shifted by `shift`; features (x, 1, ...) at a quarter."""

    def __init__(self, gain: float = 1.0, shift: float = 0.0, features: bool = True) -> None:
        super().__init__()
        self.gain, self.shift, self.shows = gain, shift, features

    def forward(self, image: Tensor) -> NetworkOutput:
        x = image[:, :1]
        logits = torch.cat([x * 0 + self.shift, x, -x], 1) * self.gain
        coarse = functional.avg_pool3d(x, 4) if image.ndim == 5 else functional.avg_pool2d(x, 4)
        features = torch.cat([coarse, torch.ones_like(coarse)], 1) if self.shows else None
        return NetworkOutput(logits, (), features)


LABELS = LabelMap.parse({"high": 3, "low": 7})


@pytest.fixture
def make_plan(small_plan) -> Callable[..., Plan]:
    """A 3D plan for one channel that keeps its values; any field may be given."""
    keeping = (ChannelNormalisation(kind="clip", low=-9, high=9, mean=0, std=1),)
    return partial(small_plan, normalisation=keeping, mirror=(False, True, False))


@pytest.fixture
def make_teachers(make_plan) -> Callable[..., Teachers]:
    """Known networks as teachers."""

    def make(*networks: nn.Module, **plan: object) -> Teachers:
        members = tuple(Teacher(network, f"t{number}", (), ()) for number, network in enumerate(networks))
        return Teachers(members, make_plan(**plan), LABELS, InferenceConfig(precision="float32"))

    return make


@pytest.fixture
def known() -> type[Known]:
    """A network whose answer is known."""
    return Known


@pytest.fixture
def labels() -> LabelMap:
    """Two labels whose values are not their class indices."""
    return LABELS
