"""Enhanced multi-frame files give the same volume as highdicom's own reader, or a named refusal."""

from dataclasses import replace

import highdicom as hd
import numpy as np
import pydicom
import pytest
from pydicom.sequence import Sequence

from medseg.config import IngestConfig
from medseg.errors import ReasonCode, ScanError
from medseg.io.dicom import inspect_series, read_series
from medseg.io.dicom_headers import read_headers
from medseg.io.dicom_rtstruct import write_rtstruct
from medseg.io.dicom_seg import write_dicom_seg
from medseg.io.dicom_seg_read import read_dicom_seg
from medseg.io.dicom_sr import write_dicom_sr
from medseg.measures.measure import measure_mask
from medseg.review.lattice import place
from medseg.volume import Mask, Source

from .dicom_results import ALGORITHM, LABELS, blobs


@pytest.fixture
def enhanced(phantom, tmp_path):
    """Convert a phantom series into legacy-converted enhanced CT files, of as many slices as `parts` say.

    `change` edits them; without `parts` there is one.
    """

    def convert(change=None, parts=(), **options):
        series = phantom(**options)
        slices = [pydicom.dcmread(path) for path in series.files]
        uid, files, begin = hd.UID(), [], 0
        for number, count in enumerate(parts or (len(slices),), start=1):
            converted = hd.legacy.LegacyConvertedEnhancedCTImage(
                slices[begin : begin + count], uid, series_number=2, sop_instance_uid=hd.UID(), instance_number=number
            )
            if change:
                change(converted)
            files.append(tmp_path / f"enhanced_{number}.dcm")
            converted.save_as(files[-1])
            begin += count
        return Source("dicom", tuple(files)), series.grid

    return convert


def shuffle(data):
    """Store the frames in another order, each with its own position."""
    order = np.random.default_rng(0).permutation(len(data.PerFrameFunctionalGroupsSequence))
    frames = data.pixel_array.reshape(len(order), data.Rows, data.Columns)[order]
    data.PerFrameFunctionalGroupsSequence = Sequence([data.PerFrameFunctionalGroupsSequence[i] for i in order])
    data.PixelData = frames.tobytes()


@pytest.mark.parametrize("change", [None, shuffle])
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_frames_are_placed_by_their_own_position(enhanced, assert_in_place, change):
    source, grid = enhanced(change)
    volume = read_series(source)
    assert_in_place(volume, grid)
    reference = hd.imread(source.files[0]).get_volume(dtype=np.float32, apply_real_world_transform=False)
    affine = np.diag([-1.0, -1, 1, 1]) @ reference.affine  # highdicom: (slice, row, column), LPS
    index = np.rint(np.linalg.inv(affine) @ volume.grid.affine).astype(int)
    assert np.abs(affine @ index - volume.grid.affine).max() < 1e-6
    x, y, z = volume.grid.shape
    for voxel in ((0, 0, 0), (x - 1, 0, 2), (3, y - 1, z - 1)):
        place = (index @ [*voxel, 1])[:3]
        assert reference.array[tuple(place)] == volume.array[(0, *voxel)]


@pytest.mark.parametrize("parts", [(4, 4), (3, 5), (5, 3), (7, 1), (1, 7), (2, 3, 3)])
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_series_of_several_multi_frame_files_takes_each_frame_from_its_own(enhanced, assert_in_place, parts):
    source, grid = enhanced(shuffle, parts=parts)
    assert_in_place(read_series(source), grid)
    assert_in_place(read_series(replace(source, files=source.files[::-1])), grid)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_multi_frame_file_without_preamble_is_read(enhanced, assert_in_place):
    source, grid = enhanced()
    path = source.files[0]
    path.write_bytes(path.read_bytes()[132:])
    assert_in_place(read_series(source), grid)


def drop_frame(data):
    frames = np.delete(data.pixel_array, 3, axis=0)
    del data.PerFrameFunctionalGroupsSequence[3]
    data.NumberOfFrames, data.PixelData = len(frames), frames.tobytes()


def repeat_positions(data):
    groups = data.PerFrameFunctionalGroupsSequence
    for number in range(4):
        groups[number + 4].PlanePositionSequence = groups[number].PlanePositionSequence


def lose_groups(data):
    del data.PerFrameFunctionalGroupsSequence


def claim_more_frames(data):
    data.NumberOfFrames = len(data.PerFrameFunctionalGroupsSequence) + 1
    data.PixelData = data.PixelData + bytes(10_000)


def lose_position(data):
    del data.PerFrameFunctionalGroupsSequence[2].PlanePositionSequence


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (drop_frame, ReasonCode.MISSING_SLICE),
        (repeat_positions, ReasonCode.PHASES),
        (lose_groups, ReasonCode.UNREADABLE),
        (claim_more_frames, ReasonCode.UNREADABLE),
        (lose_position, ReasonCode.NO_POSITION),
    ],
)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_unsound_multi_frame_file_is_refused(enhanced, change, code):
    source, _ = enhanced(change)
    with pytest.raises(ScanError) as caught:
        inspect_series(source)
    assert caught.value.code == code


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_missing_frame_is_repaired_as_a_missing_slice_is(enhanced, assert_in_place):
    def lose_one_of_shuffled(data):
        drop_frame(data)
        shuffle(data)

    source, grid = enhanced(lose_one_of_shuffled)
    volume = read_series(replace(source, policy=IngestConfig(missing_slice="repair")))
    assert_in_place(volume, grid)
    assert ReasonCode.MISSING_SLICE in volume.flags


def drift(data):
    """Tilt the gantry: each frame begins a little further back than the last."""
    for number, group in enumerate(data.PerFrameFunctionalGroupsSequence):
        position = group.PlanePositionSequence[0].ImagePositionPatient
        group.PlanePositionSequence[0].ImagePositionPatient = [position[0], position[1] + 0.5 * number, position[2]]


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_tilted_frames_lie_on_a_sheared_grid(enhanced):
    source, grid = enhanced(drift)
    volume = read_series(source)
    assert ReasonCode.GANTRY_TILT in volume.flags
    assert abs(volume.grid.affine[1, 2]) == pytest.approx(0.5)
    assert volume.grid.shape == grid.shape


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_truncated_multi_frame_file_is_refused(enhanced):
    source, _ = enhanced()
    content = source.files[0].read_bytes()
    source.files[0].write_bytes(content[:-100])
    with pytest.raises(ScanError) as caught:
        read_series(source)
    assert caught.value.code == ReasonCode.TRUNCATED


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_contours_and_measurements_refer_to_frames_by_the_uid_of_their_file(enhanced, tmp_path):
    source, _ = enhanced(parts=(4, 4))
    volume = read_series(source)
    mask = Mask(blobs(), volume.grid)
    write_rtstruct(tmp_path / "contours.dcm", mask, LABELS, source, ALGORITHM)
    measures = measure_mask(volume, mask, LABELS, 2).measures
    write_dicom_sr(tmp_path / "measurements.dcm", measures, LABELS, source, ALGORITHM)
    files = {file.SOPInstanceUID: file for file in map(pydicom.dcmread, source.files)}
    for contour in pydicom.dcmread(tmp_path / "contours.dcm").ROIContourSequence[0].ContourSequence:
        quoted = contour.ContourImageSequence[0]
        groups = files[quoted.ReferencedSOPInstanceUID].PerFrameFunctionalGroupsSequence
        place = groups[quoted.ReferencedFrameNumber - 1].PlanePositionSequence[0].ImagePositionPatient
        assert contour.ContourData[2] == pytest.approx(place[2])
    report = pydicom.dcmread(tmp_path / "measurements.dcm")
    quoted = [image for element in report.iterall() if element.keyword == "ReferencedSOPSequence" for image in element]
    assert {image.ReferencedSOPInstanceUID for image in quoted} == set(files)


def move_groups(*names):
    """Return the change that lets every frame say what the file said of all, as enhanced MR of some makers does."""

    def change(data):
        shared = data.SharedFunctionalGroupsSequence[0]
        for name in names:
            for group in data.PerFrameFunctionalGroupsSequence:
                setattr(group, name, shared[name].value)
            del shared[name]

    return change


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        (move_groups("PixelMeasuresSequence"), ()),
        (move_groups("PlaneOrientationSequence"), ()),
        (shuffle, (4, 4)),
    ],
)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_segmentation_of_frames_is_the_mask(enhanced, tmp_path, change, parts):
    source, _ = enhanced(change, parts)
    grid = inspect_series(source).grid
    write_dicom_seg(tmp_path / "seg.dcm", Mask(blobs(), grid), LABELS, source, ALGORITHM)
    found = read_dicom_seg(tmp_path / "seg.dcm")
    numbers = np.unique(blobs(), return_inverse=True)[1].reshape(grid.shape)
    assert np.array_equal(place(found.mask.array, found.grid, grid), numbers)
    files = {file.SOPInstanceUID: file for file in map(pydicom.dcmread, source.files)}
    written = pydicom.dcmread(tmp_path / "seg.dcm")
    quoted = written.ReferencedSeriesSequence[0].ReferencedInstanceSequence
    assert {image.ReferencedSOPInstanceUID for image in quoted} == set(files)
    for frame in written.PerFrameFunctionalGroupsSequence:
        for image in (image for item in frame.DerivationImageSequence for image in item.SourceImageSequence):
            groups = files[image.ReferencedSOPInstanceUID].PerFrameFunctionalGroupsSequence
            origin = groups[image.ReferencedFrameNumber - 1].PlanePositionSequence[0]
            assert origin.ImagePositionPatient == frame.PlanePositionSequence[0].ImagePositionPatient


@pytest.mark.parametrize("has_agent", [True, False])
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_rules_find_thickness_and_contrast_where_multi_frame_files_have_them(enhanced, has_agent):
    def change(data):
        assert "SliceThickness" not in data
        if has_agent:
            data.ContrastBolusAgentSequence = [hd.sr.CodedConcept("109222007", "SCT", "Iohexol")]

    source, grid = enhanced(change)
    headers = read_headers(source.files[0])
    assert {header.slice_thickness for header in headers} == {grid.spacing[2]}
    assert {header.contrast for header in headers} == {has_agent}
