"""Structured reports: read by highdicom and by dcmqi, checked by dciodvfy, and equal to the measures."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import highdicom as hd
import numpy as np
import pydicom
import pytest
from pydicom.sr.codedict import codes

from medseg.errors import OutputError, ReasonCode, ScanError
from medseg.io import dicom_sr
from medseg.io.dicom_seg import write_dicom_seg
from medseg.io.dicom_sr import Segments, write_dicom_sr
from medseg.measures.measure import Measures, measure_mask
from medseg.volume import Mask, Source, Volume

from .dicom_results import ALGORITHM, GEOMETRIES, LABELS, SHAPE, blobs

SR = hd.sr.VolumetricROIMeasurementsAndQualitativeEvaluations


@pytest.fixture
def measured(series) -> tuple[Source, Mask, tuple[Measures, ...]]:
    """A series, a mask on it, and its measures."""
    source, grid = series(GEOMETRIES["oblique"], patient="Canary^Anna")
    mask = Mask(blobs(), grid)
    intensities = np.random.default_rng(0).normal(50, 10, (1, *SHAPE)).round().astype(np.float32)
    return source, mask, measure_mask(Volume(intensities, grid, "CT"), mask, LABELS, slice_axis=2).measures


@pytest.fixture
def report(tmp_path, measured) -> tuple[Path, Path]:
    """A report and the segmentation it refers to."""
    source, mask, measures = measured
    path, segmentation = tmp_path / "out" / "measurements.dcm", tmp_path / "out" / "segmentation.dcm"
    names = write_dicom_seg(segmentation, mask, LABELS, source, ALGORITHM)
    write_dicom_sr(path, measures, LABELS, source, ALGORITHM, Segments(segmentation, names))
    return path, segmentation


def value_of(group, name, derivation=None) -> float:
    (found,) = [m for m in group.get_measurements(name=name) if derivation is None or m.derivation == derivation]
    return float(found.value)


def program(name: str, package: str) -> str:
    found = shutil.which(name, path=f"{Path(sys.executable).parent}:/usr/bin:/usr/local/bin")
    return found or pytest.skip(f"{name}, of {package}, is not installed")


def test_highdicom_reads_every_measure(report, measured):
    content = hd.sr.srread(report[0]).content
    wanted = {m.structure: m for m in measured[2] if m.lesion is None and m.voxels}
    groups = {g.tracking_identifier: g for g in content.get_volumetric_roi_measurement_groups()}
    assert groups.keys() == wanted.keys()
    for name, group in groups.items():
        measure = wanted[name]
        assert value_of(group, codes.SCT.Volume) == pytest.approx(measure.volume_ml, abs=1e-4)
        assert value_of(group, codes.SCT.LongAxis) == pytest.approx(measure.long_mm, abs=1e-4)
        assert value_of(group, codes.SCT.ShortAxis) == pytest.approx(measure.short_mm, abs=1e-4)
        mean = value_of(group, codes.DCM.AttenuationCoefficient, codes.SCT.Mean)
        assert mean == pytest.approx(measure.intensity[0].mean, abs=1e-4)
        (volume,) = group.get_measurements(name=codes.SCT.Volume)
        assert (volume.unit.value, volume.unit.scheme_designator) == ("ml", "UCUM")
    (lesion,) = content.get_image_measurement_groups()
    (tracked,) = [m for m in measured[2] if m.lesion]
    assert lesion.tracking_identifier == "Läsion 1"
    assert value_of(lesion, codes.SCT.Volume) == pytest.approx(tracked.volume_ml, abs=1e-4)


def test_groups_refer_to_the_segments_of_their_names(report):
    segmentation = hd.seg.segread(report[1])
    for group in hd.sr.srread(report[0]).content.get_volumetric_roi_measurement_groups():
        reference = group.referenced_segment
        assert reference.referenced_sop_instance_uid == segmentation.SOPInstanceUID
        segment = segmentation.get_segment_description(reference.referenced_segment_numbers[0])
        assert segment.segment_label == group.tracking_identifier


def test_diameters_refer_to_their_slice_and_findings_to_their_side(report, measured):
    source, _, measures = measured
    groups = hd.sr.srread(report[0]).content.get_volumetric_roi_measurement_groups()
    kidney = next(group for group in groups if group.tracking_identifier == "kidney_right")
    (axis,) = kidney.get_measurements(name=codes.SCT.LongAxis)
    (image,) = axis.referenced_images
    on = next(m.slice for m in measures if m.structure == "kidney_right")
    assert image.referenced_sop_instance_uid == pydicom.dcmread(source.files[on]).SOPInstanceUID
    (site,) = kidney.finding_sites
    assert (kidney.finding_type.meaning, site.laterality.meaning) == ("Kidney", "Right")


def test_what_the_scan_cuts_is_said_to_be_cut(report, measured):
    content = hd.sr.srread(report[0]).content
    cut = {m.structure for m in measured[2] if m.incomplete}
    said = {
        group.tracking_identifier
        for group in content.get_volumetric_roi_measurement_groups()
        if any(evaluation.name.value == "CUT" for evaluation in group.get_qualitative_evaluations())
    }
    assert said == cut
    assert {m.structure for m in measured[2] if m.voxels} > cut


def test_it_is_unverified_and_belongs_to_the_study(report, measured):
    found, scan = pydicom.dcmread(report[0]), pydicom.dcmread(measured[0].files[0])
    assert found.SOPClassUID.name == "Comprehensive 3D SR Storage"
    assert found.SeriesDescription == "AI measurements, research use: liver model"
    assert (found.VerificationFlag, found.CompletionFlag, found.PreliminaryFlag) == (
        "UNVERIFIED", "PARTIAL", "PRELIMINARY",
    )  # fmt: skip
    for keyword in ("StudyInstanceUID", "PatientID", "PatientName"):
        assert found[keyword].value == scan[keyword].value


def test_without_a_segmentation_it_reports_the_same(tmp_path, report, measured):
    source, _, measures = measured
    write_dicom_sr(tmp_path / "alone.dcm", measures, LABELS, source, ALGORITHM)
    alone = hd.sr.srread(tmp_path / "alone.dcm").content
    assert not alone.get_volumetric_roi_measurement_groups()
    volumes = sorted(value_of(group, codes.SCT.Volume) for group in alone.get_image_measurement_groups())
    assert volumes == pytest.approx(sorted(m.volume_ml for m in measures if m.voxels), abs=1e-4)


def test_a_lesion_of_another_result_is_not_said_to_be_the_same(tmp_path, measured):
    source, mask, measures = measured
    moved = Mask(np.roll(mask.array, 1, axis=0), mask.grid)
    others = measure_mask(Volume(np.zeros((1, *SHAPE), np.float32), mask.grid, "CT"), moved, LABELS, 2).measures
    tracked = []
    for name, found in (("one", measures), ("again", measures), ("other", others)):
        write_dicom_sr(tmp_path / f"{name}.dcm", found, LABELS, source, ALGORITHM)
        content = hd.sr.srread(tmp_path / f"{name}.dcm").content
        tracked.append({group.tracking_uid for group in content.get_image_measurement_groups()})
    assert tracked[0] == tracked[1]
    assert not tracked[0] & tracked[2]


def test_mr_has_no_hounsfield_units(tmp_path, measured):
    source, mask, _ = measured
    for path in source.files:
        dataset = pydicom.dcmread(path)
        dataset.Modality, dataset.SOPClassUID = "MR", pydicom.uid.MRImageStorage
        dataset.file_meta.MediaStorageSOPClassUID = pydicom.uid.MRImageStorage
        dataset.save_as(path)
    volume = Volume(np.ones((1, *SHAPE), np.float32), mask.grid, "MR")
    write_dicom_sr(tmp_path / "a.dcm", measure_mask(volume, mask, LABELS, 2).measures, LABELS, source, ALGORITHM)
    assert "[hnsf" not in str(pydicom.dcmread(tmp_path / "a.dcm"))


def test_a_ct_of_other_values_has_no_hounsfield_units(tmp_path, measured):
    source, _, measures = measured
    write_dicom_sr(tmp_path / "hu.dcm", measures, LABELS, source, ALGORITHM)
    for path in source.files:
        dataset = pydicom.dcmread(path)
        dataset.RescaleType = "Z_EFF"  # a dual-energy map of atomic numbers, flagged as HU_SUSPECT
        dataset.save_as(path)
    write_dicom_sr(tmp_path / "other.dcm", measures, LABELS, source, ALGORITHM)
    texts = [str(pydicom.dcmread(tmp_path / f"{name}.dcm")) for name in ("hu", "other")]
    assert ["[hnsf" in text for text in texts] == [True, False]
    assert all("milliliter" in text for text in texts)


def test_small_numbers_are_reported_as_they_are(tmp_path, measured):
    """One voxel of 0.3 mm is 0.000027 ml, and the diffusion in an MR's map 0.0008 mm²/s: neither is 0."""
    source, _, measures = measured
    found = next(measure for measure in measures if measure.voxels)
    intensity = found.intensity[0].model_copy(update={"mean": 0.00081234, "sd": 2.5e-6})
    small = found.model_copy(update={"volume_ml": 2.7e-5, "long_mm": 0.00043, "intensity": (intensity,)})
    write_dicom_sr(tmp_path / "small.dcm", [small], LABELS, source, ALGORITHM)
    (group,) = hd.sr.srread(tmp_path / "small.dcm").content.get_image_measurement_groups()
    attenuation = codes.DCM.AttenuationCoefficient
    assert value_of(group, codes.SCT.Volume) == 2.7e-5
    assert value_of(group, codes.SCT.LongAxis) == 0.00043
    assert value_of(group, attenuation, codes.SCT.Mean) == 0.00081234
    assert value_of(group, attenuation, codes.SCT.StandardDeviation) == 2.5e-6


def test_dcmqi_reads_it(tmp_path, report, measured):
    reader = program("tid1500reader", "the dev extra's dcmqi")
    said = tmp_path / "said.json"
    command = [reader, "--inputDICOM", report[0], "--outputMetadata", said]
    subprocess.run(command, check=True, capture_output=True)
    groups = {group["TrackingIdentifier"]: group for group in json.loads(said.read_text())["Measurements"]}
    for measure in measured[2]:
        if measure.voxels and measure.lesion is None:
            group = groups[measure.structure]
            values = {item["quantity"]["CodeMeaning"]: float(item["value"]) for item in group["measurementItems"]}
            assert values["Volume"] == pytest.approx(measure.volume_ml, abs=1e-4)
            assert group["measurementAlgorithmIdentification"]["AlgorithmName"] == "liver model"
    assert [groups[name]["ReferencedSegment"] for name in ("kidney_right", "Läsion", "spleen")] == [1, 2, 3]


def test_dciodvfy_finds_no_error(report):
    command = [program("dciodvfy", "the package dicom3tools"), report[0]]
    said = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "Error" not in said.stdout + said.stderr


def test_what_can_not_be_reported_is_refused_with_its_reason(tmp_path, measured):
    source, mask, measures = measured
    path = tmp_path / "measurements.dcm"
    empty = measure_mask(
        Volume(np.zeros((1, *SHAPE), np.float32), mask.grid), Mask(np.zeros_like(mask.array), mask.grid), LABELS
    )
    with pytest.raises(ScanError, match="nothing was found") as caught:
        write_dicom_sr(path, empty.measures, LABELS, source, ALGORITHM)
    assert caught.value.code == ReasonCode.EMPTY
    with pytest.raises(ScanError, match="no DICOM series") as caught:
        write_dicom_sr(path, measures, LABELS, Source("nifti", (tmp_path / "a.nii",)), ALGORITHM)
    assert caught.value.code == ReasonCode.NOT_DICOM
    dataset = pydicom.dcmread(source.files[3])
    dataset.SOPInstanceUID = ""
    dataset.save_as(source.files[3])
    with pytest.raises(ScanError) as caught:
        write_dicom_sr(path, measures, LABELS, source, ALGORITHM)
    assert caught.value.code == ReasonCode.NO_IDENTITY
    assert not path.exists()


def test_a_wrong_value_on_the_disk_is_noticed(tmp_path, measured, monkeypatch):
    source, _, measures = measured
    right = dicom_sr.dcmread

    def wrong(path, **options):
        found = right(path, **options)
        if path.suffix != ".dcm" or "ContentSequence" in found:
            del found.ContentSequence[-1]
        return found

    monkeypatch.setattr(dicom_sr, "dcmread", wrong)
    with pytest.raises(OutputError, match="reads back differently"):
        write_dicom_sr(tmp_path / "a.dcm", measures, LABELS, source, ALGORITHM)
    assert not (tmp_path / "a.dcm").exists()
