"""Real DICOM series and a real NIfTI scan, segmented end to end; SimpleITK says whether the masks lie on them.

The network answers "above 150.5", so what the mask must be is known from the scan alone.
"""

from __future__ import annotations

import csv
import os
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from torch import nn

from medseg.batch.summary import DONE
from medseg.io.scan import inspect_scan
from medseg.labels import LabelMap
from medseg.networks.model import Model
from medseg.outputs import NetworkOutput
from medseg.plan import ChannelNormalisation, NetworkPlan, Plan
from medseg.volume import Source

DATA = os.environ.get("MEDSEG_DATA")
pytestmark = pytest.mark.skipif(not DATA, reason="MEDSEG_DATA does not name the folder of real scans")

THRESHOLD = 150.5
SCANS = (
    "ct/dicom_series",
    "ct/whole_body_ct_3mm.nii.gz",
    "mr/dicom_study/11-T1post-18670",
    "mr/dicom_study/11_HCropVolume",
)


class Above(nn.Module):
    """Answers class 1 where the prepared image is above 0."""

    def forward(self, image: torch.Tensor) -> NetworkOutput:
        return NetworkOutput(torch.cat([torch.zeros_like(image), image], 1))


def threshold_model(spacing: tuple[float, float, float]) -> Model:
    plan = Plan(
        dimensions=3,
        spacing=spacing,
        slice_axis=2,
        patch=(64, 64, 16),
        batch=2,
        channels=("scan",),
        normalisation=(ChannelNormalisation(kind="clip", low=-5000, high=30000, mean=THRESHOLD),),
        mirror=(False, False, False),
        network=NetworkPlan(features=(4, 8), kernels=((3, 3, 3),) * 2, strides=((1, 1, 1), (2, 2, 2))),
    )
    return Model((Above(),), plan, LabelMap.parse({"bright": 1}), name="threshold")


def read_with_simpleitk(path: Path) -> sitk.Image:
    if path.is_file():
        return sitk.ReadImage(str(path))
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(path)))
    return reader.Execute()


@pytest.mark.parametrize("name", SCANS)
def test_mask_of_a_real_scan_is_right_at_every_voxel_in_space(name, medseg, tmp_path, monkeypatch):
    scan = Path(DATA) / name
    files = (scan,) if scan.is_file() else tuple(scan.iterdir())
    spacing = inspect_scan(Source("nifti" if scan.is_file() else "dicom", files)).grid.canonical().spacing
    monkeypatch.setattr("medseg.batch.opening.load_model", lambda *_: threshold_model(spacing))
    monkeypatch.setattr("medseg.batch.opening.model_digest", lambda *_: "threshold")
    result = medseg("segment", scan, "--model", "threshold", "--output", tmp_path / "out")
    assert result.exit_code == 0, result.stderr
    with (tmp_path / "out/cases.csv").open() as file:
        (row,) = csv.DictReader(file)
    assert row["status"] in DONE
    mask = sitk.ReadImage(str(tmp_path / "out/cases" / row["case"] / "mask.nii.gz"))
    source = read_with_simpleitk(scan)
    assert mask.GetSize() == source.GetSize()
    there = sitk.Resample(sitk.Cast(source, sitk.sitkFloat32), mask, sitk.Transform(), sitk.sitkNearestNeighbor)
    expected = sitk.GetArrayFromImage(there) > THRESHOLD
    assert 0 < expected.mean() < 1
    np.testing.assert_array_equal(sitk.GetArrayFromImage(mask) == 1, expected)
