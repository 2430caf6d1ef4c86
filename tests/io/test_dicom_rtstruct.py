"""Structure sets: contours on the source planes, filled by other code with every pixel in its place."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pydicom
import pytest
from matplotlib.path import Path as Outline

from medseg.config import IngestConfig
from medseg.errors import GeometryError, OutputError, ReasonCode, ScanError
from medseg.geometry import Grid
from medseg.io import dicom_rtstruct
from medseg.io.dicom import inspect_series
from medseg.io.dicom_rtstruct import write_rtstruct
from medseg.volume import Mask, Source

from .dicom_results import ALGORITHM, GEOMETRIES, LABELS, SHAPE, blobs


def ringed(seed: int = 0) -> np.ndarray:
    """Blobs, one of them with a hole that holds an island."""
    array = blobs(seed)
    array[2:9, 2:8, 6] = 3
    array[4:8, 3:7, 6] = 0
    array[5, 5, 6] = 3
    return array


def filled(path: Path, source: Source, grid: Grid) -> np.ndarray:
    """Return the mask that a structure set draws, from its numbers and the images' headers alone."""
    found = pydicom.dcmread(path)
    images = {image.SOPInstanceUID: image for image in map(pydicom.dcmread, source.files)}
    values = {label.name: label.value for label in LABELS.labels}
    names = {roi.ROINumber: roi.ROIName for roi in found.StructureSetROISequence}
    to_index = np.linalg.inv(np.diag([-1.0, -1, 1, 1]) @ grid.affine)
    array = np.zeros(grid.shape, np.uint8)
    for region in found.ROIContourSequence:
        for contour in region.ContourSequence:
            image = images[contour.ContourImageSequence[0].ReferencedSOPInstanceUID]
            points = np.array(contour.ContourData, float).reshape(-1, 3)
            assert len(points) == contour.NumberOfContourPoints
            row, column = np.array(image.ImageOrientationPatient, float).reshape(2, 3)
            offsets = points - np.array(image.ImagePositionPatient, float)
            assert np.abs(offsets @ np.cross(row, column)).max() < 1e-4  # mm from the image's plane
            index = points @ to_index[:3, :3].T + to_index[:3, 3]
            (slice_index,) = set(np.rint(index[:, 2]).astype(int))
            centres = np.argwhere(np.ones(grid.shape[:2], bool))
            inside = Outline(np.vstack([index, index[:1]])[:, :2], closed=True).contains_points(centres)
            array[:, :, slice_index][inside.reshape(grid.shape[:2])] = values[names[region.ReferencedROINumber]]
    return array


@pytest.mark.parametrize("directions", GEOMETRIES.values(), ids=GEOMETRIES)
def test_filled_contours_are_the_mask(tmp_path, series, directions):
    source, grid = series(directions)
    array = ringed()
    path = tmp_path / "out" / "contours.dcm"
    assert write_rtstruct(path, Mask(array, grid), LABELS, source, ALGORITHM) == ("kidney_right", "Läsion", "spleen")
    assert np.array_equal(filled(path, source, grid), array)


def test_a_mask_in_another_order_of_axes_lands_in_the_same_place(tmp_path, series):
    source, grid = series(GEOMETRIES["oblique"])
    canonical = grid.to_canonical()
    mask = Mask(np.ascontiguousarray(canonical.apply(ringed())), grid.canonical())
    write_rtstruct(tmp_path / "contours.dcm", mask, LABELS, source, ALGORITHM)
    assert np.array_equal(filled(tmp_path / "contours.dcm", source, grid), ringed())


def test_it_names_its_regions_and_refers_to_its_series(tmp_path, series):
    source, grid = series(patient="Canary^Anna")
    write_rtstruct(tmp_path / "contours.dcm", Mask(ringed(), grid), LABELS, source, ALGORITHM)
    found, scan = pydicom.dcmread(tmp_path / "contours.dcm"), pydicom.dcmread(source.files[0])
    assert (found.SOPClassUID.name, found.Modality) == ("RT Structure Set Storage", "RTSTRUCT")
    assert found.SeriesDescription == "AI contours, research use: liver model"
    assert found.ApprovalStatus == "UNAPPROVED"
    for keyword in ("StudyInstanceUID", "FrameOfReferenceUID", "PatientID", "PatientName", "StudyDate"):
        assert found[keyword].value == scan[keyword].value
    frame = found.ReferencedFrameOfReferenceSequence[0]
    study = frame.RTReferencedStudySequence[0]
    quoted = study.RTReferencedSeriesSequence[0]
    assert frame.FrameOfReferenceUID == scan.FrameOfReferenceUID
    assert study.ReferencedSOPInstanceUID == scan.StudyInstanceUID
    assert quoted.SeriesInstanceUID == scan.SeriesInstanceUID
    uids = {pydicom.dcmread(path).SOPInstanceUID for path in source.files}
    assert {image.ReferencedSOPInstanceUID for image in quoted.ContourImageSequence} == uids
    kidney, lesion, _ = found.StructureSetROISequence
    assert (kidney.ROIName, kidney.ROIGenerationAlgorithm) == ("kidney_right", "AUTOMATIC")
    assert kidney.ROIGenerationDescription == "liver model 1.0 abcdef"
    assert lesion.ROIName == "Läsion"
    assert list(found.ROIContourSequence[1].ROIDisplayColor) == [250, 10, 20]
    organ, nodule, spleen = found.RTROIObservationsSequence
    assert [item.RTROIInterpretedType for item in (organ, nodule, spleen)] == ["ORGAN", "", "ORGAN"]
    code = organ.RTROIIdentificationCodeSequence[0]
    assert (code.CodeValue, code.CodeMeaning) == ("64033007", "Kidney")
    assert code.SegmentedPropertyTypeModifierCodeSequence[0].CodeMeaning == "Right"
    assert "RTROIIdentificationCodeSequence" not in spleen


def test_the_same_result_is_the_same_object(tmp_path, series):
    source, grid = series()

    def uids(array: np.ndarray) -> tuple[str, str]:
        write_rtstruct(tmp_path / "contours.dcm", Mask(array, grid), LABELS, source, ALGORITHM)
        found = pydicom.dcmread(tmp_path / "contours.dcm")
        return found.SOPInstanceUID, found.SeriesInstanceUID

    first = uids(ringed())
    assert uids(ringed()) == first
    assert len({*first, *uids(ringed(5))}) == 4


def test_contours_beyond_64_kib_are_written_whole(tmp_path, make_series):
    """The numbers of an explicit transfer syntax would not fit into one element."""
    array = np.zeros((400, 300, 1), np.uint8)
    array[::2, :, 0] = array[:, 150, 0] = 3  # a comb: one long outline
    source, grid = make_series(array.shape, GEOMETRIES["oblique"])
    write_rtstruct(tmp_path / "contours.dcm", Mask(array, grid), LABELS, source, ALGORITHM)
    (contour,) = pydicom.dcmread(tmp_path / "contours.dcm").ROIContourSequence[0].ContourSequence
    assert len("\\".join(map(str, contour.ContourData))) > 65536


def test_what_can_not_be_drawn_is_refused_with_its_reason(tmp_path, series):
    source, grid = series()
    path = tmp_path / "contours.dcm"
    with pytest.raises(ScanError, match="nothing was found") as caught:
        write_rtstruct(path, Mask(np.zeros(SHAPE, np.uint8), grid), LABELS, source, ALGORITHM)
    assert caught.value.code == ReasonCode.EMPTY
    with pytest.raises(ScanError, match="no DICOM series") as caught:
        write_rtstruct(path, Mask(blobs(), grid), LABELS, Source("nifti", (tmp_path / "a.nii",)), ALGORITHM)
    assert caught.value.code == ReasonCode.NOT_DICOM
    moved = Grid(SHAPE, grid.affine + np.eye(4)[:, [3, 0, 1, 2]] * 0.5 * [[1], [1], [1], [0]])
    with pytest.raises(GeometryError):
        write_rtstruct(path, Mask(blobs(), moved), LABELS, source, ALGORITHM)
    dataset = pydicom.dcmread(source.files[3])
    dataset.SOPInstanceUID = ""
    dataset.save_as(source.files[3])
    with pytest.raises(ScanError, match="has no SOPInstanceUID") as caught:
        write_rtstruct(path, Mask(blobs(), grid), LABELS, source, ALGORITHM)
    assert caught.value.code == ReasonCode.NO_IDENTITY
    assert not path.exists()


def test_a_wrong_contour_on_the_disk_is_noticed(tmp_path, series, monkeypatch):
    source, grid = series()
    right = dicom_rtstruct.outline
    monkeypatch.setattr(dicom_rtstruct, "outline", lambda inside: [polygon + 1 for polygon in right(inside)])
    with pytest.raises(OutputError, match="reads back differently"):
        write_rtstruct(tmp_path / "contours.dcm", Mask(blobs(), grid), LABELS, source, ALGORITHM)
    assert not (tmp_path / "contours.dcm").exists()


def test_a_plane_between_missing_slices_has_no_contour(tmp_path, series):
    source, grid = series()
    array, left = (
        ringed(),
        Source("dicom", (*source.files[:6], *source.files[7:]), IngestConfig(missing_slice="repair")),
    )
    write_rtstruct(tmp_path / "contours.dcm", Mask(array, grid), LABELS, left, ALGORITHM)
    array[:, :, 6] = 0  # its file is gone
    assert np.array_equal(filled(tmp_path / "contours.dcm", left, grid), array)


def test_contours_of_a_tilted_gantry_lie_on_its_slices(tmp_path, series):
    source, _ = series(GEOMETRIES["oblique"])
    for number, path in enumerate(source.files):
        dataset = pydicom.dcmread(path)
        column = np.array(dataset.ImageOrientationPatient[3:], float)
        dataset.ImagePositionPatient = (np.array(dataset.ImagePositionPatient, float) + 0.8 * number * column).tolist()
        dataset.save_as(path)
    grid = inspect_series(source).grid
    assert not grid.is_orthogonal
    write_rtstruct(tmp_path / "contours.dcm", Mask(ringed(), grid), LABELS, source, ALGORITHM)
    assert np.array_equal(filled(tmp_path / "contours.dcm", source, grid), ringed())


def test_dciodvfy_finds_no_error(tmp_path, series):
    program = shutil.which("dciodvfy")
    if program is None:
        pytest.skip("dciodvfy, of the package dicom3tools, is not installed: nothing checks the object's modules")
    source, grid = series(GEOMETRIES["oblique"], patient="Canary^Anna")
    write_rtstruct(tmp_path / "contours.dcm", Mask(ringed(), grid), LABELS, source, ALGORITHM)
    said = subprocess.run([program, tmp_path / "contours.dcm"], capture_output=True, text=True, check=True)
    assert "Error" not in said.stdout + said.stderr
