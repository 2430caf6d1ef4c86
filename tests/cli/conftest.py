"""The command line in this process, a model of random weights, and a folder of small scans."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from medseg.geometry import Grid
from medseg.io.nifti import write_volume
from medseg.labels import LabelMap
from medseg.plan import ChannelNormalisation, NetworkPlan, Plan
from medseg.volume import Volume

LABELS = LabelMap.parse({"liver": 1, "kidney": 2})


@pytest.fixture(autouse=True)
def _own_home(tmp_path, monkeypatch):
    """Keep the key of the pseudonyms out of the user's home, and ``--debug`` out of other tests."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    yield
    logging.getLogger("medseg").setLevel(logging.NOTSET)


@pytest.fixture
def medseg() -> Callable:
    """Return a function that runs ``medseg WORDS`` and gives exit code, stdout and stderr."""
    from medseg.cli.app import app

    def run(*words: object):
        wide = {"COLUMNS": "200"}  # so that no line of a table is broken
        return CliRunner().invoke(app, in_one_process(map(str, words)), catch_exceptions=False, env=wide)

    return run


def in_one_process(words: Iterable[str]) -> list[str]:
    """Return a command that starts no worker processes, unless it says how many: a start takes two seconds."""
    command = list(words)
    return [*command, "--workers", "0"] if "segment" in command and "--workers" not in command else command


@pytest.fixture(scope="session")
def model(tmp_path_factory) -> Path:
    """A model folder with random weights for one-channel scans of about 2 mm."""
    import torch

    from medseg.networks.build import build_network
    from medseg.networks.model import Model, save_model

    plan = Plan(
        dimensions=3,
        spacing=(2.0, 2.0, 2.0),
        slice_axis=2,
        patch=(16, 16, 16),
        batch=2,
        channels=("ct",),
        normalisation=(ChannelNormalisation(kind="zscore"),),
        mirror=(True, True, True),
        network=NetworkPlan(features=(4, 8), kernels=((3, 3, 3),) * 2, strides=((1, 1, 1), (2, 2, 2))),
    )
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("model") / "model"
    save_model(Model((build_network(plan, LABELS.outputs),), plan, LABELS, name="random"), folder)
    return folder


def write_scan(path: Path, seed: int = 0, shape: tuple[int, int, int] = (20, 18, 12)) -> Path:
    """Write noise on an oblique, anisotropic, flipped grid."""
    rng = np.random.default_rng(seed)
    turn = np.array([[np.cos(0.2), -np.sin(0.2), 0], [np.sin(0.2), np.cos(0.2), 0], [0, 0, 1]])
    affine = np.eye(4)
    affine[:3, :3] = turn @ np.diag([-1.8, 1.8, 3.0])
    affine[:3, 3] = rng.uniform(-50, 50, 3)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_volume(path, Volume(rng.normal(0, 50, (1, *shape)).astype(np.float32), Grid(shape, affine)))
    return path


@pytest.fixture
def scans(tmp_path) -> Path:
    """Three scans in a tree, two of the same name."""
    folder = tmp_path / "scans"
    for seed, name in enumerate(["a/scan.nii.gz", "b/scan.nii.gz", "other.nii"]):
        write_scan(folder / name, seed)
    return folder
