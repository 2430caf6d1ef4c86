from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest

from medseg.errors import DatasetError
from medseg.export.windows import noise, windows_of
from medseg.geometry import Grid
from medseg.labels import LabelMap
from medseg.networks.model import Model
from medseg.plan import ChannelNormalisation
from medseg.preprocessing.prepare import prepare_image
from medseg.volume import Volume

LABELS = LabelMap.parse({"liver": 1})


@pytest.fixture
def scans(tmp_path):
    """Three scans of 8 x 8 x 20 voxels, bright in one place each; and a file that is none."""
    for seed in range(3):
        array = np.random.default_rng(seed).uniform(-1, 1, (8, 8, 20)).astype(np.float32)
        nib.save(nib.Nifti1Image(array, np.eye(4)), tmp_path / f"case_{seed}.nii.gz")
    (tmp_path / "broken.nii.gz").write_bytes(b"no scan")
    return tmp_path


def test_windows_are_parts_of_the_prepared_scans(scans, small_plan):
    plan = small_plan()
    windows = windows_of(scans, Model((), plan, LABELS))
    assert len(windows) == 12, "four of each scan"
    prepared = [
        prepare_image(Volume(np.asarray(nib.load(path).dataobj)[None], Grid((8, 8, 20), np.eye(4))), plan).image
        for path in sorted(scans.glob("case*"))
    ]
    found = set()
    for window in windows:
        assert window.shape == (1, 8, 8, 8)
        places = [
            (number, start)
            for number, image in enumerate(prepared)
            for start in range(13)
            if np.array_equal(image[..., start : start + 8], window)
        ]
        assert len(places) == 1
        found.update(places)
    assert len(found) == 12
    assert len(windows_of(scans, Model((), plan, LABELS), count=5)) == 5


def test_channels_that_lie_in_files_of_their_own_are_one_scan(tmp_path, small_plan):
    for channel in range(2):
        array = np.random.default_rng(channel).uniform(-1, 1, (8, 8, 20)).astype(np.float32)
        nib.save(nib.Nifti1Image(array, np.eye(4)), tmp_path / f"case_000{channel}.nii.gz")
    normalisation = (ChannelNormalisation(kind="zscore"),) * 2
    plan = small_plan().model_copy(update={"channels": ("t1", "t2"), "normalisation": normalisation})
    windows = windows_of(tmp_path, Model((), plan, LABELS))
    assert {window.shape for window in windows} == {(2, 8, 8, 8)}


def test_windows_of_one_value_are_left_out(tmp_path, small_plan):
    nib.save(nib.Nifti1Image(np.full((8, 8, 20), -5, np.float32), np.eye(4)), tmp_path / "air.nii.gz")
    with pytest.raises(DatasetError, match="of 1 scans none gives a window"):
        windows_of(tmp_path, Model((), small_plan(), LABELS))


def test_noise_is_the_same_each_time_and_of_the_normalised_scale(small_plan):
    first, second = noise(small_plan()), noise(small_plan())
    assert all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))
    assert not np.array_equal(first[0], first[1])
    assert all(window.std() == pytest.approx(1, abs=1e-5) for window in first)
