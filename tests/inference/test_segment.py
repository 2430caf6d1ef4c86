"""`medseg.segment`: a file, a DICOM folder or a volume, with a folder or a loaded model, all to one mask."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

import medseg
from medseg.config import IngestConfig
from medseg.errors import MedsegError, ReasonCode, ScanError
from medseg.geometry import Grid
from medseg.io.dicom_write import write_series
from medseg.io.nifti import read_mask, read_nifti, write_mask, write_volume
from medseg.labels import LabelMap
from medseg.networks.build import build_network
from medseg.networks.model import Model, save_model
from medseg.plan import ChannelNormalisation, NetworkPlan, Plan
from medseg.volume import Source, Volume


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    plan = Plan(
        dimensions=3, spacing=(2.0, 2.0, 2.0), slice_axis=2, patch=(8, 8, 8), batch=2, channels=("ct",),
        normalisation=(ChannelNormalisation(kind="clip", low=-100, high=100, std=50),), mirror=(True, True, True),
        network=NetworkPlan(features=(4, 8), kernels=((3, 3, 3),) * 2, strides=((1, 1, 1), (2, 2, 2))),
    )  # fmt: skip
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("m") / "model"
    save_model(Model((build_network(plan, 2),), plan, LabelMap.parse({"organ": 1})), folder)
    return folder


@pytest.fixture
def volume():
    affine = np.diag([-2.0, -2.0, 3.0, 1.0])
    affine[:3, 3] = 4, 5, 6
    array = np.rint(np.random.default_rng(0).normal(0, 50, (1, 10, 12, 9))).astype(np.float32)
    return Volume(array, Grid((10, 12, 9), affine), "CT")


def test_every_way_in_gives_the_same_mask(model, volume, tmp_path):
    write_volume(tmp_path / "scan.nii.gz", volume)
    write_series(volume, tmp_path / "series")
    expected = medseg.segment(volume, model).mask
    assert expected.grid.matches(volume.grid)
    scan = tmp_path / "scan.nii.gz"
    for mask in (medseg.segment(scan, model).mask, medseg.segment(str(scan), medseg.load_model(str(model))).mask):
        assert np.array_equal(mask.array, expected.array)
        assert mask.grid.matches(read_nifti(tmp_path / "scan.nii.gz").grid)
    series = medseg.segment(tmp_path / "series", model, device="cpu").mask
    assert series.grid.canonical().matches(volume.grid.canonical(), tolerance_mm=1e-3)
    canonical = [mask.grid.to_canonical().apply(mask.array) for mask in (series, expected)]
    assert np.array_equal(*canonical)


def of_two_channels(single):
    two = {"channels": ("t1", "t2"), "normalisation": single.plan.normalisation * 2}
    plan = single.plan.model_copy(update=two)
    return Model((build_network(plan, 2).eval(),), plan, single.labels)


def test_channels_in_files_of_their_own_are_read_from_their_folder(model, volume, tmp_path):
    double = of_two_channels(medseg.load_model(model))
    other = replace(volume, array=-volume.array)
    write_volume(tmp_path / "scan_0000.nii.gz", volume)
    write_volume(tmp_path / "scan_0001.nii.gz", other)
    stack = replace(volume, array=np.concatenate([volume.array, other.array]))
    expected = medseg.segment(stack, double).mask.array
    assert np.array_equal(medseg.segment(tmp_path, double).mask.array, expected)
    (tmp_path / "scan_0000.nii.gz").rename(tmp_path / "scan_0002.nii.gz")
    with pytest.raises(ScanError, match="scan has the channel files 0001, 0002, the model takes 0000, 0001"):
        medseg.segment(tmp_path, double)


def test_channels_along_the_fourth_axis_are_read_for_a_model_of_as_many(model, volume, tmp_path):
    """As the Decathlon has them; the mask has three axes, and lies on the scan."""
    single = medseg.load_model(model)
    double = of_two_channels(single)
    stack = replace(volume, array=np.concatenate([volume.array, -volume.array]), modality="")
    write_volume(tmp_path / "scan.nii.gz", stack)
    prediction = medseg.segment(tmp_path / "scan.nii.gz", double)
    assert np.array_equal(prediction.mask.array, medseg.segment(stack, double).mask.array)
    assert prediction.mask.grid.matches(volume.grid)
    write_mask(tmp_path / "mask.nii.gz", prediction.mask, Source("nifti", (tmp_path / "scan.nii.gz",)))
    assert read_mask(tmp_path / "mask.nii.gz").grid.matches(volume.grid)
    with pytest.raises(ScanError) as caught:
        medseg.segment(tmp_path / "scan.nii.gz", single)
    assert caught.value.code is ReasonCode.NOT_3D


def test_a_gap_is_repaired_where_it_may_be(model, volume, tmp_path):
    write_series(volume, tmp_path / "series").files[4].unlink()
    with pytest.raises(ScanError, match="lacks 1 slice"):
        medseg.segment(tmp_path / "series", model)
    repaired = medseg.segment(tmp_path / "series", model, ingest=IngestConfig(missing_slice="repair"))
    assert repaired.mask.grid.shape == volume.grid.shape


def test_a_folder_of_several_scans_is_ambiguous(model, volume, tmp_path):
    for name in ("a.nii", "b.nii"):
        write_volume(tmp_path / "scans" / name, volume)
    with pytest.raises(ScanError, match="2 scans") as caught:
        medseg.segment(tmp_path / "scans", model)
    assert caught.value.code is ReasonCode.AMBIGUOUS_SERIES


def test_a_bad_scan_is_refused_with_its_own_reason(model, volume, tmp_path):
    write_volume(tmp_path / "cut.nii", volume)
    (tmp_path / "cut.nii").write_bytes((tmp_path / "cut.nii").read_bytes()[:-10])
    with pytest.raises(ScanError) as caught:
        medseg.segment(tmp_path / "cut.nii", model)
    assert caught.value.code is ReasonCode.TRUNCATED
    (tmp_path / "empty").mkdir()
    with pytest.raises(MedsegError, match="no scan"):
        medseg.segment(tmp_path / "empty", model)


def test_names_are_loaded_late_and_wrong_ones_are_errors():
    assert set(medseg.__all__) <= set(dir(medseg))
    with pytest.raises(AttributeError, match="nothing"):
        medseg.nothing  # noqa: B018


@pytest.mark.parametrize(
    ("said", "expected"),
    [({}, medseg.SPINS), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "passive"}, None)],
    ids=["nothing", "a number", "a policy"],
)
def test_threads_wait_awake_for_a_short_time_unless_told_otherwise(said, expected):
    kept = {name: value for name, value in os.environ.items() if name not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")}
    code = "import medseg, os, sys; print(os.environ.get('GOMP_SPINCOUNT'), 'torch' in sys.modules)"
    told = subprocess.run([sys.executable, "-c", code], env=kept | said, capture_output=True, text=True, check=True)
    assert told.stdout.split() == [str(expected), "False"]
