"""Small datasets, built file by file in every layout."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

SHAPE = (6, 5, 4)

ScanWriter = Callable[..., Path]


@pytest.fixture
def write_scan() -> ScanWriter:
    """Return a writer of one NIfTI file of random intensities; `channels` adds a fourth axis."""

    def write(path: Path, *, seed: int = 0, channels: int = 0) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        shape = (*SHAPE, channels) if channels else SHAPE
        array = np.random.default_rng(seed).normal(size=shape).astype(np.float32)
        kind = nib.Nifti1Pair if path.suffix in (".hdr", ".img") else nib.Nifti1Image
        nib.save(kind(array, np.eye(4)), path)
        return path

    return write


@pytest.fixture
def write_mask() -> ScanWriter:
    """Return a writer of one mask that holds `values`, a voxel each."""

    def write(path: Path, values: tuple[int, ...] = (1,)) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        array = np.zeros(SHAPE, np.uint8)
        array.ravel()[: len(values)] = values
        nib.save(nib.Nifti1Image(array, np.eye(4)), path)
        return path

    return write


@pytest.fixture
def paired(tmp_path: Path, write_scan: ScanWriter, write_mask: ScanWriter) -> Path:
    """images/ + labels/: cases a to d, of which d has no mask; labels 1 and 2."""
    for number, name in enumerate("abcd"):
        write_scan(tmp_path / "images" / f"{name}.nii.gz", seed=number)
        if name != "d":
            write_mask(tmp_path / "labels" / f"{name}.nii.gz", (1, 2))
    return tmp_path


@pytest.fixture
def write_series() -> ScanWriter:
    """Return a writer of one CT series of 4 slices as DICOM files whose names don't follow the slices."""

    def write(folder: Path, *, seed: int = 0) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        study, series = generate_uid(), generate_uid()
        for number, name in enumerate(("3", "1", "4", "2")):
            slice_ = _slice(number, seed)
            slice_.StudyInstanceUID, slice_.SeriesInstanceUID, slice_.FrameOfReferenceUID = study, series, study
            slice_.save_as(folder / name, enforce_file_format=True)
        return folder

    return write


def _slice(number: int, seed: int) -> Dataset:
    slice_ = Dataset()
    slice_.file_meta = FileMetaDataset()
    slice_.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    slice_.SOPClassUID, slice_.SOPInstanceUID, slice_.Modality = CTImageStorage, generate_uid(), "CT"
    slice_.file_meta.MediaStorageSOPClassUID = slice_.SOPClassUID
    slice_.file_meta.MediaStorageSOPInstanceUID = slice_.SOPInstanceUID
    slice_.PatientID, slice_.InstanceNumber = "1", number
    slice_.ImagePositionPatient, slice_.ImageOrientationPatient = [0, 0, 2 * number], [1, 0, 0, 0, 1, 0]
    slice_.PixelSpacing, slice_.SliceThickness = [1, 1], 2
    slice_.Rows, slice_.Columns, slice_.SamplesPerPixel = 5, 6, 1
    slice_.PhotometricInterpretation = "MONOCHROME2"
    slice_.BitsAllocated, slice_.BitsStored, slice_.HighBit, slice_.PixelRepresentation = 16, 16, 15, 1
    slice_.RescaleSlope, slice_.RescaleIntercept = 1, -1024
    pixels = np.random.default_rng(seed * 100 + number).integers(0, 2000, (5, 6)).astype(np.int16)
    slice_.PixelData = pixels.tobytes()
    return slice_
