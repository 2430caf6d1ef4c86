"""Small plans and cases for preprocessing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import pytest

from medseg.labels import LabelMap
from medseg.plan import ChannelNormalisation, NetworkPlan, Plan
from medseg.volume import Case, Source


@pytest.fixture
def make_plan() -> Callable[..., Plan]:
    """A 3D plan for one z-scored channel; any field may be given."""

    def make(**changes: object) -> Plan:
        network = NetworkPlan(features=(4, 8), kernels=((3, 3, 3),) * 2, strides=((1, 1, 1), (2, 2, 2)))
        fields = {
            "dimensions": 3,
            "spacing": (1.0, 1.0, 1.0),
            "slice_axis": 2,
            "patch": (16, 16, 16),
            "batch": 2,
            "channels": ("MR",),
            "normalisation": (ChannelNormalisation(kind="zscore"),),
            "mirror": (True, True, True),
            "network": network,
        }
        return Plan.model_validate({**fields, **changes})

    return make


@pytest.fixture
def labels() -> LabelMap:
    """Two labels whose values are not their class indices."""
    return LabelMap.parse({"organ": 3, "tumour": 7, "ignore": 9})


@pytest.fixture
def write_case(tmp_path: Path) -> Callable[..., Case]:
    """Write a case of random intensities with a box-shaped organ and tumour."""

    def write(name: str, shape: tuple[int, int, int] = (12, 10, 8), seed: int = 0, labelled: bool = True) -> Case:
        rng = np.random.default_rng(seed)
        image = tmp_path / f"{name}.nii.gz"
        nibabel.save(nibabel.Nifti1Image(rng.normal(100, 20, shape).astype(np.float32), np.eye(4)), image)
        if not labelled:
            return Case(name, (Source("nifti", (image,)),))
        mask = np.zeros(shape, dtype=np.uint8)
        mask[2:7, 2:7, 2:6], mask[4:6, 4:6, 3:5], mask[0, 0, 0] = 3, 7, 9
        path = tmp_path / f"{name}_mask.nii.gz"
        nibabel.save(nibabel.Nifti1Image(mask, np.eye(4)), path)
        return Case(name, (Source("nifti", (image,)),), path)

    return write
