"""Real scans are read as SimpleITK reads them, voxel for voxel in space."""

import os
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from medseg.geometry import Grid
from medseg.io.nifti import read_mask, write_mask
from medseg.io.scan import read_case, read_scan
from medseg.volume import Case, Mask, Source

DATA = os.environ.get("MEDSEG_DATA")
pytestmark = pytest.mark.skipif(not DATA, reason="MEDSEG_DATA does not name the folder of real scans")

STUDY = ("11-T1post-18670", "11_HCropVolume", "26401-T1prereg-52906", "36468-FLAIRreg-58706", "37830-T2reg-78532")
SERIES = ["ct/dicom_series", *(f"mr/dicom_study/{name}" for name in STUDY)]


def itk_grid(image):
    affine = np.eye(4)
    affine[:3, :3] = np.array(image.GetDirection()).reshape(3, 3) * image.GetSpacing()
    affine[:3, 3] = image.GetOrigin()
    affine[:2] *= -1
    return Grid(image.GetSize(), affine)


@pytest.mark.parametrize("name", SERIES)
def test_series_equals_simpleitk(name):
    folder = Path(DATA) / name
    volume = read_scan(Source("dicom", tuple(folder.iterdir())))
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(folder)))
    image = reader.Execute()
    assert itk_grid(image).matches(volume.grid)
    np.testing.assert_array_equal(sitk.GetArrayFromImage(image).T, volume.array[0])


def test_mask_of_the_real_series_lies_on_it_for_another_library(tmp_path):
    source = Source("dicom", tuple((Path(DATA) / "ct/dicom_series").iterdir()))
    volume = read_scan(source)
    bone = Mask((volume.array[0] > 300).astype(np.uint8), volume.grid)
    write_mask(tmp_path / "bone.nii.gz", bone, source)
    image = sitk.ReadImage(str(tmp_path / "bone.nii.gz"))
    assert np.abs(itk_grid(image).corners() - volume.grid.corners()).max() < 1e-3
    np.testing.assert_array_equal(sitk.GetArrayFromImage(image).T, bone.array)


def test_published_masks_fit_their_scans():
    scan = Path(DATA) / "ct/whole_body_ct_3mm.nii.gz"
    case = Case("ct", (Source("nifti", (scan,)),), scan.with_name("whole_body_ct_3mm_labels.nii.gz"))
    volume, mask = read_case(case)
    assert mask.array.max() > 60
    assert volume.grid.matches(mask.grid)


def test_mask_made_by_another_program_covers_the_series():
    """The published mask of the series is flipped along two axes; reoriented, its bones are bright."""
    volume = read_scan(Source("dicom", tuple((Path(DATA) / "ct/dicom_series").iterdir())))
    mask = read_mask(Path(DATA) / "ct/dicom_series_labels.nii.gz")
    scan = volume.grid.to_canonical()
    drawn = mask.grid.to_canonical()
    assert scan.apply_to_grid(volume.grid).matches(drawn.apply_to_grid(mask.grid), tolerance_mm=0.01)
    inside = scan.apply(volume.array[0])[drawn.apply(mask.array) > 0]
    assert inside.mean() > volume.array.mean() + 200
