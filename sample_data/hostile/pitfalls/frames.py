"""Multi-frame files: all planes in one file, each described by its functional groups."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset
from pydicom.tag import Tag
from pydicom.uid import EnhancedCTImageStorage

from pitfalls.registry import Truth, brighter_ramp, pitfall
from pitfalls.slices import SLICES, SPACING, copy_of, make_slices, paint, truth_of, uid, write

ORDER = np.random.default_rng(2).permutation(SLICES)


@pitfall("right", studied=True)
def enhanced(folder: Path) -> list[Truth]:
    """The scan is one enhanced multi-frame CT file."""
    return _written(folder, enhanced_ct(make_slices()))


@pitfall("right", studied=True)
def enhanced_shuffled(folder: Path) -> list[Truth]:
    """The frames of an enhanced CT are stored in no spatial order."""
    slices = make_slices()
    return _written(folder, enhanced_ct([slices[number] for number in ORDER]))


@pitfall("right")
def enhanced_numbers_not_spatial(folder: Path) -> list[Truth]:
    """The frames' numbers within their stack have nothing to do with their positions."""
    slices = make_slices()
    for number, each in zip(ORDER, slices, strict=True):
        each.InstanceNumber = int(number) + 1
    return _written(folder, enhanced_ct(slices))


@pitfall("right")
def enhanced_rescaled_by_frame(folder: Path) -> list[Truth]:
    """Every frame of an enhanced CT has its own slope and intercept."""
    slices = make_slices()
    for number, each in enumerate(slices):
        each.RescaleSlope, each.RescaleIntercept = 0.05 * (number + 1), -100 - number
        paint(each)
    return _written(folder, enhanced_ct(slices))


@pitfall("right")
def enhanced_descending(folder: Path) -> list[Truth]:
    """The frames of an enhanced CT run downwards."""
    slices = make_slices(step=(0, 0, -SPACING[2]))
    _written(folder, enhanced_ct(slices))
    return [truth_of(slices)]


@pitfall("MISSING_SLICE", repair="MISSING_SLICE")
def enhanced_missing_frame(folder: Path) -> list[Truth]:
    """A plane in the middle of an enhanced CT is missing."""
    slices = make_slices()
    return _written(folder, enhanced_ct(slices[:6] + slices[7:]))


@pitfall("UNREADABLE")
def enhanced_without_groups(folder: Path) -> list[Truth]:
    """An enhanced CT lacks its functional groups: nothing says where its frames lie."""
    data = enhanced_ct(make_slices())
    del data.PerFrameFunctionalGroupsSequence
    return _written(folder, data)


@pitfall("UNREADABLE")
def enhanced_claims_more(folder: Path) -> list[Truth]:
    """NumberOfFrames is larger than what the functional groups describe, and pixels are there for it."""
    data = enhanced_ct(make_slices())
    data.NumberOfFrames, data.PixelData = SLICES + 2, data.PixelData + bytes(2 * 2 * data.Rows * data.Columns)
    return _written(folder, data)


@pitfall("TRUNCATED")
def enhanced_claims_ten_thousand(folder: Path) -> list[Truth]:
    """NumberOfFrames claims ten thousand frames, and there are pixels for twelve."""
    data = enhanced_ct(make_slices())
    data.NumberOfFrames = 10_000
    return _written(folder, data)


@pitfall("UNREADABLE")
def enhanced_claims_fewer(folder: Path) -> list[Truth]:
    """NumberOfFrames is smaller than what the functional groups describe."""
    data = enhanced_ct(make_slices())
    data.NumberOfFrames = SLICES - 3
    return _written(folder, data)


@pitfall("PHASES")
def enhanced_two_phases(folder: Path) -> list[Truth]:
    """One enhanced CT holds two phases of the same place."""
    slices = make_slices()
    second = copy_of(slices, "second", brighter_ramp)
    return [*_written(folder, enhanced_ct(slices + second)), truth_of(second, brighter_ramp)]


@pitfall("NO_POSITION")
def frames_in_a_plain_ct(folder: Path) -> list[Truth]:
    """A CT of the single-frame kind claims twelve frames: one position for all of them."""
    slices = make_slices()
    stack = copy_of(slices[:1])[0]
    stack.NumberOfFrames, stack.PixelData = SLICES, b"".join(each.PixelData for each in slices)
    write(folder, [stack], ["stack.dcm"])
    return [truth_of(slices)]


def enhanced_ct(slices: Sequence[Dataset]) -> Dataset:
    """Return the slices as the frames of one enhanced CT image (PS3.3 A.38), in the order given."""
    data = copy_of(slices[:1], "enhanced")[0]
    for keyword in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SliceThickness", "RescaleType"):
        delattr(data, keyword)
    del data.RescaleSlope, data.RescaleIntercept
    data.SOPClassUID = data.file_meta.MediaStorageSOPClassUID = EnhancedCTImageStorage
    data.ImageType = ["ORIGINAL", "PRIMARY", "VOLUME", "NONE"]
    data.NumberOfFrames, data.PixelData = len(slices), b"".join(each.PixelData for each in slices)
    shared = Dataset()
    shared.PixelMeasuresSequence = [_picked(slices[0], "PixelSpacing", "SliceThickness")]
    shared.PlaneOrientationSequence = [_picked(slices[0], "ImageOrientationPatient")]
    frame_type = Dataset()
    frame_type.FrameType = data.ImageType
    shared.CTImageFrameTypeSequence = [frame_type]
    data.SharedFunctionalGroupsSequence = [shared]
    data.PerFrameFunctionalGroupsSequence = [_frame(each) for each in slices]
    organization = Dataset()
    organization.DimensionOrganizationUID = uid("dimensions")
    data.DimensionOrganizationSequence = [organization]
    data.DimensionIndexSequence = [_dimension("StackID"), _dimension("InStackPositionNumber")]
    data["PixelData"].VR = "OW"
    return data


def _dimension(keyword: str) -> Dataset:
    index = Dataset()
    index.DimensionOrganizationUID = uid("dimensions")
    index.DimensionIndexPointer = Tag(keyword)
    index.FunctionalGroupPointer = Tag("FrameContentSequence")
    return index


def _frame(plane: Dataset) -> Dataset:
    content = Dataset()
    content.StackID, content.InStackPositionNumber = "1", plane.InstanceNumber
    content.DimensionIndexValues, content.FrameAcquisitionNumber = [1, plane.InstanceNumber], 1
    frame = Dataset()
    frame.FrameContentSequence = [content]
    frame.PlanePositionSequence = [_picked(plane, "ImagePositionPatient")]
    frame.PixelValueTransformationSequence = [_picked(plane, "RescaleSlope", "RescaleIntercept", "RescaleType")]
    return frame


def _picked(plane: Dataset, *keywords: str) -> Dataset:
    """Return a sequence item with some elements of a slice."""
    item = Dataset()
    for keyword in keywords:
        setattr(item, keyword, plane[keyword].value)
    return item


def _written(folder: Path, data: Dataset) -> list[Truth]:
    """Write a multi-frame file; the truth is the whole stack."""
    write(folder, [data], ["enhanced.dcm"])
    return [truth_of(make_slices())]
