"""Write masks as DICOM segmentation objects (PS3.3 A.51) that belong to the study of their series.

Segments without voxels are left out and the others numbered without a gap: readers that pair names with
segments by position, dcmqi and with it 3D Slicer, would otherwise give every later one a wrong name.
A frame lies on each source slice with a label and nowhere else: planes that reading interpolated have none.
The slices of a tilted gantry keep their planes but are moved within them by whole pixels, because those
readers load no sheared stack. Of unevenly spaced slices they show each on the nearest plane of an even stack.
"""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import highdicom as hd
import numpy as np
from highdicom.seg import SegmentAlgorithmTypeValues, SegmentationTypeValues, SegmentDescription
from numpy.typing import NDArray
from pydicom import Dataset
from pydicom.sr.codedict import codes

from medseg.errors import ReasonCode, SeriesError
from medseg.geometry import Grid, reorder
from medseg.io.dicom_derived import (
    Algorithm,
    concept,
    identity,
    made_from,
    name_of,
    quotable_series,
    text,
    uid,
    without_warnings,
)
from medseg.io.dicom_geometry import slice_normal
from medseg.io.files import atomic_file, read_back_error
from medseg.io.terminology import category_of, side_of, type_of
from medseg.labels import Label, LabelMap
from medseg.volume import Mask, Source

SERIES_NUMBER = 7101
"""High enough to stand behind a study's own series in a viewer's list."""

SHARED = "SharedFunctionalGroupsSequence"
"""What a multi-frame file has."""

SAME_PLACE_MM = 1e-3
"""Distance of a frame from where it was meant to be that is rounding of decimal strings."""


@dataclass(frozen=True, slots=True, eq=False)
class Frames:
    """Parallel images without shear, such as the slices of a series.

    Attributes
    ----------
    array : (N, rows, columns) numbers of segments.
    positions : (N, 3) centre of each first pixel, LPS mm.
    orientation : (2, 3) directions along a row and along a column, LPS.
    spacing : distances between rows, columns and, where they are even, slices, mm.
    """

    array: NDArray
    positions: NDArray[np.float64]
    orientation: NDArray[np.float64]
    spacing: tuple[float, float, float]


@without_warnings()
def write_dicom_seg(path: Path, mask: Mask, labels: LabelMap, source: Source, algorithm: Algorithm) -> tuple[str, ...]:
    """Write a mask as a binary DICOM segmentation, read it back and compare.

    Parameters
    ----------
    path : target, ending in .dcm.
    mask : on the grid of the series, in any order of axes.
    labels : become the segments: name, colour, and codes (the most general ones where a label has none).
    source : the DICOM series that was segmented.
    algorithm : goes into every segment; its type is AUTOMATIC.

    Returns
    -------
    tuple of str
        Names of the labels that became segments, in order of their numbers 1, 2, ...

    Raises
    ------
    ScanError
        Nothing is written: `NOT_DICOM` if the scan is no DICOM series, `NO_IDENTITY` if the series lacks an
        identifier that a segmentation must quote, `EMPTY` if nothing was found, `GRID_MISMATCH` if the mask
        does not lie on the series.
    OutputError
        If the file can't be written, or what was written is not what was meant.

    Notes
    -----
    UIDs follow from series and images, mask, labels and algorithm: the same result sent twice is one object to a PACS.
    """
    series, images = quotable_series(source, "to which a segmentation belongs")
    array = reorder(mask.array, mask.grid, series.grid)
    present = [label for label in labels.labels if (series.on_slices(array) == label.value).any()]
    if not present:
        raise SeriesError(ReasonCode.EMPTY, "nothing was found in the scan; a segmentation without segments is invalid")
    table = np.zeros(65536, np.uint8 if len(present) <= 255 else np.uint16)
    table[[label.value for label in present]] = range(1, len(present) + 1)
    numbers = table[array]
    frames = frames_of(series.on_slices(numbers), series.grid, series.line.places)
    segmentation = _segmentation(images, frames, present, algorithm)
    with atomic_file(path) as temporary:
        segmentation.save_as(temporary)
        if not _reads_back(temporary, frames):
            raise read_back_error(path)
    return tuple(label.name for label in present)


def frames_of(array: NDArray, grid: Grid, places: NDArray[np.float64]) -> Frames:
    """Return slices as frames, those that a tilted gantry sheared moved by whole pixels within their planes.

    No label is further than half a pixel from its place.

    Parameters
    ----------
    array : (X, Y, N) the slices.
    grid : its first two axes are theirs, its third leads from plane to plane.
    places : (N,) where the slices lie along the third axis.
    """
    x, y, z = grid.affine[:3, :3].T
    normal = slice_normal(np.array([x, y]))
    drift = np.linalg.lstsq(np.stack([x, y], axis=1), z, rcond=None)[0]  # pixels from plane to plane
    shifts = np.rint(np.outer(places, drift)).astype(int)
    shifts -= shifts.min(axis=0)
    columns, rows = np.array(array.shape[:2]) + shifts.max(axis=0)
    moved = np.zeros((len(places), rows, columns), array.dtype)
    for index, (i, j) in enumerate(shifts):
        moved[index, j : j + array.shape[1], i : i + array.shape[0]] = array[:, :, index].T
    first = grid.affine[:3, 3] - shifts[0] @ [x, y]
    distance = float(z @ normal)
    to_lps = np.array([-1.0, -1, 1])
    return Frames(
        moved,
        (first + np.outer(places * distance, normal)) * to_lps,
        grid.directions.T[:2] * to_lps,
        (grid.spacing[1], grid.spacing[0], abs(distance)),
    )


def _segmentation(
    images: list[Dataset], frames: Frames, present: list[Label], algorithm: Algorithm
) -> hd.seg.Segmentation:
    digest = sha256(frames.array.tobytes()).hexdigest()
    name = made_from(images, algorithm, *map(repr, present), digest)
    identification = hd.AlgorithmIdentificationSequence(
        name=text(algorithm.name), version=text(algorithm.version), family=codes.DCM.ArtificialIntelligence
    )
    orientation = hd.PlaneOrientationSequence("PATIENT", frames.orientation.ravel().tolist())
    measures = hd.PixelMeasuresSequence(frames.spacing[:2], frames.spacing[2], frames.spacing[2])
    for image in images:
        _let_agree(image, orientation, measures)
    taken = 1 if SHARED in images[0] else len(images)  # highdicom takes one multi-frame file
    segmentation = hd.seg.Segmentation(
        source_images=images[:taken],
        pixel_array=frames.array,
        plane_positions=[hd.PlanePositionSequence("PATIENT", position) for position in frames.positions],
        plane_orientation=orientation,
        pixel_measures=measures,
        segmentation_type=SegmentationTypeValues.BINARY,
        segment_descriptions=[
            _description(number, label, identification) for number, label in enumerate(present, start=1)
        ],
        device_serial_number="0",
        content_label="SEGMENTATION",
        content_description="Made by a program, not checked by a person",
        **identity("segmentation", SERIES_NUMBER, name, algorithm),
    )
    for image in images[taken:]:
        quoted = Dataset()
        quoted.ReferencedSOPClassUID, quoted.ReferencedSOPInstanceUID = image.SOPClassUID, image.SOPInstanceUID
        segmentation.ReferencedSeriesSequence[0].ReferencedInstanceSequence.append(quoted)
    for dimension in (*segmentation.DimensionOrganizationSequence, *segmentation.DimensionIndexSequence):
        dimension.DimensionOrganizationUID = uid("dimensions", name)  # highdicom draws one
    return segmentation


def _let_agree(image: Dataset, orientation: hd.PlaneOrientationSequence, measures: hd.PixelMeasuresSequence) -> None:
    """Let a header say of its planes what the frames do.

    highdicom compares both: it ends where slices are turned against each other by a rounding error, state no thickness,
    or are frames with groups of their own; and takes the header's word for the distance of slices.
    """
    if SHARED in image:
        shared = image[SHARED][0]
        shared.PlaneOrientationSequence, shared.PixelMeasuresSequence = orientation, measures
    else:
        image.update(orientation[0])
        image.update(measures[0])


def _description(number: int, label: Label, identification: hd.AlgorithmIdentificationSequence) -> SegmentDescription:
    red, green, blue = label.colour
    side = side_of(label)
    description = SegmentDescription(
        segment_number=number,
        segment_label=name_of(label),
        segmented_property_category=concept(category_of(label)),
        segmented_property_type=concept(type_of(label)),
        algorithm_type=SegmentAlgorithmTypeValues.AUTOMATIC,
        algorithm_identification=identification,
        display_color=hd.color.CIELabColor.from_rgb(red, green, blue),
    )
    if side:
        modifier = [concept(side)]
        description.SegmentedPropertyTypeCodeSequence[0].SegmentedPropertyTypeModifierCodeSequence = modifier
    return description


def _reads_back(path: Path, meant: Frames) -> bool:
    """Whether the file holds `meant`, each frame in its place: the frames it leaves out are empty there."""
    file = hd.seg.segread(path)
    found = np.zeros_like(meant.array)
    shared = file.SharedFunctionalGroupsSequence[0]
    pixels = file.pixel_array.reshape(-1, *meant.array.shape[1:])  # of a single frame pydicom drops the first axis
    for frame, group in zip(pixels, file.PerFrameFunctionalGroupsSequence, strict=True):
        plane, segment = (
            (group.get(name) or shared.get(name))[0]
            for name in ("PlanePositionSequence", "SegmentIdentificationSequence")
        )
        position = np.array(plane.ImagePositionPatient, dtype=float)
        distances = np.linalg.norm(meant.positions - position, axis=1)
        place = int(distances.argmin())
        if distances[place] > SAME_PLACE_MM:
            return False
        found[place][frame != 0] = segment.ReferencedSegmentNumber
    return bool(np.array_equal(found, meant.array))
