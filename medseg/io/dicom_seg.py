"""Write masks as DICOM segmentation objects (PS3.3 A.51) that belong to the study of their series.

Such an object copies the patient and study of its series, by which a PACS files it: it is the only output
of medseg, beside others in its folder, that names a patient.

Segments without voxels are left out and the others numbered without a gap: readers that pair names with
segments by position, dcmqi and with it 3D Slicer, would otherwise give every later one a wrong name.
A series with a tilted gantry gets its segmentation on a perpendicular grid, because they can't load the
sheared one.
"""

from __future__ import annotations

import warnings
from hashlib import sha256
from pathlib import Path

import highdicom as hd
import numpy as np
from highdicom.seg import SegmentAlgorithmTypeValues, SegmentationTypeValues, SegmentDescription
from pydicom import Dataset
from pydicom.sr.codedict import codes

from medseg.errors import OutputError, ReasonCode, SeriesError, UnsupportedScanError
from medseg.geometry import Grid, reorder
from medseg.io.dicom import open_series
from medseg.io.dicom_derived import MANUFACTURER, Algorithm, concept, quotable_images, text, uid
from medseg.io.files import atomic_file
from medseg.io.terminology import category_of, side_of, type_of
from medseg.labels import Label, LabelMap
from medseg.volume import Mask, Source

SERIES_NUMBER = 7101
"""High enough to stand behind a study's own series in a viewer's list."""


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
    UIDs follow from series, mask, labels and algorithm: the same result sent twice is one object to a PACS.
    """
    if source.kind != "dicom":
        raise UnsupportedScanError(ReasonCode.NOT_DICOM, "the scan is no DICOM series, to which a segmentation belongs")
    with warnings.catch_warnings():  # pydicom's and highdicom's quote names and identifiers of the patient
        warnings.simplefilter("ignore")
        return _write(path, mask, labels, source, algorithm)


def _write(path: Path, mask: Mask, labels: LabelMap, source: Source, algorithm: Algorithm) -> tuple[str, ...]:
    series = open_series(source)
    images = quotable_images(series.source)
    present = [label for label in labels.labels if (mask.array == label.value).any()]
    if not present:
        raise SeriesError(ReasonCode.EMPTY, "nothing was found in the scan; a segmentation without segments is invalid")
    table = np.zeros(65536, np.uint8 if len(present) <= 255 else np.uint16)
    table[[label.value for label in present]] = range(1, len(present) + 1)
    placed = perpendicular(Mask(table[reorder(mask.array, mask.grid, series.grid)], series.grid))
    volume = _to_volume(placed, images[0].FrameOfReferenceUID)
    segmentation = _segmentation(images, volume, present, algorithm)
    with atomic_file(path) as temporary:
        segmentation.save_as(temporary)
        if not _reads_back(temporary, volume):
            raise OutputError(f"{path} reads back differently from what was written; check the disk and try again")
    return tuple(label.name for label in present)


def perpendicular(mask: Mask) -> Mask:
    """Return a mask whose slices were sheared by a tilted gantry on a perpendicular grid over the same space.

    The slices stay where they are; within its plane, each is moved by whole pixels, so that no label is
    further than half a pixel from its place. A mask on perpendicular axes is returned as it is.
    """
    grid = mask.grid
    if grid.is_orthogonal:
        return mask
    x, y, z = grid.affine[:3, :3].T
    normal = np.cross(x, y) / np.linalg.norm(np.cross(x, y))
    in_plane = np.linalg.lstsq(np.stack([x, y], axis=1), z, rcond=None)[0]  # pixels that each slice drifts
    shifts = np.rint(np.outer(np.arange(grid.shape[2]), in_plane)).astype(int)
    low = shifts.min(axis=0)
    size = np.array(grid.shape[:2]) + np.ptp(shifts, axis=0)
    array = np.zeros((*size, grid.shape[2]), mask.array.dtype)
    for index, (i, j) in enumerate(shifts - low):
        array[i : i + grid.shape[0], j : j + grid.shape[1], index] = mask.array[:, :, index]
    affine = grid.affine.copy()
    affine[:3, 2] = normal * float(z @ normal)
    affine[:3, 3] += low[0] * x + low[1] * y
    return Mask(array, Grid(array.shape, affine))


def _to_volume(mask: Mask, frame_of_reference: str) -> hd.Volume:
    """Return the mask as highdicom orders it, (slice, row, column), placed in LPS."""
    affine = np.diag([-1.0, -1.0, 1.0, 1.0]) @ mask.grid.affine
    return hd.Volume(
        array=np.ascontiguousarray(mask.array.transpose(2, 1, 0)),
        affine=affine[:, [2, 1, 0, 3]],
        coordinate_system="PATIENT",
        frame_of_reference_uid=frame_of_reference,
    )


def _segmentation(
    images: list[Dataset], volume: hd.Volume, present: list[Label], algorithm: Algorithm
) -> hd.seg.Segmentation:
    made_from = [images[0].SeriesInstanceUID, algorithm.name, algorithm.version, *(repr(label) for label in present)]
    name = "\n".join([*made_from, sha256(volume.array.tobytes()).hexdigest()])
    identification = hd.AlgorithmIdentificationSequence(
        name=text(algorithm.name), version=text(algorithm.version), family=codes.DCM.ArtificialIntelligence
    )
    return hd.seg.Segmentation(
        source_images=images,
        pixel_array=volume,
        segmentation_type=SegmentationTypeValues.BINARY,
        segment_descriptions=[
            _description(number, label, identification) for number, label in enumerate(present, start=1)
        ],
        series_instance_uid=uid("series", name),
        series_number=SERIES_NUMBER,
        sop_instance_uid=uid("instance", name),
        instance_number=1,
        manufacturer=MANUFACTURER,
        manufacturer_model_name=text(algorithm.name),
        software_versions=text(algorithm.version),
        device_serial_number="0",
        series_description=text(f"AI segmentation, research use: {algorithm.name}"),
        content_label="SEGMENTATION",
        content_description="Made by a program, not checked by a person",
        specific_character_set="ISO_IR 192",  # UTF-8: labels may be in any language
    )


def _description(number: int, label: Label, identification: hd.AlgorithmIdentificationSequence) -> SegmentDescription:
    red, green, blue = label.colour
    side = side_of(label)
    description = SegmentDescription(
        segment_number=number,
        segment_label=text(label.name) or f"label_{label.value}",
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


def _reads_back(path: Path, meant: hd.Volume) -> bool:
    """Whether the file holds `meant`: the frames it leaves out are empty there."""
    found = hd.seg.segread(path).get_volume(combine_segments=True).match_geometry(meant)
    return bool(np.array_equal(found.array, meant.array))
