"""Read DICOM segmentation objects (PS3.3 A.51) as a reviewer's program hands them in."""

from __future__ import annotations

from pathlib import Path

import highdicom as hd
import numpy as np
from highdicom.sr.coding import CodedConcept
from numpy.typing import NDArray
from pydicom import Dataset, dcmread
from pydicom.errors import InvalidDicomError

from medseg.errors import ReasonCode, ScanError, UnsupportedScanError
from medseg.geometry import Grid
from medseg.io.dicom_derived import without_warnings
from medseg.io.nifti_header import MAX_VALUES
from medseg.io.nrrd import TO_LPS
from medseg.io.slicer import Segment, Segmentation, terminology_entry
from medseg.labels import Code

GREY = (128, 128, 128)
"""Colour of segments that are read: an object states it in CIELab, and nobody asks for it here."""


def series_of(path: Path) -> str:
    """Return the UID of the series that a DICOM file belongs to, or that a segmentation refers to; "" if unsaid.

    It identifies a patient's examination: use it under a keyed hash only.

    Raises
    ------
    UnsupportedScanError
        `UNREADABLE` if it is no readable DICOM file.
    """
    try:
        dataset = dcmread(path, stop_before_pixels=True)
        referenced = dataset.get("ReferencedSeriesSequence")
        return str((referenced[0] if referenced else dataset).get("SeriesInstanceUID", ""))
    except (OSError, InvalidDicomError):
        raise _unreadable(path, "no DICOM file") from None
    except Exception as error:  # as in `read_dicom_seg`
        raise _unreadable(path, f"no readable DICOM file ({type(error).__name__})") from None


def read_dicom_seg(path: Path) -> Segmentation:
    """Read a segmentation, binary or label map, as the segments of a review.

    Returns
    -------
    Segmentation
        Array axes run along columns, rows and slices; segments that overlap lie in layers of their own. Their
        names are the segment labels, their terminology the codes of category, type and modifier.

    Raises
    ------
    ScanError
        `UNREADABLE` if it is no such file, damaged, or not one regular volume; `UNSUPPORTED_PIXELS` for
        fractional segmentations.
    """
    try:
        with without_warnings():
            return _read(path)
    except (ScanError, MemoryError):
        raise
    except Exception as error:  # the libraries raise of every kind for damaged files, and quote headers
        raise _unreadable(path, f"no readable DICOM segmentation ({type(error).__name__})") from None


def _read(path: Path) -> Segmentation:
    segmentation = hd.seg.segread(path)
    if segmentation.segmentation_type.value == "FRACTIONAL":
        raise UnsupportedScanError(
            ReasonCode.UNSUPPORTED_PIXELS, f"{path.name} is a fractional segmentation; a mask needs a binary one"
        )
    geometry = segmentation.get_volume_geometry(allow_missing_positions=True)
    if geometry is None:
        raise _unreadable(path, "not one regular volume")
    if np.prod(geometry.spatial_shape, dtype=object) * segmentation.number_of_segments > MAX_VALUES:
        raise _unreadable(path, "larger than what is read")
    try:
        volume = segmentation.get_volume(combine_segments=True, allow_missing_positions=True)
        layers = volume.array.transpose(2, 1, 0)[None]
    except RuntimeError:  # segments overlap; the failed attempt leaves a table behind in highdicom 0.28's index
        volume = hd.seg.segread(path).get_volume(combine_segments=False, allow_missing_positions=True)
        layers = volume.array.transpose(3, 2, 1, 0)
    segments = tuple(_segment(segmentation, number, len(layers) > 1) for number in segmentation.segment_numbers)
    grid = Grid(layers.shape[1:], TO_LPS @ volume.affine[:, [2, 1, 0, 3]])
    return Segmentation(_narrow(layers), grid, segments)


def _segment(segmentation: hd.seg.Segmentation, number: int, has_layers: bool) -> Segment:
    described = segmentation.get_segment_description(number)
    kind = described.segmented_property_type
    modifiers = kind.get("SegmentedPropertyTypeModifierCodeSequence")
    entry = terminology_entry(
        _code(described.segmented_property_category), _code(kind), _code(modifiers[0]) if modifiers else None
    )
    position = list(segmentation.segment_numbers).index(number)
    return Segment(
        id=str(number),
        name=described.segment_label,
        value=1 if has_layers else number,
        colour=GREY,
        terminology=entry,
        layer=position if has_layers else 0,
    )


def _code(item: Dataset) -> Code:
    concept = CodedConcept.from_dataset(item)
    return Code(scheme=concept.scheme_designator, value=concept.value, meaning=concept.meaning)


def _narrow(layers: NDArray) -> NDArray[np.uint8] | NDArray[np.uint16]:
    return layers.astype(np.uint8) if layers.max(initial=0) <= 255 else layers.astype(np.uint16)


def _unreadable(path: Path, why: str) -> UnsupportedScanError:
    return UnsupportedScanError(ReasonCode.UNREADABLE, f"{path.name} is {why}; export it again")
