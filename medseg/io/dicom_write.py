"""Write a volume as a DICOM CT series, one file a slice, for sample data and tests.

The series is what a scanner sends: int16 pixels, rescale intercept -1024, LPS positions, UIDs that follow
from a seed, so that the same call writes the same bytes.
"""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID, CTImageStorage, ExplicitVRLittleEndian, JPEG2000Lossless, JPEGLSLossless, RLELossless

from medseg.errors import GeometryError, OutputError, ReasonCode
from medseg.geometry import Grid
from medseg.io.files import atomic_folder
from medseg.volume import Source, Volume

Encoding = Literal["explicit", "rle", "j2k", "jpegls"]
SYNTAXES: dict[Encoding, UID] = {
    "explicit": ExplicitVRLittleEndian,
    "rle": RLELossless,
    "j2k": JPEG2000Lossless,
    "jpegls": JPEGLSLossless,
}

INTERCEPT = -1024
"""HU of a stored zero, as most scanners write it."""

INT16 = np.iinfo(np.int16)


def write_series(
    volume: Volume,
    folder: Path,
    *,
    seed: int = 0,
    description: str = "",
    patient: str = "phantom",
    encoding: Encoding = "explicit",
) -> Source:
    """Write `volume` into `folder`, replacing it.

    Parameters
    ----------
    volume : one channel of HU on any orthogonal grid; rounded to whole HU. The third axis becomes the
        slices: files 0001.dcm, 0002.dcm ... and instance numbers run along it, whichever way it points.
    folder : where the files go; made whole or not at all.
    seed : of the UIDs; study, series and frame of reference follow from `patient`, `description` and it.
    description, patient : SeriesDescription and PatientID.
    encoding : uncompressed, RLE, JPEG 2000 or JPEG-LS, all lossless.

    Returns
    -------
    Source
        The files in slice order, as reading arranges them: along the normal of rows and columns.

    Raises
    ------
    GeometryError
        If the grid is sheared, which one orientation and one position a slice can't say.
    OutputError
        If there are several channels, HU beyond int16, or the files can't be written.
    """
    if not volume.grid.is_orthogonal:
        raise GeometryError(ReasonCode.NONORTHONORMAL_AFFINE, "a sheared volume can't be written as a DICOM series")
    stored = np.rint(volume.array) - INTERCEPT
    if volume.channels != 1 or stored.min() < INT16.min or stored.max() > INT16.max:
        raise OutputError(
            f"a DICOM CT series holds one channel of {INT16.min + INTERCEPT} to {INT16.max + INTERCEPT} HU; "
            f"the volume has {volume.channels} channel(s) of {volume.array.min():g} to {volume.array.max():g}"
        )
    planes = np.ascontiguousarray(stored[0].astype(np.int16).transpose(2, 1, 0))  # slice, row, column
    common = _common(volume.grid, f"{patient}|{description}|{seed}", description, patient)
    names = [f"{number + 1:04d}.dcm" for number in range(len(planes))]
    with atomic_folder(folder) as temporary:
        for number, (name, plane) in enumerate(zip(names, planes, strict=True)):
            _slice(common, volume.grid, number, plane, SYNTAXES[encoding]).save_as(
                temporary / name, enforce_file_format=True
            )
    x, y, z = volume.grid.affine[:3, :3].T
    upwards = float(np.dot(np.cross(x, y), z)) > 0  # reading orders along the normal of row and column direction
    return Source("dicom", tuple(folder / name for name in (names if upwards else names[::-1])))


def _common(grid: Grid, name: str, description: str, patient: str) -> Dataset:
    """Return what all slices share."""
    columns, rows, _ = grid.shape
    x, y, z = grid.spacing
    directions = grid.directions * [[-1.0], [-1.0], [1.0]]  # RAS to LPS
    common = Dataset()
    common.SOPClassUID = CTImageStorage
    common.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    common.StudyDate, common.StudyTime = "20200101", "120000"
    common.Modality, common.Manufacturer = "CT", "medseg phantom"
    common.StudyDescription, common.SeriesDescription = "medseg phantom", description
    common.PatientName, common.PatientID = patient, patient
    common.PatientBirthDate = common.PatientSex = common.AccessionNumber = common.ReferringPhysicianName = ""
    common.StudyInstanceUID = _uid(name, "study")
    common.SeriesInstanceUID = _uid(name, "series")
    common.FrameOfReferenceUID = _uid(name, "frame of reference")
    common.StudyID, common.SeriesNumber, common.AcquisitionNumber = "1", 1, 1
    common.PatientPosition, common.PositionReferenceIndicator = "HFS", ""
    common.KVP, common.RescaleType = 120, "HU"
    common.Rows, common.Columns, common.SamplesPerPixel = rows, columns, 1
    common.PhotometricInterpretation = "MONOCHROME2"
    common.BitsAllocated, common.BitsStored, common.HighBit, common.PixelRepresentation = 16, 16, 15, 1
    common.RescaleSlope, common.RescaleIntercept = 1, INTERCEPT
    common.PixelSpacing = _decimals([y, x])
    common.SliceThickness = common.SpacingBetweenSlices = _decimals([z])[0]
    common.ImageOrientationPatient = _decimals([*directions[:, 0], *directions[:, 1]])
    return common


def _slice(common: Dataset, grid: Grid, number: int, plane: NDArray[np.int16], syntax: UID) -> Dataset:
    dataset = Dataset()
    dataset.update(common)
    x, y, z = (grid.affine @ [0, 0, number, 1])[:3]
    dataset.ImagePositionPatient = _decimals([-x, -y, z])
    dataset.InstanceNumber = number + 1
    dataset.SOPInstanceUID = _uid(common.SeriesInstanceUID, str(number))
    dataset.PixelData = plane.tobytes()
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = dataset.SOPClassUID, dataset.SOPInstanceUID
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta = meta
    if syntax != ExplicitVRLittleEndian:
        dataset.compress(syntax, generate_instance_uid=False)
    return dataset


def _decimals(values: list[float]) -> list[str]:
    """Return numbers as DICOM decimal strings of at most 16 characters, as exact as these allow."""
    texts = []
    for value in values:
        digits = 16
        while len(text := f"{value:.{digits}g}") > 16:
            digits -= 1
        texts.append(text)
    return texts


def _uid(*names: str) -> UID:
    """Return a UID made from a digest (PS3.5 B.2), so that equal names give equal UIDs."""
    number = int.from_bytes(sha256("|".join(names).encode()).digest()[:16], "big")
    return UID(f"2.25.{number}")
