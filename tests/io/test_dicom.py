"""Every series is right to the voxel, or refused with its named reason."""

import os
import struct
from dataclasses import replace
from pathlib import Path

import numpy as np
import pydicom
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pydicom.dataelem import RawDataElement
from pydicom.tag import Tag
from pydicom.uid import generate_uid

from medseg.config import IngestConfig
from medseg.errors import GeometryError, OutputError, ReasonCode, ScanError, SeriesError
from medseg.geometry import Grid
from medseg.io import dicom_headers
from medseg.io.dicom import inspect_series, read_series, same_pixels
from medseg.io.dicom_headers import read_headers
from medseg.io.dicom_series import arrange
from medseg.io.dicom_write import write_series
from medseg.volume import Source, Volume


def rotation(seed: int) -> np.ndarray:
    q, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(3, 3)))
    return q


def affine_of(directions: np.ndarray, spacing: tuple[float, float, float]) -> np.ndarray:
    affine = np.eye(4)
    affine[:3, :3] = directions * spacing
    affine[:3, 3] = [11.3, -7.1, 40.9]
    return affine


SAGITTAL = affine_of(np.array([[0.0, 0, 1], [-1, 0, 0], [0, -1, 0]]), (1, 1.5, 2.5))
CORONAL = affine_of(np.array([[-1.0, 0, 0], [0, 0, 1], [0, -1, 0]]), (1, 1.5, 2.5))
DESCENDING = affine_of(np.diag([-1.0, -1, -1]), (1, 1.5, 2.5))
NEGATED = affine_of(np.diag([1.0, 1, 1]), (1, 1.5, 2.5))


@pytest.mark.parametrize(
    "affine", [SAGITTAL, CORONAL, DESCENDING, NEGATED, *(affine_of(rotation(i), (1, 1.5, 2.5)) for i in range(4))]
)
def test_any_orientation_is_read_in_place(phantom, assert_in_place, affine):
    series = phantom(affine=affine)
    volume = read_series(series.source)
    assert_in_place(volume, series.grid)
    assert volume.modality == "CT"
    assert volume.flags == (ReasonCode.HU_SUSPECT,)  # the phantom holds no air
    assert volume.array.dtype == np.float32


def test_written_source_lists_the_files_in_reading_order(phantom):
    for affine in (DESCENDING, SAGITTAL):
        series = phantom(affine=affine)
        written = write_series(Volume(np.zeros((1, 3, 4, 5), np.float32), Grid((3, 4, 5), affine)), series.folder)
        reversed_source = Source("dicom", written.files[::-1])
        assert inspect_series(written).grid.matches(inspect_series(reversed_source).grid)
        first = pydicom.dcmread(written.files[0]).ImagePositionPatient
        np.testing.assert_allclose(np.array(first) * [-1, -1, 1], inspect_series(written).grid.affine[:3, 3], atol=1e-6)


@settings(max_examples=20)  # each writes a series
@given(seed=st.integers(0, 10**6), spacing=st.tuples(*[st.floats(0.3, 6.0)] * 3))
def test_geometry_survives_decimal_strings(tmp_path_factory, seed, spacing):
    grid = Grid((3, 2, 4), affine_of(rotation(seed), spacing))
    folder = tmp_path_factory.mktemp("series")
    source = write_series(Volume(np.zeros((1, *grid.shape), np.float32), grid), folder / "ct")
    corners = [sorted(map(tuple, np.round(g.corners(), 4))) for g in (inspect_series(source).grid, grid)]
    np.testing.assert_allclose(corners[0], corners[1], atol=2e-4)


@settings(max_examples=20)  # each writes a series
@given(seed=st.integers(0, 10**6))
@example(seed=16)
@example(seed=792)
def test_cosines_of_four_decimals_are_perpendicular(tmp_path_factory, seed):
    grid = Grid((3, 2, 4), affine_of(rotation(seed), (1, 1.5, 2.5)))
    folder = tmp_path_factory.mktemp("series")
    source = write_series(Volume(np.zeros((1, *grid.shape), np.float32), grid), folder / "ct")
    for path in source.files:
        data = pydicom.dcmread(path)
        data.ImageOrientationPatient = [round(float(cosine), 4) for cosine in data.ImageOrientationPatient]
        data.save_as(path)
    found = inspect_series(source).grid
    assert found.is_orthogonal
    corners = [sorted(map(tuple, np.round(g.corners(), 2))) for g in (found, grid)]
    np.testing.assert_allclose(corners[0], corners[1], atol=0.011)


@pytest.mark.parametrize("encoding", ["explicit", "rle", "j2k", "jpegls"])
def test_lossless_encodings_decode_to_the_same_values(phantom, assert_in_place, encoding):
    series = phantom(shape=(40, 36, 3), encoding=encoding)  # OpenJPEG's encoder needs 32 pixels
    syntax = pydicom.dcmread(series.files[0]).file_meta.TransferSyntaxUID
    assert syntax.is_compressed == (encoding != "explicit")
    assert_in_place(read_series(series.source), series.grid)


def shuffle_numbers(data, number):
    data.InstanceNumber = (number * 5) % 8 + 1


def reverse_numbers(data, number):
    data.InstanceNumber = 8 - number


def drop_numbers(data, number):
    del data.InstanceNumber


def jitter_orientation(data, number):
    data.ImageOrientationPatient = [1, 1e-5 * (number % 2), 0, -1e-5 * (number % 2), 1, 0]


def overlong_orientation(data, number):
    raw = b"1.00000000000000000\\0.0000000000000000000\\0\\0\\1.0000000000000000000\\0"
    element = data["ImageOrientationPatient"]
    data[element.tag] = pydicom.dataelem.RawDataElement(element.tag, "DS", len(raw), raw, 0, False, True)


def vary_thickness(data, number):
    data.SliceThickness = 2.5 + number % 3


def count_acquisitions(data, number):
    data.AcquisitionNumber = 1 + number // 3


def unsigned_pixels(data, number):
    data.PixelData = data.pixel_array.astype(np.uint16).tobytes()
    data.PixelRepresentation = 0


def slope_per_slice(data, number):
    hu = data.pixel_array.astype(float) - 1024
    data.RescaleSlope, data.RescaleIntercept = 0.25 + number / 16, -50 + number
    data.PixelData = np.rint((hu - data.RescaleIntercept) / data.RescaleSlope).astype(np.int16).tobytes()


def blank_identifiers(data, number):
    for keyword in ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID"):
        setattr(data, keyword, "")


def blank_class_everywhere(data, number):
    data.SOPClassUID = data.file_meta.MediaStorageSOPClassUID = ""


def implicit_syntax(data, number):
    data.file_meta.TransferSyntaxUID = pydicom.uid.ImplicitVRLittleEndian


@pytest.mark.parametrize(
    "change",
    [
        shuffle_numbers, reverse_numbers, drop_numbers, jitter_orientation, overlong_orientation, vary_thickness,
        count_acquisitions, unsigned_pixels, blank_identifiers, blank_class_everywhere, implicit_syntax,
    ],
)  # fmt: skip
def test_harmless_oddities_are_read_in_place(phantom, assert_in_place, change):
    series = phantom().edit(change)
    assert_in_place(read_series(series.source), series.grid)


@pytest.mark.parametrize("written", [pydicom.uid.ExplicitVRLittleEndian, pydicom.uid.ImplicitVRLittleEndian])
def test_a_file_that_is_written_otherwise_than_it_says_is_read_in_place(phantom, assert_in_place, written):
    (said,) = {pydicom.uid.ExplicitVRLittleEndian, pydicom.uid.ImplicitVRLittleEndian} - {written}
    series = phantom()
    for path in series.files:
        data = pydicom.dcmread(path)
        data.file_meta.TransferSyntaxUID = said
        implicit = written == pydicom.uid.ImplicitVRLittleEndian
        pydicom.dcmwrite(path, data, implicit_vr=implicit, little_endian=True, force_encoding=True)
    assert_in_place(read_series(series.source), series.grid)


def test_every_slice_has_its_own_rescaling(phantom):
    series = phantom()
    before = read_series(series.source).array
    series.edit(slope_per_slice)
    after = read_series(series.source).array
    assert not np.array_equal(before, after)  # the coarse steps were really stored
    assert np.abs(after - before).max() <= (0.25 + 7 / 16) / 2 + 1e-3


def test_big_endian_pixels(phantom, assert_in_place):
    series = phantom()
    for path in series.files:
        data = pydicom.dcmread(path)
        data.PixelData = data.pixel_array.astype(">i2").tobytes()
        data.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRBigEndian
        pydicom.dcmwrite(path, data, implicit_vr=False, little_endian=False)
    assert_in_place(read_series(series.source), series.grid)


def test_monochrome1_keeps_values_and_is_flagged(phantom, assert_in_place):
    series = phantom().edit(lambda data, _: setattr(data, "PhotometricInterpretation", "MONOCHROME1"))
    volume = read_series(series.source)
    assert ReasonCode.MONOCHROME1 in volume.flags
    assert_in_place(volume, series.grid)


def test_missing_end_slices_are_a_shorter_scan(phantom, assert_in_place):
    series = phantom()
    series.files[-1].unlink()
    assert_in_place(read_series(series.source), series.grid.cropped((0, 0, 0), (12, 10, 7)))


def test_single_slice_takes_its_thickness(phantom, assert_in_place):
    series = phantom(shape=(12, 10, 1))
    assert_in_place(read_series(series.source), series.grid)


def test_a_single_slice_of_unknown_thickness_is_flagged(phantom):
    def change(data, _):
        del data.SliceThickness, data.SpacingBetweenSlices

    series = phantom(shape=(12, 10, 1))
    assert ReasonCode.SPACING_SUSPECT not in read_series(series.source).flags
    volume = read_series(series.edit(change).source)
    assert ReasonCode.SPACING_SUSPECT in volume.flags
    assert volume.grid.spacing[2] == 1
    with pytest.raises(ScanError, match="states no thickness"):
        read_series(replace(series.source, policy=IngestConfig(spacing_suspect="reject")))


def test_copies_of_slices_are_left_out(phantom, assert_in_place):
    series = phantom()
    for number in (0, 3, 4):
        (series.folder / f"copy_{number}").write_bytes(series.files[number].read_bytes())
    volume = read_series(series.source)
    assert ReasonCode.DUPLICATE in volume.flags
    assert_in_place(volume, series.grid)


def test_copies_with_other_instance_uids_are_left_out(phantom, assert_in_place):
    series = phantom()
    for number in (0, 3):
        data = pydicom.dcmread(series.files[number])
        data.SOPInstanceUID, data.ContentTime = generate_uid(), "101500"
        data.save_as(series.folder / f"copy_{number}")
    assert_in_place(read_series(series.source), series.grid)


def test_blank_slices_of_two_echoes_are_no_copies_of_each_other(phantom):
    series = phantom()
    for path in series.files:
        data = pydicom.dcmread(path)
        for echo in (1, 2):
            data.SOPInstanceUID, data.EchoNumbers = generate_uid(), echo
            pixels = data.pixel_array + 100 * echo if path != series.files[0] else 0 * data.pixel_array
            data.PixelData = pixels.astype(np.int16).tobytes()
            data.save_as(series.folder / f"echo{echo}_{path.name}")
        path.unlink()
    results = arrange([h for path in series.folder.iterdir() for h in read_headers(path)], same_pixels)
    assert [len(result.slices) for result in results] == [8, 8]


def test_localizer_in_the_series_is_left_out(phantom, assert_in_place):
    series = phantom()
    data = pydicom.dcmread(series.files[0])
    data.SOPInstanceUID, data.ImageType = generate_uid(), ["ORIGINAL", "PRIMARY", "LOCALIZER"]
    data.ImageOrientationPatient = [0, 1, 0, 0, 0, -1]
    data.save_as(series.folder / "scout")
    assert_in_place(read_series(series.source), series.grid)


# Refusals ----------------------------------------------------------------------------------------------------


def remove_one(series):
    series.files[3].unlink()


def remove_two_apart(series):
    series.files[2].unlink()
    series.files[5].unlink()


def vary_spacing(series):
    series.move(lambda number: [0, 0, 0.6 * (number > 4)])


def bend(series):
    series.move(lambda number: [0, 2.0 * (number == 4), 0])


def other_pixels_at_a_position(series):
    data = pydicom.dcmread(series.files[2])
    data.SOPInstanceUID = generate_uid()
    data.PixelData = (data.pixel_array + 400).astype(np.int16).tobytes()
    data.save_as(series.folder / "other")


def one_uid_two_images(series):
    data = pydicom.dcmread(series.files[2])
    data.PixelData = (data.pixel_array + 400).astype(np.int16).tobytes()
    data.save_as(series.folder / "other")


def one_uid_two_positions(series):
    uid = pydicom.dcmread(series.files[0]).SOPInstanceUID
    series.edit(lambda data, _: setattr(data, "SOPInstanceUID", uid), slice(1, 2))


def frame_of_reference_lost_in_part(series):
    """The slices behind would pass for a volume of their own."""
    series.edit(lambda data, _: delattr(data, "FrameOfReferenceUID"), slice(4, None))


def frames_of_reference_in_turn(series):
    """Every second slice would pass for a volume of twice the spacing."""
    series.edit(lambda data, number: setattr(data, "FrameOfReferenceUID", f"1.2.3.{number % 2}"))


def frames_of_reference_in_turn_with_a_copy_and_a_gap(series):
    frames_of_reference_in_turn(series)
    (series.folder / "copy").write_bytes(series.files[2].read_bytes())
    series.files[5].unlink()


def a_frame_of_reference_for_each_slice(series):
    series.edit(lambda data, number: setattr(data, "FrameOfReferenceUID", f"1.2.3.{number}"))


def studies_in_turn(series):
    """As after a merge in the PACS that moved some images only: every second slice would pass for a volume."""
    series.edit(lambda data, number: setattr(data, "StudyInstanceUID", f"1.2.3.{number % 2}"))


def modalities_in_turn(series):
    def change(data, _):
        data.SOPClassUID, data.Modality = "1.2.840.10008.5.1.4.1.1.128", "PT"

    series.edit(change, slice(1, None, 2))


def phases_without_a_name(series):
    for path in series.files:
        data = pydicom.dcmread(path)
        data.SOPInstanceUID = generate_uid()
        data.PixelData = (data.pixel_array + 400).astype(np.int16).tobytes()
        data.save_as(series.folder / f"second_{path.name}")


def every_second_slice_named(series):
    """An attribute that splits repeated positions into regular halves, each of which looks like a volume."""
    phases_without_a_name(series)
    for path in series.folder.iterdir():
        data = pydicom.dcmread(path)
        number = int(data.InstanceNumber)
        data.AcquisitionNumber = 1 + number % 2 + 2 * path.name.startswith("second")
        data.save_as(path)


def other_matrix(series):
    def change(data, _):
        data.Rows, data.PixelData = 9, data.PixelData[: 9 * 12 * 2]

    series.edit(change, slice(4, 5))


def other_spacing(series):
    series.edit(lambda data, _: setattr(data, "PixelSpacing", [1.5, 1.1]), slice(4, 5))


def other_orientation(series):
    series.edit(lambda data, _: setattr(data, "ImageOrientationPatient", [0, 1, 0, 0, 0, -1]), slice(4, 8))


def skewed_orientation(series):
    series.edit(lambda data, _: setattr(data, "ImageOrientationPatient", [1, 0, 0, 0.1, 1, 0]))


def long_cosines(series):
    series.edit(lambda data, _: setattr(data, "ImageOrientationPatient", [2, 0, 0, 0, 2, 0]))


def no_position(series):
    series.edit(lambda data, _: delattr(data, "ImagePositionPatient"), slice(2, 3))


def no_orientation(series):
    series.edit(lambda data, _: delattr(data, "ImageOrientationPatient"))


def no_spacing(series):
    series.edit(lambda data, _: delattr(data, "PixelSpacing"))


def not_a_number(series):
    def change(data, _):
        raw = b"1\\NaN "
        data[0x00280030] = pydicom.dataelem.RawDataElement(
            pydicom.tag.Tag(0x00280030), "DS", len(raw), raw, 0, False, True
        )

    series.edit(change, slice(0, 1))


def no_rescale(series):
    def change(data, _):
        del data.RescaleSlope, data.RescaleIntercept

    series.edit(change)


def no_rescale_in_a_slice_of_pet(series):
    def change(data, number):
        data.SOPClassUID, data.Modality = "1.2.840.10008.5.1.4.1.1.128", "PT"
        data.RescaleSlope, data.RescaleIntercept = 0.1 * (number + 1), 0
        if number == 3:
            del data.RescaleSlope

    series.edit(change)


def slope_with_a_comma(series):
    def change(data, _):
        data.SOPClassUID, data.Modality = "1.2.840.10008.5.1.4.1.1.4", "MR"
        data["RescaleSlope"] = RawDataElement(Tag("RescaleSlope"), "DS", 4, b"0,5 ", 0, False, True)

    series.edit(change)


def cut_pixels(series):
    content = series.files[5].read_bytes()
    series.files[5].write_bytes(content[:-20])


def cut_header(series):
    content = series.files[5].read_bytes()
    series.files[5].write_bytes(content[:-300])


def cut_before_the_size_of_the_image(series):
    """An interrupted copy of the last slice, which the others do not miss."""
    content = series.files[-1].read_bytes()
    series.files[-1].write_bytes(content[: content.index(b"\x28\0\x10\0US")])


def colour(series):
    def change(data, _):
        data.SamplesPerPixel, data.PhotometricInterpretation = 3, "RGB"

    series.edit(change)


def unknown_compression(series):
    def change(data, _):
        data.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.4.100"  # a film
        data.PixelData = pydicom.encaps.encapsulate([b"\xff\xd8\xff\xd9"])

    for path in series.files:
        data = pydicom.dcmread(path)
        change(data, 0)
        data["PixelData"].VR = "OB"
        data.save_as(path)


def table_of_values(series):
    def change(data, _):
        del data.RescaleSlope, data.RescaleIntercept
        table = pydicom.Dataset()
        table.LUTDescriptor, table.ModalityLUTType, table.LUTData = [2, 0, 16], "HU", bytes(4)
        data.ModalityLUTSequence = [table]

    series.edit(change)


def upper_bits(series):
    def change(data, _):
        data.BitsStored, data.HighBit = 12, 15
        data.PixelData = (data.pixel_array << 4).astype("<i2").tobytes()

    series.edit(change)


def mosaic(series):
    def change(data, _):
        data.SOPClassUID, data.Modality = "1.2.840.10008.5.1.4.1.1.4", "MR"
        data.ImageType = ["ORIGINAL", "PRIMARY", "M", "ND", "MOSAIC"]

    for path in series.edit(change).files[1:]:  # of a volume there is one file
        path.unlink()


def secondary_capture(series):
    series.edit(lambda data, _: setattr(data, "SOPClassUID", "1.2.840.10008.5.1.4.1.1.7"))


REFUSALS = {
    remove_one: ReasonCode.MISSING_SLICE, remove_two_apart: ReasonCode.MISSING_SLICE,
    vary_spacing: ReasonCode.VARIABLE_SPACING, bend: ReasonCode.VARIABLE_SPACING,
    other_pixels_at_a_position: ReasonCode.CONFLICT,
    one_uid_two_images: ReasonCode.CONFLICT, one_uid_two_positions: ReasonCode.CONFLICT,
    frame_of_reference_lost_in_part: ReasonCode.CONFLICT,
    frames_of_reference_in_turn: ReasonCode.CONFLICT,
    frames_of_reference_in_turn_with_a_copy_and_a_gap: ReasonCode.CONFLICT,
    a_frame_of_reference_for_each_slice: ReasonCode.CONFLICT,
    studies_in_turn: ReasonCode.CONFLICT, modalities_in_turn: ReasonCode.CONFLICT,
    phases_without_a_name: ReasonCode.PHASES, every_second_slice_named: ReasonCode.PHASES,
    other_matrix: ReasonCode.MIXED_MATRIX, other_spacing: ReasonCode.MIXED_MATRIX,
    other_orientation: ReasonCode.MIXED_ORIENTATION, skewed_orientation: ReasonCode.BAD_ORIENTATION,
    long_cosines: ReasonCode.BAD_ORIENTATION, no_position: ReasonCode.NO_POSITION,
    no_orientation: ReasonCode.NO_POSITION, no_spacing: ReasonCode.NO_POSITION,
    not_a_number: ReasonCode.NO_POSITION, no_rescale: ReasonCode.NO_RESCALE,
    no_rescale_in_a_slice_of_pet: ReasonCode.NO_RESCALE, slope_with_a_comma: ReasonCode.NO_RESCALE,
    cut_pixels: ReasonCode.TRUNCATED,
    cut_header: ReasonCode.TRUNCATED, cut_before_the_size_of_the_image: ReasonCode.TRUNCATED,
    colour: ReasonCode.UNSUPPORTED_PIXELS,
    upper_bits: ReasonCode.UNSUPPORTED_PIXELS,
    table_of_values: ReasonCode.UNSUPPORTED_PIXELS, mosaic: ReasonCode.UNSUPPORTED_PIXELS,
    unknown_compression: ReasonCode.DECODE_FAILED, secondary_capture: ReasonCode.SKIPPED_SOP_CLASS,
}  # fmt: skip


@pytest.mark.parametrize(("damage", "code"), REFUSALS.items(), ids=lambda value: getattr(value, "__name__", ""))
def test_unsound_series_is_refused_with_its_reason(phantom, damage, code):
    series = phantom(patient="CANARY^NAME", description="CANARY series")
    read_series(series.source)  # sound before
    damage(series)
    with pytest.raises(ScanError) as caught:
        read_series(series.source)
    assert caught.value.code == code
    assert "CANARY" not in str(caught.value)
    with pytest.raises(ScanError):
        inspect_series(series.source)


@pytest.mark.parametrize("moved_mm", [0, 0.7])
def test_a_patient_who_was_moved_within_a_series_makes_two_scans(phantom, moved_mm):
    series = phantom()
    for path in series.files:
        data = pydicom.dcmread(path)
        data.SOPInstanceUID, data.FrameOfReferenceUID = generate_uid(), "1.2.3"
        data.ImagePositionPatient = [*data.ImagePositionPatient[:2], float(data.ImagePositionPatient[2]) + moved_mm]
        data.save_as(series.folder / f"moved_{path.name}")
    results = arrange([h for path in series.folder.iterdir() for h in read_headers(path)], same_pixels)
    assert [len(result.slices) for result in results] == [8, 8]


def test_missing_slice_message_says_where(phantom):
    series = phantom()
    series.files[3].unlink()
    with pytest.raises(SeriesError, match=r"lacks 1 slice\(s\): 5 mm between slices 3 and 4 where 2.5 mm is the rule"):
        read_series(series.source)


@pytest.mark.parametrize("encoding", ["rle", "j2k", "jpegls"])
def test_truncated_compressed_file_is_refused(phantom, encoding):
    series = phantom(shape=(40, 36, 3), encoding=encoding)
    content = series.files[1].read_bytes()
    series.files[1].write_bytes(content[: len(content) - 200])
    with pytest.raises(ScanError) as caught:
        inspect_series(series.source)
    assert caught.value.code == ReasonCode.TRUNCATED


@pytest.mark.parametrize("syntax", [pydicom.uid.JPEGLossless, pydicom.uid.JPEGLosslessSV1])
def test_jpeg_lossless_is_read_with_the_extra(phantom, assert_in_place, syntax):
    gdcm = pytest.importorskip("gdcm", reason="python-gdcm, from the codecs extra, is not installed")
    series = phantom(shape=(40, 36, 3))
    kind = {"57": gdcm.TransferSyntax.JPEGLosslessProcess14, "70": gdcm.TransferSyntax.JPEGLosslessProcess14_1}
    for path in series.files:
        reader, change, writer = gdcm.ImageReader(), gdcm.ImageChangeTransferSyntax(), gdcm.ImageWriter()
        reader.SetFileName(str(path))
        assert reader.Read()
        change.SetTransferSyntax(gdcm.TransferSyntax(kind[syntax[-2:]]))
        change.SetInput(reader.GetImage())
        assert change.Change()
        writer.SetFileName(str(path))
        writer.SetFile(reader.GetFile())
        writer.SetImage(change.GetOutput())
        assert writer.Write()
        assert pydicom.dcmread(path).file_meta.TransferSyntaxUID == syntax
    assert_in_place(read_series(series.source), series.grid)


def test_jpeg_lossless_without_the_extra_names_it(phantom, monkeypatch):
    series = phantom(shape=(40, 36, 1), encoding="jpegls")
    series.edit(lambda data, _: setattr(data.file_meta, "TransferSyntaxUID", pydicom.uid.JPEGLosslessSV1))
    monkeypatch.setattr(dicom_headers, "can_decode", lambda syntax: False)
    with pytest.raises(SeriesError, match=r'JPEG Lossless; install "medseg\[codecs\]"') as caught:
        inspect_series(series.source)
    assert caught.value.code == ReasonCode.DECODE_FAILED


def test_undecodable_slice_is_named_by_number(phantom):
    series = phantom(shape=(40, 36, 3), encoding="jpegls")

    def spoil(data, _):
        data.PixelData = pydicom.encaps.encapsulate([b"\xff\xd8" + b"\0" * 100])

    series.edit(spoil, slice(1, 2))
    with pytest.raises(SeriesError, match="slice 2 of 3") as caught:
        read_series(series.source)
    assert caught.value.code == ReasonCode.DECODE_FAILED


def test_decoder_that_panics_costs_only_its_slice(phantom, capfd):
    """pylibjpeg-rle is written in Rust, and its panic is no Exception."""
    series = phantom(shape=(40, 36, 3), encoding="rle")
    run = b"\x81\0"  # 128 zeros; twelve of them are more than the 1440 bytes of a segment
    segments = run * 11 + b"\xe1\0" + run * 12
    frame = struct.pack("<16I", 2, 64, 64 + 24, *([0] * 13)) + segments
    series.edit(lambda data, _: setattr(data, "PixelData", pydicom.encaps.encapsulate([frame])), slice(1, 2))
    with pytest.raises(SeriesError, match="slice 2 of 3") as caught:
        read_series(series.source)
    assert caught.value.code == ReasonCode.DECODE_FAILED
    capfd.readouterr()  # the panic's own words


def test_two_series_are_not_one_source(phantom):
    series, other = phantom(), phantom("other", description="second")
    with pytest.raises(SeriesError) as caught:
        read_series(Source("dicom", (*series.files, *other.files)))
    assert caught.value.code == ReasonCode.AMBIGUOUS_SERIES


def test_source_of_no_or_foreign_files(tmp_path):
    (tmp_path / "notes.txt").write_text("not a scan")
    for files, code in (((), ReasonCode.EMPTY), ((tmp_path / "notes.txt",), ReasonCode.NOT_DICOM)):
        with pytest.raises(SeriesError) as caught:
            read_series(Source("dicom", files))
        assert caught.value.code == code
    with pytest.raises(ScanError, match="No such file"):
        read_series(Source("dicom", (tmp_path / "gone.dcm",)))


def test_deflated_file_is_refused_before_it_is_inflated(phantom):
    series = phantom(shape=(12, 10, 1))
    data = pydicom.dcmread(series.files[0])
    data.file_meta.TransferSyntaxUID = pydicom.uid.DeflatedExplicitVRLittleEndian
    data.PixelData = b"\0" * 5_000_000
    data.save_as(series.files[0])
    assert os.path.getsize(series.files[0]) < 1_000_000
    with pytest.raises(ScanError, match="deflated"):
        read_series(series.source)


def test_writer_is_deterministic(phantom):
    one, two, other = phantom("a"), phantom("b"), phantom("c", seed=1)
    assert [p.read_bytes() for p in one.files] == [p.read_bytes() for p in two.files]
    assert one.files[0].read_bytes() != other.files[0].read_bytes()


def test_writer_refuses_what_ct_cannot_say(tmp_path):
    grid = Grid((2, 2, 2), np.eye(4))
    with pytest.raises(OutputError, match="one channel"):
        write_series(Volume(np.zeros((2, 2, 2, 2), np.float32), grid), tmp_path / "a")
    with pytest.raises(OutputError, match="40000"):
        write_series(Volume(np.full((1, 2, 2, 2), 40000, np.float32), grid), tmp_path / "a")
    sheared = np.eye(4)
    sheared[0, 1] = 0.3
    with pytest.raises(GeometryError):
        write_series(Volume(np.zeros((1, 2, 2, 2), np.float32), Grid((2, 2, 2), sheared)), tmp_path / "a")
    assert not list(Path(tmp_path).iterdir())
