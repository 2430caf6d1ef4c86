"""The sample data folder: its layout, what other libraries read from it, and the committed copy of it."""

import json
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk

from medseg.errors import OutputError, ScanError
from medseg.io.nifti import read_mask, read_nifti
from medseg.labels import LabelMap
from medseg.phantom.dataset import CUT_SHORT, LABELS, SampleCounts, make_sample_data, read_truth

ROOT = Path(__file__).parents[2] / "sample_data"
COMMITTED = ROOT / "abdomen"
LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0])


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The committed cases, made again as the script's docstring says."""
    folder = tmp_path_factory.mktemp("sample") / "abdomen"
    script = [sys.executable, str(ROOT / "make_sample_data.py"), str(folder)]
    done = subprocess.run(
        [*script, "--labelled", "2", "--unlabelled", "1", "--test", "2"], check=True, capture_output=True, text=True
    )
    assert "2 scans with masks, 1 without" in done.stdout
    return folder


def files_of(folder: Path) -> list[Path]:
    return sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file())


def test_the_committed_cases_are_what_the_script_makes(made: Path):
    assert files_of(made) == files_of(COMMITTED)
    for path in files_of(made):
        if path.name.endswith(".nii.gz") and path != Path(CUT_SHORT):
            ours, theirs = nib.load(made / path), nib.load(COMMITTED / path)
            np.testing.assert_array_equal(ours.affine, theirs.affine)
            np.testing.assert_array_equal(ours.dataobj, theirs.dataobj)
        elif path.suffix == ".dcm":
            ours, theirs = pydicom.dcmread(made / path), pydicom.dcmread(COMMITTED / path)
            assert ours.PixelData == theirs.PixelData
            assert ours.SOPInstanceUID == theirs.SOPInstanceUID
        elif path.suffix in (".json", ".csv"):
            assert (made / path).read_bytes() == (COMMITTED / path).read_bytes()
    assert sum((COMMITTED / path).stat().st_size for path in files_of(COMMITTED)) < 5_000_000


def test_masks_lie_on_their_scans_and_hold_known_labels_only():
    labels = LabelMap.parse(json.loads((COMMITTED / "train" / "labels.json").read_text()))
    assert labels == LABELS
    assert not labels.is_sided
    masks = sorted((COMMITTED / "train" / "labels").iterdir())
    images = sorted((COMMITTED / "train" / "images").iterdir())
    assert [path.name for path in masks] == [path.name for path in images[:2]]
    assert len(images) == 3
    for path in masks:
        mask, image = read_mask(path), read_nifti(COMMITTED / "train" / "images" / path.name)
        assert mask.grid.matches(image.grid)
        assert set(np.unique(mask.array)) == {0, *labels.values}


def test_the_dicom_series_is_read_by_other_libraries_with_the_same_values_and_place():
    unseen = read_truth(COMMITTED)
    series, truth = next((case.scan, read_mask(case.truth)) for case in unseen if case.scan.is_dir())
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(series)))
    image = reader.Execute()
    assert image.GetSize() == truth.grid.shape
    directions = LPS_TO_RAS @ np.array(image.GetDirection()).reshape(3, 3)
    np.testing.assert_allclose(directions, truth.grid.directions, atol=1e-5)
    np.testing.assert_allclose(image.GetSpacing(), truth.grid.spacing, atol=1e-4)
    np.testing.assert_allclose(LPS_TO_RAS @ image.GetOrigin(), truth.grid.affine[:3, 3], atol=1e-3)
    hu = sitk.GetArrayFromImage(image).transpose(2, 1, 0)
    assert 40 < np.median(hu[truth.array == 1]) < 130
    first = pydicom.dcmread(next(series.glob("*.dcm")))
    stored = first.pixel_array * float(first.RescaleSlope) + float(first.RescaleIntercept)
    z = round(float(np.linalg.solve(truth.grid.affine, [*(LPS_TO_RAS @ first.ImagePositionPatient), 1])[2]))
    np.testing.assert_array_equal(stored.T, hu[:, :, z])


def test_one_scan_is_cut_short_and_says_so():
    with pytest.raises(ScanError, match="cut_short"):
        read_nifti(COMMITTED / CUT_SHORT)
    assert COMMITTED / CUT_SHORT not in {case.scan for case in read_truth(COMMITTED)}


def test_a_folder_that_holds_something_is_left_alone(tmp_path: Path):
    (tmp_path / "thesis.txt").write_text("irreplaceable")
    with pytest.raises(OutputError, match="not empty"):
        make_sample_data(tmp_path, counts=SampleCounts(1, 0, 0))
    assert files_of(tmp_path) == [Path("thesis.txt")]


def test_a_case_stays_the_same_when_more_are_made(tmp_path: Path):
    make_sample_data(tmp_path / "more", counts=SampleCounts(labelled=1, unlabelled=0, test=0))
    ours, theirs = (read_nifti(folder / "train/images/case_01.nii.gz") for folder in (tmp_path / "more", COMMITTED))
    np.testing.assert_array_equal(ours.array, theirs.array)
