"""CT slices in memory: made sound, then damaged by a pitfall, then written.

Positions are LPS mm, as DICOM writes them; the values painted into a slice follow from its own position.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from hashlib import sha256
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID, CTImageStorage, ExplicitVRLittleEndian

from pitfalls.registry import Field, Truth, ramp

COLUMNS, ROWS, SLICES = 24, 20, 12
SPACING = (1.0, 1.5, 2.5)
"""Between columns, between rows, between slices, mm."""

INTERCEPT = -1024
ORIGIN = (-11.0, -14.0, -30.0)
LPS_TO_RAS = np.array([-1.0, -1.0, 1.0])
AXIAL = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0))


def uid(name: str) -> UID:
    """Return a UID that follows from a name (PS3.5 B.2), so that equal calls write equal files."""
    return UID(f"2.25.{int.from_bytes(sha256(name.encode()).digest()[:16], 'big')}")


def decimals(values: Sequence[float]) -> list[str]:
    """Return numbers as decimal strings of at most 16 characters."""
    return [f"{value:.10f}"[:16] for value in values]


def make_slices(
    name: str = "ct",
    *,
    count: int = SLICES,
    directions: Sequence[Sequence[float]] = AXIAL,
    step: Sequence[float] | None = None,
    size: tuple[int, int] = (COLUMNS, ROWS),
    field: Field = ramp,
) -> list[Dataset]:
    """Return the slices of a sound CT series.

    Parameters
    ----------
    name : all UIDs follow from it.
    count : slices.
    directions : of a row and of a column, LPS unit vectors.
    step : from slice to slice, LPS mm; default: `SPACING` along the normal.
    size : columns and rows.
    field : what the voxels hold.
    """
    row, column = np.array(directions)
    step = np.cross(row, column) * SPACING[2] if step is None else np.array(step)
    slices = []
    for number in range(count):
        dataset = _common(name)
        dataset.Columns, dataset.Rows = size
        dataset.ImageOrientationPatient = decimals([*row, *column])
        dataset.ImagePositionPatient = decimals(ORIGIN + number * step)
        dataset.InstanceNumber = number + 1
        dataset.SOPInstanceUID = uid(f"{name} {number}")
        _add_meta(dataset)
        slices.append(paint(dataset, field))
    return slices


def _common(name: str) -> Dataset:
    dataset = Dataset()
    dataset.SOPClassUID, dataset.Modality = CTImageStorage, "CT"
    dataset.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    dataset.StudyDate, dataset.StudyTime, dataset.ContentTime = "20200101", "120000", "120000"
    dataset.PatientName, dataset.PatientID = "Phantom^Hostile", "hostile"
    dataset.PatientBirthDate = dataset.PatientSex = dataset.AccessionNumber = dataset.ReferringPhysicianName = ""
    dataset.Manufacturer, dataset.SeriesDescription = "medseg phantom", name
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = uid("study"), uid(f"series {name}")
    dataset.FrameOfReferenceUID, dataset.PositionReferenceIndicator = uid("frame of reference"), ""
    dataset.StudyID, dataset.SeriesNumber, dataset.AcquisitionNumber = "1", 1, 1
    dataset.KVP, dataset.PatientPosition, dataset.SliceThickness = 120, "HFS", SPACING[2]
    dataset.SamplesPerPixel = 1
    dataset.PixelSpacing = [SPACING[1], SPACING[0]]
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 16, 16, 15, 1
    dataset.RescaleSlope, dataset.RescaleIntercept, dataset.RescaleType = 1, INTERCEPT, "HU"
    return dataset


def _add_meta(dataset: Dataset) -> None:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = dataset.SOPClassUID, dataset.SOPInstanceUID
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta = meta


def paint(dataset: Dataset, field: Field = ramp) -> Dataset:
    """Store in every pixel what `field` says of its position, by the slice's own rescaling and pixel type."""
    hu = field(pixel_positions(dataset))
    stored = np.rint((hu - float(dataset.RescaleIntercept)) / float(dataset.RescaleSlope))
    kind = "i" if dataset.PixelRepresentation else "u"
    dataset.PixelData = stored.astype(f"<{kind}{dataset.BitsAllocated // 8}").tobytes()
    dataset["PixelData"].VR = "OW"
    return dataset


def pixel_positions(dataset: Dataset) -> NDArray[np.float64]:
    """Return the (rows, columns, 3) positions of a slice's pixels, RAS mm."""
    origin = np.array(dataset.ImagePositionPatient, dtype=float)
    row, column = np.array(dataset.ImageOrientationPatient, dtype=float).reshape(2, 3)
    down, along = (float(value) for value in dataset.PixelSpacing)
    i, j = np.mgrid[: dataset.Rows, : dataset.Columns][..., None]
    return np.asarray((origin + j * along * row + i * down * column) * LPS_TO_RAS)


def shift(dataset: Dataset, offset: Sequence[float], field: Field = ramp) -> Dataset:
    """Move a slice by `offset`, LPS mm, and let its pixels say so."""
    dataset.ImagePositionPatient = decimals(np.array(dataset.ImagePositionPatient, dtype=float) + offset)
    return paint(dataset, field)


def copy_of(slices: Sequence[Dataset], name: str = "", field: Field | None = None) -> list[Dataset]:
    """Return copies of slices; with a `name` under instance UIDs of their own, with a `field` repainted."""
    copies = []
    for number, original in enumerate(slices):
        copy = deepcopy(original)
        if name:
            copy.SOPInstanceUID = uid(f"{name} {number}")
        _add_meta(copy)
        copies.append(paint(copy, field) if field else copy)
    return copies


def write(folder: Path, slices: Sequence[Dataset], names: Sequence[str] | None = None) -> None:
    """Write slices as 0001.dcm, 0002.dcm ... or under `names`, making folders as needed."""
    names = names or [f"{number + 1:04d}.dcm" for number in range(len(slices))]
    for dataset, name in zip(slices, names, strict=True):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        dataset.save_as(folder / name, enforce_file_format=True)


def truth_of(slices: Sequence[Dataset], field: Field = ramp, **options: float) -> Truth:
    """Return the truth about slices that are sound as they are: the corners of the first and last along the normal."""
    row, column = np.array(slices[0].ImageOrientationPatient, dtype=float).reshape(2, 3)
    normal = np.cross(row, column)
    ordered = sorted(slices, key=lambda each: float(np.array(each.ImagePositionPatient, dtype=float) @ normal))
    ends = [
        pixel_positions(each)[:: each.Rows - 1, :: each.Columns - 1].reshape(4, 3) for each in (ordered[0], ordered[-1])
    ]
    return Truth(np.concatenate(ends), field, **options)


def sound(folder: Path, slices: Sequence[Dataset], names: Sequence[str] | None = None) -> list[Truth]:
    """Write slices that are one volume, and return the truth about it."""
    write(folder, slices, names)
    return [truth_of(slices)]
