"""Write masks as DICOM structure sets (RTSTRUCT, PS3.3 A.19): the outlines of each label on the scan's slices.

Every contour lies on the plane of one source image, as that image's own header places it, whichever way
the slices are cut; planes that reading interpolated have none. How outlines run and how holes are joined to
them: `medseg.io.contours`.

A region of interest without contours is left out, as an empty segment is of a segmentation.
"""

from __future__ import annotations

from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

import highdicom as hd
import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset, dcmread
from pydicom.dataelem import RawDataElement
from pydicom.tag import Tag
from pydicom.uid import ImplicitVRLittleEndian, RTStructureSetStorage

from medseg.errors import ReasonCode, SeriesError
from medseg.geometry import reorder
from medseg.io.contours import Polygon, fill, outline
from medseg.io.dicom_derived import (
    Algorithm,
    concept,
    identity,
    made_from,
    name_of,
    quotable_series,
    text,
    without_warnings,
)
from medseg.io.dicom_headers import SliceHeader
from medseg.io.dicom_series import Series
from medseg.io.files import atomic_file, read_back_error
from medseg.io.terminology import side_of
from medseg.labels import Label, LabelMap
from medseg.volume import Mask, Source

SERIES_NUMBER = 7102
STUDY_CLASS = "1.2.840.10008.3.1.2.3.1"
"""SOP class by which structure sets quote a study, retired but asked for (PS3.3 C.8.8.5)."""

ORGAN = "ORGAN"
"""Interpreted type of a label that is no lesion. A lesion gets none: to call it GTV is a physician's decision."""

CONTOUR_DATA = Tag("ContourData")
DECIMALS = 5
"""Of the points' coordinates, mm: a hundredth of a thousandth of a pixel, within DICOM's 16 characters."""

Slices = list[tuple[SliceHeader, NDArray]]
"""Source images with their part of the mask (column, row)."""


@without_warnings()
def write_rtstruct(path: Path, mask: Mask, labels: LabelMap, source: Source, algorithm: Algorithm) -> tuple[str, ...]:
    """Write a mask as a DICOM structure set, read it back, fill its contours and compare.

    Parameters
    ----------
    path : target, ending in .dcm.
    mask : on the grid of the series, in any order of axes.
    labels : become the regions of interest: name, colour, and code where a label has one.
    source : the DICOM series that was segmented.
    algorithm : stands as what generated each region; its type is AUTOMATIC.

    Returns
    -------
    tuple of str
        Names of the labels that became regions, in order of their numbers 1, 2, ...

    Raises
    ------
    ScanError
        Nothing is written: `NOT_DICOM` if the scan is no DICOM series, `NO_IDENTITY` if the series lacks an
        identifier that a structure set must quote, `EMPTY` if nothing was found, `GRID_MISMATCH` if the mask
        does not lie on the series.
    OutputError
        If the file can't be written, or what was written is not what was meant.

    Notes
    -----
    UIDs follow from series and images, mask, labels and algorithm: the same result sent twice is one object to a PACS.
    """
    series, images = quotable_series(source, "on which contours are drawn")
    array = series.on_slices(reorder(mask.array, mask.grid, series.grid))
    present = [label for label in labels.labels if (array == label.value).any()]
    if not present:
        raise SeriesError(ReasonCode.EMPTY, "nothing was found in the scan; there is nothing to draw contours of")
    slices = [(header, array[:, :, index]) for index, header in enumerate(series.slices)]
    digest = sha256(np.ascontiguousarray(array).tobytes()).hexdigest()
    name = made_from(images, algorithm, *map(repr, present), digest)
    structures = _structure_set(images, name, algorithm)
    _add_references(structures, images, series)
    for number, label in enumerate(present, start=1):
        _add_region(structures, number, label, slices, algorithm)
    with atomic_file(path) as temporary:
        structures.save_as(temporary, enforce_file_format=True)
        if not _reads_back(temporary, present, slices):
            raise read_back_error(path)
    return tuple(label.name for label in present)


def _structure_set(images: list[Dataset], name: str, algorithm: Algorithm) -> hd.base.SOPClass:
    """Return a structure set without structures, in the patient and study of the images."""
    structures = hd.base.SOPClass(
        study_instance_uid=images[0].StudyInstanceUID,
        sop_class_uid=RTStructureSetStorage,
        modality="RTSTRUCT",
        # an explicit one has no room for the numbers of a contour beyond 64 KiB
        transfer_syntax_uid=ImplicitVRLittleEndian,
        **identity("contours", SERIES_NUMBER, name, algorithm, kind="rtstruct "),
    )
    structures.copy_patient_and_study_information(images[0])
    structures.FrameOfReferenceUID, structures.PositionReferenceIndicator = images[0].FrameOfReferenceUID, ""
    structures.OperatorsName = ""
    structures.ApprovalStatus = "UNAPPROVED"
    structures.StructureSetLabel = "AI RESEARCH"
    structures.StructureSetName = text(algorithm.name)
    structures.StructureSetDescription = "Made by a program, not checked by a person; research use"
    structures.StructureSetDate = structures.SeriesDate = structures.InstanceCreationDate
    structures.StructureSetTime = structures.SeriesTime = structures.InstanceCreationTime
    structures.StructureSetROISequence = []
    structures.ROIContourSequence = []
    structures.RTROIObservationsSequence = []
    return structures


def _add_references(structures: Dataset, images: list[Dataset], series: Series) -> None:
    quoted = _item(SeriesInstanceUID=images[0].SeriesInstanceUID)
    quoted.ContourImageSequence = [_quote(header) for header in series.slices]
    study = _item(ReferencedSOPClassUID=STUDY_CLASS, ReferencedSOPInstanceUID=images[0].StudyInstanceUID)
    study.RTReferencedSeriesSequence = [quoted]
    frame = _item(FrameOfReferenceUID=images[0].FrameOfReferenceUID)
    frame.RTReferencedStudySequence = [study]
    structures.ReferencedFrameOfReferenceSequence = [frame]


def _add_region(structures: Dataset, number: int, label: Label, slices: Slices, algorithm: Algorithm) -> None:
    roi = _item(
        ROINumber=number,
        ReferencedFrameOfReferenceUID=structures.FrameOfReferenceUID,
        ROIName=name_of(label),
        ROIGenerationAlgorithm="AUTOMATIC",
        ROIGenerationDescription=text(f"{algorithm.name} {algorithm.version}"),
    )
    contours = _item(ROIDisplayColor=list(label.colour), ReferencedROINumber=number)
    contours.ContourSequence = list(_contours(label.value, slices))
    observation = _item(
        ObservationNumber=number,
        ReferencedROINumber=number,
        RTROIInterpretedType="" if label.lesion else ORGAN,
        ROIInterpreter="",
    )
    if label.code:
        code, side = concept(label.code), side_of(label)
        if side:
            code.SegmentedPropertyTypeModifierCodeSequence = [concept(side)]
        observation.RTROIIdentificationCodeSequence = [code]
    structures.StructureSetROISequence.append(roi)
    structures.ROIContourSequence.append(contours)
    structures.RTROIObservationsSequence.append(observation)


def _contours(value: int, slices: Slices) -> Iterator[Dataset]:
    number = 0
    for header, array in slices:
        for polygon in outline(array == value):
            number += 1
            contour = _item(
                ContourNumber=number, ContourGeometricType="CLOSED_PLANAR", NumberOfContourPoints=len(polygon)
            )
            contour.ContourImageSequence = [_quote(header)]
            contour[CONTOUR_DATA] = _numbers(_to_space(polygon, header))
            yield contour


def _numbers(points: NDArray[np.float64]) -> RawDataElement:
    """Return numbers as they stand in an implicit transfer syntax: pydicom makes an object of each, for seconds."""
    value = "\\".join(f"{part:.{DECIMALS}f}" for part in points.ravel().tolist()).encode()
    value += b" " * (len(value) % 2)
    return RawDataElement(CONTOUR_DATA, "DS", len(value), value, 0, is_implicit_VR=True, is_little_endian=True)


def _points(contour: Dataset) -> NDArray[np.float64]:
    """Return the points (N, 3) of a contour, LPS mm, read without pydicom's objects, too."""
    value = contour.get_item(CONTOUR_DATA).value
    return np.array(value.decode().split("\\"), np.float64).reshape(-1, 3)


def _quote(header: SliceHeader) -> Dataset:
    image = _item(ReferencedSOPClassUID=header.sop_class, ReferencedSOPInstanceUID=header.instance)
    if header.frames > 1:
        image.ReferencedFrameNumber = header.frame + 1
    return image


def _axes(header: SliceHeader) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the steps (3, 2) from column to column and row to row, and the first pixel's centre, LPS mm (C.7.6.2)."""
    between_rows, between_columns = header.spacing or (0.0, 0.0)
    along = np.array(header.orientation or (0.0,) * 6).reshape(2, 3).T
    return along * (between_columns, between_rows), np.array(header.position)


def _to_space(polygon: Polygon, header: SliceHeader) -> NDArray[np.float64]:
    steps, first = _axes(header)
    return polygon @ steps.T + first


def _to_pixels(points: NDArray[np.float64], header: SliceHeader) -> Polygon:
    steps, first = _axes(header)
    return np.asarray(np.linalg.lstsq(steps, (points - first).T, rcond=None)[0].T)


def _reads_back(path: Path, present: list[Label], slices: Slices) -> bool:
    """Whether filling the contours of a file gives every slice of the mask."""
    found = dcmread(path)
    by_image = {(header.instance, header.frame + 1): header for header, _ in slices}
    for label, region in zip(present, found.ROIContourSequence, strict=True):
        polygons: dict[SliceHeader, list[Polygon]] = {}
        for contour in region.ContourSequence:
            (image,) = contour.ContourImageSequence
            header = by_image[image.ReferencedSOPInstanceUID, image.get("ReferencedFrameNumber", 1)]
            polygons.setdefault(header, []).append(_to_pixels(_points(contour), header))
        for header, array in slices:
            if not np.array_equal(fill(polygons.get(header, []), array.shape), array == label.value):
                return False
    return True


def _item(**attributes: object) -> Dataset:
    item = Dataset()
    for keyword, value in attributes.items():
        setattr(item, keyword, value)
    return item
