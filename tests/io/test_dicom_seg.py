"""DICOM segmentations, decoded by dcmqi and highdicom: every voxel in its place and under its name."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import warnings
from dataclasses import replace
from pathlib import Path

import highdicom as hd
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from pydicom.uid import CTImageStorage

from medseg.catalog.index import index_scans
from medseg.config import IngestConfig
from medseg.errors import GeometryError, OutputError, ReasonCode, ScanError
from medseg.geometry import Grid
from medseg.io import dicom_seg
from medseg.io.dicom import inspect_series, open_series
from medseg.io.dicom_derived import IDENTIFIERS, Algorithm
from medseg.io.dicom_seg import write_dicom_seg
from medseg.io.dicom_seg_read import read_dicom_seg
from medseg.review.lattice import place
from medseg.volume import Mask, Source

from .dicom_results import ALGORITHM, GEOMETRIES, LABELS, SHAPE, TURN, blobs

LPS = np.diag([-1.0, -1.0, 1.0])


@pytest.fixture
def dcmqi(tmp_path):
    """Decode a segmentation by dcmqi: the image, and the names of its values."""
    program = shutil.which("segimage2itkimage", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    if program is None:
        pytest.skip("dcmqi, from the dev extra, is not installed: nothing decodes the segmentation independently")

    def decode(path: Path) -> tuple[sitk.Image, dict[int, str]]:
        folder = tmp_path / "decoded"
        folder.mkdir()
        command = [
            program,
            "--inputDICOM",
            path,
            "--outputDirectory",
            folder,
            "--outputType",
            "nrrd",
            "--mergeSegments",
        ]
        subprocess.run(command, check=True, capture_output=True)
        (image,) = folder.glob("*.nrrd")  # its exit code is 0 even when it can't decode
        (names,) = json.loads((folder / "meta.json").read_text())["segmentAttributes"]
        return sitk.ReadImage(str(image)), {segment["labelID"]: segment["SegmentLabel"] for segment in names}

    return decode


def on_grid(image: sitk.Image, grid: Grid) -> np.ndarray:
    """Return the image's voxels on `grid`, each looked up at its place in space; it may cover less."""
    values = sitk.GetArrayFromImage(image).transpose(2, 1, 0)
    affine = np.eye(4)
    affine[:3, :3] = np.array(image.GetDirection()).reshape(3, 3) @ np.diag(image.GetSpacing())
    affine[:3, 3] = image.GetOrigin()
    affine[:2] *= -1
    places = np.argwhere(values) @ affine[:3, :3].T + affine[:3, 3]
    index = (places - grid.affine[:3, 3]) @ np.linalg.inv(grid.affine[:3, :3]).T
    assert np.abs(index - np.rint(index)).max() < 0.01
    array = np.zeros(grid.shape, values.dtype)
    array[tuple(np.rint(index).astype(int).T)] = values[values > 0]
    return array


def renamed(array: np.ndarray, names: dict[int, str]) -> np.ndarray:
    """Return the labels' own values for numbered segments."""
    values = {label.name: label.value for label in LABELS.labels}
    table = np.zeros(256, int)
    for number, name in names.items():
        table[number] = values[name]
    return table[array]


@pytest.mark.parametrize("directions", GEOMETRIES.values(), ids=GEOMETRIES)
def test_dcmqi_finds_every_voxel_in_its_place(tmp_path, series, dcmqi, directions):
    source, grid = series(directions)
    array = blobs()
    path = tmp_path / "out" / "seg.dcm"
    assert write_dicom_seg(path, Mask(array, grid), LABELS, source, ALGORITHM) == ("kidney_right", "Läsion", "spleen")
    image, names = dcmqi(path)
    assert names == {1: "kidney_right", 2: "Läsion", 3: "spleen"}  # no gap where a label is absent
    assert np.count_nonzero(renamed(on_grid(image, grid), names) != array) == 0


@pytest.mark.parametrize("directions", GEOMETRIES.values(), ids=GEOMETRIES)
def test_highdicom_finds_every_voxel_in_its_place(tmp_path, series, directions):
    source, grid = series(directions)
    array = blobs(1)
    write_dicom_seg(tmp_path / "seg.dcm", Mask(array, grid), LABELS, source, ALGORITHM)
    segmentation = hd.seg.segread(tmp_path / "seg.dcm")
    names = {n: segmentation.get_segment_description(n).segment_label for n in segmentation.segment_numbers}
    scan = hd.get_volume_from_series([pydicom.dcmread(path) for path in source.files])
    found = segmentation.get_volume(combine_segments=True).match_geometry(scan)
    image = sitk.GetImageFromArray(found.array.astype(np.uint8))  # (slice, row, column) is ITK's order
    affine = found.affine[:, [2, 1, 0, 3]]
    image.SetOrigin(affine[:3, 3])
    image.SetSpacing(np.linalg.norm(affine[:3, :3], axis=0))
    image.SetDirection((affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)).ravel())
    assert np.count_nonzero(renamed(on_grid(image, grid), names) != array) == 0


def test_a_mask_in_another_order_of_axes_lands_in_the_same_place(tmp_path, series, dcmqi):
    source, grid = series(GEOMETRIES["oblique"])
    array = blobs()
    canonical = grid.to_canonical()
    mask = Mask(np.ascontiguousarray(canonical.apply(array)), grid.canonical())
    assert mask.array.shape != array.shape or not np.array_equal(mask.array, array)
    write_dicom_seg(tmp_path / "seg.dcm", mask, LABELS, source, ALGORITHM)
    image, names = dcmqi(tmp_path / "seg.dcm")
    assert np.array_equal(renamed(on_grid(image, grid), names), array)


def test_it_says_what_made_it_and_refers_to_its_series(tmp_path, series):
    source, grid = series(patient="Müller^Jörg")
    for number, path in enumerate(source.files):
        dataset = pydicom.dcmread(path)
        dataset.SpecificCharacterSet = "ISO_IR 100"
        dataset.PatientName = "Müller^Jörg"
        if number == 0:
            del dataset.AccessionNumber
        dataset.save_as(path)
    write_dicom_seg(tmp_path / "seg.dcm", Mask(blobs(), grid), LABELS, source, ALGORITHM)
    found, scan = pydicom.dcmread(tmp_path / "seg.dcm"), pydicom.dcmread(source.files[0])
    assert found.SOPClassUID == "1.2.840.10008.5.1.4.1.1.66.4"
    assert (found.SegmentationType, found.Modality) == ("BINARY", "SEG")
    for keyword in ("StudyInstanceUID", "FrameOfReferenceUID", "PatientID", "PatientName", "StudyDate"):
        assert found[keyword].value == scan[keyword].value
    assert found.SeriesInstanceUID != scan.SeriesInstanceUID
    assert found.SeriesDescription == "AI segmentation, research use: liver model"
    quoted = {item.ReferencedSOPInstanceUID for item in found.ReferencedSeriesSequence[0].ReferencedInstanceSequence}
    assert quoted == {pydicom.dcmread(path).SOPInstanceUID for path in source.files}
    kidney, lesion, spleen = found.SegmentSequence
    assert kidney.SegmentAlgorithmType == "AUTOMATIC"
    assert kidney.SegmentationAlgorithmIdentificationSequence[0].AlgorithmVersion == "1.0 abcdef"
    assert kidney.SegmentedPropertyTypeCodeSequence[0].CodeValue == "64033007"
    side = kidney.SegmentedPropertyTypeCodeSequence[0].SegmentedPropertyTypeModifierCodeSequence[0]
    assert (side.CodeValue, side.CodeMeaning) == ("24028007", "Right")
    assert lesion.SegmentedPropertyCategoryCodeSequence[0].CodeValue == "49755003"
    assert lesion.SegmentLabel == "Läsion"
    assert spleen.SegmentedPropertyTypeCodeSequence[0].CodeMeaning == "Tissue"


@pytest.mark.parametrize("slices", [slice(3, 4), slice(2, 6)])
def test_one_label_on_one_slice_or_several(tmp_path, series, dcmqi, slices):
    """What all frames share stands elsewhere in the file than what differs between them."""
    source, grid = series(TURN)
    array = np.zeros(SHAPE, np.uint8)
    array[3:7, 2:8, slices] = 7
    assert write_dicom_seg(tmp_path / "seg.dcm", Mask(array, grid), LABELS, source, ALGORITHM) == ("Läsion",)
    image, names = dcmqi(tmp_path / "seg.dcm")
    assert np.array_equal(renamed(on_grid(image, grid), names), array)


def test_the_same_result_is_the_same_object(tmp_path, series):
    source, grid = series()

    def uids(array: np.ndarray, algorithm: Algorithm = ALGORITHM) -> tuple[str, ...]:
        write_dicom_seg(tmp_path / "seg.dcm", Mask(array, grid), LABELS, source, algorithm)
        found = pydicom.dcmread(tmp_path / "seg.dcm")
        dimensions = {item.DimensionOrganizationUID for item in found.DimensionIndexSequence}
        assert dimensions == {item.DimensionOrganizationUID for item in found.DimensionOrganizationSequence}
        return found.SOPInstanceUID, found.SeriesInstanceUID, *dimensions

    first = uids(blobs())
    assert uids(blobs()) == first
    assert len({*first, *uids(blobs(5)), *uids(blobs(), Algorithm("other", "1"))}) == 9


def test_names_of_patients_appear_in_no_warning(tmp_path, series):
    source, grid = series(patient="single component")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        write_dicom_seg(tmp_path / "seg.dcm", Mask(blobs(), grid), LABELS, source, ALGORITHM)
    assert [str(warning.message) for warning in caught] == []


def test_nothing_found_writes_nothing_and_says_so(tmp_path, series):
    source, grid = series()
    with pytest.raises(ScanError, match="nothing was found") as caught:
        write_dicom_seg(tmp_path / "seg.dcm", Mask(np.zeros(SHAPE, np.uint8), grid), LABELS, source, ALGORITHM)
    assert caught.value.code == ReasonCode.EMPTY
    assert not (tmp_path / "seg.dcm").exists()


@pytest.mark.parametrize("keyword", ["SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "FrameOfReferenceUID"])
def test_a_series_without_identifiers_is_refused_with_its_reason(tmp_path, series, keyword):
    source, grid = series()
    for path in source.files:
        dataset = pydicom.dcmread(path)
        dataset[keyword].value = ""
        dataset.save_as(path)
    with pytest.raises(ScanError, match=f"has no {keyword}") as caught:
        write_dicom_seg(tmp_path / "seg.dcm", Mask(blobs(), grid), LABELS, source, ALGORITHM)
    assert caught.value.code == ReasonCode.NO_IDENTITY


def turned_by_rounding(image, number):
    image.ImageOrientationPatient = [1, number * 1e-6, 0, 0, 1, 0]


def without_thickness(image, _):
    del image.SliceThickness


def with_empty_thickness(image, _):
    image.SliceThickness = None


def with_another_distance(image, _):
    image.SpacingBetweenSlices = image.SliceThickness = 7


@pytest.mark.parametrize("change", [turned_by_rounding, without_thickness, with_empty_thickness, with_another_distance])
def test_what_headers_say_beside_positions_moves_no_frame(tmp_path, phantom, change):
    source = phantom().edit(change).source
    grid = inspect_series(source).grid
    array = np.where(np.arange(SHAPE[2]) == 5, blobs().max(axis=2, keepdims=True), 0).astype(np.uint8)  # of one slice
    write_dicom_seg(tmp_path / "seg.dcm", Mask(array, grid), LABELS, source, ALGORITHM)
    found = read_dicom_seg(tmp_path / "seg.dcm")
    assert found.grid.spacing == pytest.approx(grid.spacing)
    numbers = np.unique(array, return_inverse=True)[1].reshape(array.shape)
    assert np.array_equal(place(found.mask.array, found.grid, grid), numbers)


def test_a_mask_elsewhere_and_a_nifti_scan_are_refused(tmp_path, series):
    source, grid = series()
    moved = Grid(SHAPE, grid.affine + np.eye(4)[:, [3, 0, 1, 2]] * 0.5 * [[1], [1], [1], [0]])
    with pytest.raises(GeometryError):
        write_dicom_seg(tmp_path / "seg.dcm", Mask(blobs(), moved), LABELS, source, ALGORITHM)
    scan = Source("nifti", (tmp_path / "scan.nii.gz",))
    with pytest.raises(ScanError, match="no DICOM series") as caught:
        write_dicom_seg(tmp_path / "seg.dcm", Mask(blobs(), grid), LABELS, scan, ALGORITHM)
    assert caught.value.code == ReasonCode.NOT_DICOM
    assert not (tmp_path / "seg.dcm").exists()


def test_a_wrong_voxel_on_the_disk_is_noticed(tmp_path, series, monkeypatch):
    source, grid = series()
    right = dicom_seg._segmentation

    def wrong(images, frames, *others):
        array = frames.array.copy()
        array[2, 3, 3] = 0
        return right(images, replace(frames, array=array), *others)

    monkeypatch.setattr(dicom_seg, "_segmentation", wrong)
    with pytest.raises(OutputError, match="reads back differently"):
        write_dicom_seg(tmp_path / "seg.dcm", Mask(blobs(), grid), LABELS, source, ALGORITHM)
    assert not (tmp_path / "seg.dcm").exists()


def tilted(number: int) -> tuple[float, float]:
    return 0.3 * 2.5 * number, 0


def uneven(number: int) -> tuple[float, float]:
    return 0, (0.0, 0.3, 0.9, 0.9, 1.6, 2.2, 2.1, 2.6)[number]


def tilted_and_uneven(number: int) -> tuple[float, float]:
    along = uneven(number)[1]
    return -0.4 * (2.5 * number + along), along


@pytest.mark.parametrize(
    ("move", "lost", "in_plane_mm", "along_mm"),
    [
        (lambda number: (0, 0), {2, 5}, 0.01, 0.01),
        (tilted, set(), 0.75, 0.01),
        (tilted, {3}, 0.75, 0.01),
        (uneven, set(), 0.01, 1.3),
        (tilted_and_uneven, set(), 0.75, 1.3),
    ],
    ids=["gap", "tilt", "gap and tilt", "uneven", "uneven and tilt"],
)
def test_a_repaired_series_gets_a_frame_on_each_of_its_slices(
    tmp_path, series, dcmqi, move, lost, in_plane_mm, along_mm
):
    """dcmqi shows each slice on the nearest plane of an even, perpendicular stack; the file holds its true plane."""
    source, grid = series(TURN)
    x, y, z = (np.diag([-1, -1, 1]) @ grid.directions).T
    places = {}
    for path in source.files:
        dataset = pydicom.dcmread(path)
        number = round((np.array(dataset.ImagePositionPatient) - LPS @ grid.affine[:3, 3]) @ z / 2.5)
        if number in lost:
            path.unlink()
            continue
        sideways, along = move(number)
        dataset.ImagePositionPatient = list(
            np.round(np.array(dataset.ImagePositionPatient) + sideways * y + along * z, 6)
        )
        places[number] = LPS @ np.array(dataset.ImagePositionPatient, dtype=float)
        dataset.save_as(path)
    policy = IngestConfig(missing_slice="repair", variable_spacing="repair")
    source = Source("dicom", tuple(path for path in source.files if path.exists()), policy)
    opened = open_series(source)
    mask = Mask(
        np.random.default_rng(3)
        .choice([0, 3, 7, 200], p=[0.7, 0.1, 0.1, 0.1], size=opened.grid.shape)
        .astype(np.uint8),
        opened.grid,
    )
    write_dicom_seg(tmp_path / "seg.dcm", mask, LABELS, source, ALGORITHM)

    slices = opened.on_slices(mask.array)
    steps = grid.affine[:3, :3]
    written = pydicom.dcmread(tmp_path / "seg.dcm")
    heights = {
        round(float(np.dot(group.PlanePositionSequence[0].ImagePositionPatient, z)), 2)
        for group in written.PerFrameFunctionalGroupsSequence
    }
    assert heights == {round(float(LPS @ place @ z), 2) for place in places.values()}
    image, names = dcmqi(tmp_path / "seg.dcm")
    values = sitk.GetArrayFromImage(image).transpose(2, 1, 0)
    for number, name in names.items():
        (label,) = (label.value for label in LABELS.labels if label.name == name)
        meant = np.concatenate(
            [np.argwhere(slices[..., n] == label) @ steps[:, :2].T + place for n, place in enumerate(places.values())]
        )
        found = (
            np.array([image.TransformIndexToPhysicalPoint(tuple(map(int, at))) for at in np.argwhere(values == number)])
            @ LPS
        )
        assert len(found) == len(meant)
        off = found[:, None] - meant
        along = np.abs(off @ (LPS @ z))
        in_plane = np.abs(off @ (LPS @ np.stack([x, y], axis=1))).max(axis=-1)
        close = (along <= along_mm + 1e-6) & (in_plane <= in_plane_mm + 1e-6)
        assert close.any(axis=1).all()
        assert close.any(axis=0).all()


@pytest.mark.skipif("MEDSEG_DATA" not in os.environ, reason="MEDSEG_DATA does not name the folder of real scans")
def test_a_real_series(tmp_path, dcmqi):
    """An anonymised CT whose UIDs were blanked: refused; with UIDs filled in, every voxel fits."""
    folder = Path(os.environ["MEDSEG_DATA"]) / "ct" / "dicom_series"
    (case,) = index_scans(folder, key=tmp_path / "key").cases()
    source = case.images[0]
    grid = inspect_series(source).grid
    array = np.zeros(grid.shape, np.uint8)
    array[100:200, 150:300, 5:9] = 3
    array[300, 200, 15] = 200
    with pytest.raises(ScanError) as caught:
        write_dicom_seg(tmp_path / "seg.dcm", Mask(array, grid), LABELS, source, ALGORITHM)
    assert caught.value.code == ReasonCode.NO_IDENTITY
    files = []
    for path in source.files:
        dataset = pydicom.dcmread(path)
        dataset.SOPClassUID = CTImageStorage
        for keyword in IDENTIFIERS[1:]:
            if not dataset.get(keyword):
                setattr(dataset, keyword, f"2.25.{len(files) + 1 if keyword == 'SOPInstanceUID' else 1000}")
        dataset.save_as(tmp_path / path.name)
        files.append(tmp_path / path.name)
    write_dicom_seg(tmp_path / "seg.dcm", Mask(array, grid), LABELS, Source("dicom", tuple(files)), ALGORITHM)
    image, names = dcmqi(tmp_path / "seg.dcm")
    assert np.array_equal(renamed(on_grid(image, grid), names), array)
