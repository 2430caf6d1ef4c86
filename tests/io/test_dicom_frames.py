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
from medseg.volume import Source


@pytest.fixture
def enhanced(phantom, tmp_path):
    """Convert a phantom series into one legacy-converted enhanced CT file; `change` edits it."""

    def convert(change=None, **options):
        series = phantom(**options)
        slices = [pydicom.dcmread(path) for path in series.files]
        converted = hd.legacy.LegacyConvertedEnhancedCTImage(
            slices, series_instance_uid=hd.UID(), series_number=2, sop_instance_uid=hd.UID(), instance_number=1
        )
        if change:
            change(converted)
        converted.save_as(tmp_path / "enhanced.dcm")
        return Source("dicom", (tmp_path / "enhanced.dcm",)), series.grid

    return convert


def shuffle(data):
    """Store the frames in another order, each with its own position."""
    order = np.random.default_rng(0).permutation(len(data.PerFrameFunctionalGroupsSequence))
    frames = data.pixel_array[order]
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
