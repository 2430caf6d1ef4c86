"""A predictor that thresholds, so that the batch is tested without a network; and small scans."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import torch

from medseg.batch.task import Task
from medseg.geometry import Grid
from medseg.inference.ladder import Rung
from medseg.io.nifti import write_volume
from medseg.labels import LabelMap
from medseg.volume import Case, Mask, Source, Volume

LABELS = LabelMap.parse({"organ": 1, "tumour": 3})


@dataclass
class FakeModel:
    labels: LabelMap = LABELS
    name: str = "fake"


@dataclass
class FakePrediction:
    mask: Mask
    confidence: float
    timings: dict[str, float]
    uncertainty: dict = field(default_factory=dict)
    rung: Rung = Rung.FULL


@dataclass
class ThresholdPredictor:
    """Marks voxels above 0 as 1 and above 10 as 3; raises what `errors` holds for a voxel value."""

    model: FakeModel = field(default_factory=FakeModel)
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    errors: dict[int, Exception] = field(default_factory=dict)
    seen: list[float] = field(default_factory=list)

    def predict(self, volume: Volume) -> FakePrediction:
        first = float(volume.array[0, 0, 0, 0])
        self.seen.append(first)
        if round(first) in self.errors:
            raise self.errors[round(first)]
        mask = (volume.array[0] > 0).astype(np.uint8)
        mask[volume.array[0] > 10] = 3
        return FakePrediction(Mask(mask, volume.grid), 0.75, {"network": 0.01})


def write_scan(path: Path, first: float = 0.0) -> Path:
    """Write 5 x 4 x 3 voxels of 2 ml each: `first`, then 5 organ and 2 tumour voxels, the rest air."""
    array = np.full((1, 5, 4, 3), -100, np.float32)
    array[0, 1, 0, 0] = array[0, 2, :, 1] = 5
    array[0, 3, :2, 2] = 50
    array[0, 0, 0, 0] = first
    affine = np.diag([-10.0, 10.0, 20.0, 1.0])
    affine[:3, 3] = 30, -20, 7
    write_volume(path, Volume(array, Grid((5, 4, 3), affine)))
    return path


@pytest.fixture
def predictor():
    return ThresholdPredictor()


@pytest.fixture
def make_cases(tmp_path):
    """Return a function that writes a case a first-voxel value, all different and below 0."""

    def make(*firsts: float) -> list[Task]:
        names = [f"case_{number}" for number in range(len(firsts))]
        return [
            Task(Case(name, (Source("nifti", (write_scan(tmp_path / "scans" / f"{name}.nii.gz", first),)),)))
            for name, first in zip(names, firsts, strict=True)
        ]

    return make
