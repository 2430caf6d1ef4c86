"""The batch is tested without a network, on small scans."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from medseg.batch.task import Task
from medseg.geometry import Grid
from medseg.io.nifti import write_volume
from medseg.volume import Case, Source, Volume

from .batch_fakes import ThresholdPredictor

collect_ignore = ["faulty.py"]  # worker processes import it, and it would put its fakes into this one


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
