"""Several things in one folder: other series, other objects, other phases, other patients."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import highdicom as hd
import numpy as np
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from pydicom.uid import (
    BasicTextSRStorage,
    MRImageStorage,
    RTStructureSetStorage,
    SecondaryCaptureImageStorage,
)

from pitfalls.registry import Truth, brighter_ramp, pitfall, ramp
from pitfalls.slices import copy_of, make_slices, paint, sound, truth_of, uid, write

SAGITTAL = ((0, 1, 0), (0, 0, 1))
CLOCK = {"DA": "20200101", "TM": "120000", "DT": "20200101120000"}


@pitfall("right", studied=True)
def two_series(folder: Path) -> list[Truth]:
    """Two series with different values lie in one folder."""
    first, second = make_slices("first"), make_slices("second", count=9, field=brighter_ramp)
    write(folder, first + second)
    return [truth_of(first), truth_of(second, brighter_ramp)]


@pitfall("right", studied=True)
def localizer_in_series(folder: Path) -> list[Truth]:
    """A coronal scout view belongs to the series."""
    return _with_scout(folder, "ct")


@pitfall("right", studied=True)
def localizer_beside(folder: Path) -> list[Truth]:
    """A coronal scout view lies beside the series, as a series of its own."""
    return _with_scout(folder, "scout")


@pitfall("right", studied=True)
def report_beside(folder: Path) -> list[Truth]:
    """A structured report, which has no pixels, lies beside the slices."""
    report = _object(BasicTextSRStorage, "SR")
    report.ValueType, report.ContinuityOfContent = "CONTAINER", "SEPARATE"
    write(folder, [report], ["0000.dcm"])
    return sound(folder, make_slices())


@pitfall("right")
def structures_beside(folder: Path) -> list[Truth]:
    """Contours of a treatment plan (RTSTRUCT) share the series' frame of reference."""
    structures = _object(RTStructureSetStorage, "RTSTRUCT")
    structures.StructureSetLabel, structures.StructureSetROISequence = "contours", []
    structures.FrameOfReferenceUID = uid("frame of reference")
    write(folder, [structures], ["0000.dcm"])
    return sound(folder, make_slices())


@pitfall("right")
def segmentation_beside(folder: Path) -> list[Truth]:
    """A DICOM segmentation of the series lies beside it, with as many frames of the same size."""
    slices = make_slices()
    organ = hd.seg.SegmentDescription(
        segment_number=1,
        segment_label="liver",
        segmented_property_category=codes.SCT.Organ,
        segmented_property_type=codes.SCT.Liver,
        algorithm_type=hd.seg.SegmentAlgorithmTypeValues.MANUAL,
    )
    segmentation = hd.seg.Segmentation(
        slices,
        np.ones((len(slices), 20, 24), np.uint8),
        hd.seg.SegmentationTypeValues.BINARY,
        [organ],
        series_instance_uid=uid("series seg"),
        series_number=2,
        sop_instance_uid=uid("seg"),
        instance_number=1,
        manufacturer="medseg phantom",
        manufacturer_model_name="1",
        software_versions="1",
        device_serial_number="1",
    )
    segmentation.walk(_fix_what_changes)
    write(folder, [segmentation], ["0000.dcm"])
    return sound(folder, slices)


@pitfall("right")
def secondary_capture_beside(folder: Path) -> list[Truth]:
    """A screenshot with the position of a slice belongs to the series."""
    slices = make_slices()
    shot = copy_of(slices[3:4], "shot", brighter_ramp)[0]
    shot.SOPClassUID = shot.file_meta.MediaStorageSOPClassUID = SecondaryCaptureImageStorage
    shot.ImageType = ["DERIVED", "SECONDARY"]
    write(folder, [shot], ["0000.dcm"])
    return sound(folder, slices)


@pitfall("CONFLICT", studied=True)
def same_position_other_pixels(folder: Path) -> list[Truth]:
    """One position holds two different images of one acquisition."""
    slices = make_slices()
    write(folder, copy_of(slices[5:6], "other", lambda world: ramp(world) + 396), ["0000.dcm"])
    return sound(folder, slices)


@pitfall("right", studied=True)
def phases_in_sequence(folder: Path) -> list[Truth]:
    """Two phases share a series UID; the second follows the first, as another acquisition."""
    return _phases(folder, interleaved=False)


@pitfall("right", studied=True)
def phases_interleaved(folder: Path) -> list[Truth]:
    """Two phases share a series UID; their slices and numbers alternate."""
    return _phases(folder, interleaved=True)


@pitfall("right")
def phases_rescaled_apart(folder: Path) -> list[Truth]:
    """Two interleaved phases share a series UID, and each has its own slope and intercept."""
    return _phases(folder, interleaved=True, slope=0.5)


@pitfall("PHASES")
def phases_without_a_name(folder: Path) -> list[Truth]:
    """Two phases share a series UID, and no attribute tells their slices apart."""
    slices = make_slices()
    second = copy_of(slices, "second", brighter_ramp)
    write(folder, slices + second)
    return [truth_of(slices), truth_of(second, brighter_ramp)]


@pitfall("right")
def echoes(folder: Path) -> list[Truth]:
    """Two echoes of an MR series alternate under one series UID; only EchoTime tells them apart."""
    return _repeated(folder, "EchoTime", 3)


@pitfall("right")
def b_values(folder: Path) -> list[Truth]:
    """Three b-values of a diffusion series share a series UID."""
    return _repeated(folder, "DiffusionBValue", 3)


@pitfall("CONFLICT")
def phase_cut_short(folder: Path) -> list[Truth]:
    """The second phase of a series covers only a part of the first's positions."""
    slices = make_slices()
    second = copy_of(slices[:7], "second", brighter_ramp)
    for each in second:
        each.AcquisitionNumber = 2
    write(folder, slices + second)
    return [truth_of(slices), truth_of(second, brighter_ramp)]


@pitfall("right")
def numbered_acquisitions(folder: Path) -> list[Truth]:
    """AcquisitionNumber changes along the stack, because the table moved: still one volume."""
    slices = make_slices()
    for number, each in enumerate(slices):
        each.AcquisitionNumber = 1 + number // 4
    return sound(folder, slices)


@pitfall("CONFLICT")
def two_patients_one_series(folder: Path) -> list[Truth]:
    """The upper half of a series belongs to another patient: one UID was given twice."""
    slices = make_slices()
    for each in slices[6:]:
        each.PatientID = each.PatientName = "someone else"
    write(folder, slices)
    return [truth_of(slices[:6]), truth_of(slices[6:])]


@pitfall("right")
def two_studies_one_series(folder: Path) -> list[Truth]:
    """Two studies use the same SeriesInstanceUID for different scans."""
    first, second = make_slices(), copy_of(make_slices(), "second", brighter_ramp)
    for each in second:
        each.StudyInstanceUID = uid("another study")
    write(folder, first + second)
    return [truth_of(first), truth_of(second, brighter_ramp)]


@pitfall("right")
def two_frames_of_reference(folder: Path) -> list[Truth]:
    """The patient was repositioned within a series: positions of two frames of reference can't be compared."""
    first, second = make_slices(), copy_of(make_slices(), "second", brighter_ramp)
    for each in second:
        each.FrameOfReferenceUID = uid("another frame of reference")
    write(folder, first + second)
    return [truth_of(first), truth_of(second, brighter_ramp)]


@pitfall("CONFLICT")
def one_instance_two_images(folder: Path) -> list[Truth]:
    """One SOPInstanceUID names two images with different pixels."""
    slices = make_slices()
    write(folder, copy_of(slices[5:6], field=brighter_ramp), ["0000.dcm"])
    slices[5].SOPInstanceUID = uid("ct 5")
    return sound(folder, slices)


@pitfall("MIXED_ORIENTATION")
def reformats_in_series(folder: Path) -> list[Truth]:
    """Sagittal reformats of the scan were stored under the series' own UID."""
    slices = make_slices()
    reformats = copy_of(make_slices("reformat", directions=SAGITTAL, count=5), "reformat")
    for each in reformats:
        each.SeriesInstanceUID = slices[0].SeriesInstanceUID
    write(folder, slices + reformats)
    return [truth_of(slices), truth_of(reformats)]


def _fix_what_changes(dataset: Dataset, element: DataElement) -> None:
    """Replace what highdicom takes from the clock or by chance."""
    if element.VR in CLOCK:
        element.value = CLOCK[element.VR]
    elif element.keyword == "DimensionOrganizationUID":
        element.value = uid("dimensions")


def _with_scout(folder: Path, name: str) -> list[Truth]:
    scout = copy_of(make_slices(name, directions=((1, 0, 0), (0, 0, -1)), count=1), "scout")[0]
    scout.ImageType = ["ORIGINAL", "PRIMARY", "LOCALIZER"]
    write(folder, [scout], ["0000.dcm"])
    return sound(folder, make_slices())


def _object(sop_class: str, modality: str) -> Dataset:
    """Return the bare bones of an object without pixels that belongs to the scan's study."""
    donor = copy_of(make_slices(modality, count=1))[0]
    for keyword in ("PixelData", "Rows", "Columns", "ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing"):
        delattr(donor, keyword)
    donor.SOPClassUID = donor.file_meta.MediaStorageSOPClassUID = sop_class
    donor.Modality = modality
    return donor


def _phases(folder: Path, *, interleaved: bool, slope: float = 1) -> list[Truth]:
    first = make_slices()
    second = copy_of(first, "second")
    for number, (one, other) in enumerate(zip(first, second, strict=True)):
        other.AcquisitionNumber, other.ContentTime = 2, "120030"
        other.RescaleSlope = slope
        other.InstanceNumber = 13 + number
        if interleaved:
            one.InstanceNumber, other.InstanceNumber = 2 * number + 1, 2 * number + 2
        paint(other, brighter_ramp)
    files = [each for pair in zip(first, second, strict=True) for each in pair] if interleaved else first + second
    write(folder, files)
    return [truth_of(first), truth_of(second, brighter_ramp)]


def _repeated(folder: Path, keyword: str, times: int) -> list[Truth]:
    """Write an MR series that repeats its positions; `keyword` tells the repetitions apart."""
    truths = []
    for number in range(times):
        field = _raised(700 * number)
        slices = copy_of(make_slices(), f"{keyword} {number}")
        for each in slices:
            each.SOPClassUID = each.file_meta.MediaStorageSOPClassUID = MRImageStorage
            each.Modality = "MR"
            setattr(each, keyword, 10.0 * (number + 1))
            paint(each, field)
        write(folder, slices, [f"{place:04d} {number}.dcm" for place in range(len(slices))])
        truths.append(truth_of(slices, field))
    return truths


def _raised(height: float) -> Callable:
    return lambda world: ramp(world) + height
