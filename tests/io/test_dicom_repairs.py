"""Faults of a series are rejected, flagged or repaired as the policy says, and a repair is right to the voxel."""

from __future__ import annotations

import numpy as np
import pydicom
import pytest
from hypothesis import given
from hypothesis import strategies as st

from medseg.config import IngestConfig, parse_policies
from medseg.errors import ConfigError, ReasonCode, ScanError
from medseg.io.dicom import inspect_series, open_series, read_series
from medseg.io.dicom_geometry import fit_line, interpolate_planes
from medseg.io.nifti import read_nifti, write_mask, write_volume
from medseg.volume import Mask, Repair, Source

STEP = 2.5
REPAIR = IngestConfig(missing_slice="repair", variable_spacing="repair")
REJECT = {ReasonCode.GANTRY_TILT: IngestConfig(gantry_tilt="reject")}


def read(series, policy: IngestConfig | None = None):
    return read_series(Source("dicom", series.source.files, policy or IngestConfig()))


def what(volume, code) -> str:
    (repair,) = (repair for repair in volume.repairs if repair.code is code)
    assert code in volume.flags
    return repair.what


def code_of(series, policy: IngestConfig | None = None) -> ReasonCode:
    source = Source("dicom", series.source.files, policy or IngestConfig())
    with pytest.raises(ScanError) as caught:
        inspect_series(source)
    return caught.value.code


# Missing slices --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lost", [{3}, {2, 5}, {3, 4}, {1, 2, 3}])
def test_missing_slices_are_interpolated_in_place(phantom, assert_in_place, lost):
    series = phantom()
    for number in lost:
        series.files[number].unlink()
    assert code_of(series) is ReasonCode.MISSING_SLICE
    volume = read(series, REPAIR)
    assert_in_place(volume, series.grid)  # the values are linear in space, so linear interpolation is exact
    assert (
        what(volume, ReasonCode.MISSING_SLICE) == f"interpolated {len(lost)} missing slice(s) between {8 - len(lost)}"
    )
    assert inspect_series(Source("dicom", series.source.files, REPAIR)).repairs == volume.repairs[:1]


def test_slices_that_are_there_keep_their_values(phantom):
    series = phantom()
    rng = np.random.default_rng(0)

    def noise(data, _):
        data.PixelData = rng.integers(0, 2000, (10, 12)).astype(np.int16).tobytes()

    before = read(series.edit(noise)).array
    series.files[3].unlink()
    after = read(series, REPAIR).array
    lost = np.abs(after - before).max(axis=(0, 1, 2)) > 0
    assert lost.sum() == 1
    place = int(np.argmax(lost))
    np.testing.assert_array_equal(after[..., place], (before[..., place - 1] + before[..., place + 1]) / 2)


def test_a_gap_too_wide_is_not_filled(phantom):
    series = phantom(shape=(12, 10, 12))
    for number in range(3, 8):  # 15 mm without an image
        series.files[number].unlink()
    assert code_of(series, REPAIR) is ReasonCode.MISSING_SLICE
    with pytest.raises(ScanError, match="that is too much to repair"):
        read(series, REPAIR)


def test_the_real_slices_are_found_again_on_the_repaired_grid(phantom):
    series = phantom()
    series.files[3].unlink()
    opened = open_series(Source("dicom", series.source.files, REPAIR))
    planes = opened.on_slices(np.arange(8)[None, None])
    heights = [header.position[2] for header in opened.slices]
    np.testing.assert_allclose(planes.ravel(), (np.array(heights) - min(heights)) / STEP)


# Uneven spacing --------------------------------------------------------------------------------------------


def test_uneven_slices_are_interpolated_onto_even_planes(phantom):
    series = phantom().move(lambda number: [0, 0, 0.6 * (number > 4)])
    assert code_of(series) is ReasonCode.VARIABLE_SPACING
    volume = read(series, REPAIR)
    assert volume.grid.is_orthogonal
    places = np.stack(np.meshgrid(*map(np.arange, volume.grid.shape), indexing="ij"), -1) @ volume.grid.affine[:3, :3].T
    expected = 200 + (places + volume.grid.affine[:3, 3]) @ [2.0, 3.0, 5.0]
    assert np.abs(volume.array[0] - expected).max() <= 1.01  # whole HU are stored
    ends = volume.grid.corners()[:, 2]
    assert (ends.min(), ends.max()) == pytest.approx((-20, -20 + 7 * STEP + 0.6))
    assert "2.5 to 3.1 mm apart" in what(volume, ReasonCode.VARIABLE_SPACING)


def test_thick_and_thin_slices_in_one_series_become_thin_ones(phantom, assert_in_place):
    """Five mm beside 2.5 mm: every other slice of the coarse part is missing."""
    series = phantom(shape=(12, 10, 12))
    for number in (7, 9):
        series.files[number].unlink()
    volume = read(series, REPAIR)
    assert_in_place(volume, series.grid)


def test_one_slice_close_to_another_does_not_set_the_spacing():
    heights = np.array([0, 5, 10, 10.4, 15, 20, 25.0])
    line = fit_line(np.outer(heights, [0, 0, 1]), np.array([0, 0, 1.0]), fallback=1)
    assert line.faults[0].code is ReasonCode.VARIABLE_SPACING
    assert line.count == 11
    np.testing.assert_allclose(line.step, [0, 0, 2.5])
    np.testing.assert_allclose(line.places, heights / 2.5)


@given(gaps=st.lists(st.floats(0.3, 6), min_size=1, max_size=40), drift=st.floats(-0.4, 0.4), seed=st.integers(0, 99))
def test_planes_hold_what_is_linear_in_space(gaps, drift, seed):
    turn, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(3, 3)))
    normal, sideways = turn[:, 0], turn[:, 1]
    heights = np.concatenate([[0], np.cumsum(gaps)])
    line = fit_line(np.outer(heights, normal + drift * sideways) + 7, normal, fallback=1)
    codes = {fault.code for fault in line.faults}
    assert codes <= {ReasonCode.MISSING_SLICE, ReasonCode.VARIABLE_SPACING, ReasonCode.GANTRY_TILT}
    planes = np.arange(line.count) * (line.step @ normal)
    assert planes[-1] == pytest.approx(heights[-1])
    found = interpolate_planes(heights[:, None, None].astype(np.float32), line).ravel()
    off = np.abs(found - planes).max()
    assert off <= 1e-4 * heights[-1] + (0.05 * line.count * min(gaps) if ReasonCode.MISSING_SLICE in codes else 0.06)


# Gantry tilt -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("drift", [0.8, -0.4, 0.02])
def test_a_tilted_series_keeps_its_sheared_voxels(phantom, drift):
    series = phantom().move(lambda number: [0, drift * number, 0])
    volume = read(series)
    affine = series.grid.affine.copy()
    affine[1, 2] = -drift * np.sign(affine[2, 2])  # LPS to RAS
    normal_first = read(series).grid
    assert not normal_first.is_orthogonal
    angle = np.degrees(np.arctan(abs(drift) / STEP))
    assert f"sheared by {angle:.1f} degrees" in what(volume, ReasonCode.GANTRY_TILT)
    assert ReasonCode.NONORTHONORMAL_AFFINE not in volume.flags
    index = np.stack(np.meshgrid(*map(np.arange, volume.grid.shape), indexing="ij"), axis=-1)
    world = index @ volume.grid.affine[:3, :3].T + volume.grid.affine[:3, 3]
    assert np.abs(volume.array[0] - (200 + world @ [2.0, 3.0, 5.0])).max() <= 1.01
    assert code_of(series, REJECT[ReasonCode.GANTRY_TILT]) is ReasonCode.GANTRY_TILT


def test_gap_tilt_and_uneven_spacing_at_once(phantom):
    series = phantom().move(lambda number: [0, 0.8 * number, 0])
    series.files[3].unlink()
    volume = read(series, REPAIR)
    assert {repair.code for repair in volume.repairs} == {ReasonCode.MISSING_SLICE, ReasonCode.GANTRY_TILT}
    assert volume.grid.shape == (12, 10, 8)
    index = np.stack(np.meshgrid(*map(np.arange, volume.grid.shape), indexing="ij"), axis=-1)
    world = index @ volume.grid.affine[:3, :3].T + volume.grid.affine[:3, 3]
    assert np.abs(volume.array[0] - (200 + world @ [2.0, 3.0, 5.0])).max() <= 1.51


def test_more_than_any_gantry_tilts_is_a_mistake(phantom):
    series = phantom().move(lambda number: [0, 3.0 * number, 0])
    assert code_of(series) is ReasonCode.GANTRY_TILT


def test_slices_off_the_line_are_never_repaired(phantom):
    series = phantom().move(lambda number: [0, 2.0 * (number == 4), 0])
    assert code_of(series, REPAIR) is ReasonCode.VARIABLE_SPACING


def test_a_mask_of_a_tilted_series_is_written_on_its_voxels(phantom, tmp_path):
    series = phantom().move(lambda number: [0, 0.8 * number, 0])
    source = Source("dicom", series.source.files)
    volume = read_series(source)
    write_volume(tmp_path / "scan.nii.gz", volume)
    mask = Mask((volume.array[0] > 200).astype(np.uint8), volume.grid)
    write_mask(tmp_path / "mask.nii.gz", mask, source)
    again = read_nifti(tmp_path / "scan.nii.gz")
    assert again.grid.matches(volume.grid)
    assert again.flags == (ReasonCode.NONORTHONORMAL_AFFINE,)
    assert "straight to half a voxel" in what(again, ReasonCode.NONORTHONORMAL_AFFINE)


# Values ----------------------------------------------------------------------------------------------------


def pad(value: int, limit: int | None = None, stored: int | None = None):
    """Set the corner of each slice to a stored value, which its header calls padding."""

    def change(data, _):
        pixels = data.pixel_array.copy()
        pixels[0, :3] = value if stored is None else stored
        data.PixelData = pixels.tobytes()
        data.add_new("PixelPaddingValue", "SS", value)
        if limit is not None:
            data.add_new("PixelPaddingRangeLimit", "SS", limit)

    return change


@pytest.mark.parametrize("change", [pad(-2000), pad(-2000, -1900, -1950), pad(-1900, -2000, -1950)])
def test_padding_becomes_air(phantom, change):
    series = phantom().edit(change)  # the writer's intercept is -1024: -2000 is -3024 HU
    volume = read(series)
    assert volume.array.min() == -1024
    assert np.count_nonzero(volume.array == -1024) == 3 * 8
    assert volume.repairs == (Repair(ReasonCode.PIXEL_PADDING, "set to -1024 what its headers call padding"),)
    assert ReasonCode.PIXEL_PADDING not in volume.flags  # it is nothing unusual
    kept = read(series, IngestConfig(pixel_padding="warn"))
    assert kept.array.min() < -2900
    assert ReasonCode.PIXEL_PADDING in kept.flags


def test_padding_that_could_be_tissue_is_kept(phantom, assert_in_place):
    """Some exports declare 0 as padding and mean water by it."""
    series = phantom()
    zero = int(pydicom.dcmread(series.files[0]).pixel_array.min())

    def declare(data, _):
        data.add_new("PixelPaddingValue", "SS", zero)

    volume = read(series.edit(declare))
    assert ReasonCode.PIXEL_PADDING not in volume.flags
    assert_in_place(volume, series.grid)


def no_rescale(data, _):
    del data.RescaleSlope, data.RescaleIntercept


def foreign_scale(data, _):
    data.RescaleType = "OD"


def inverted(data, _):
    data.PhotometricInterpretation = "MONOCHROME1"


def detector_spacing(data, _):
    data.ImagerPixelSpacing = [1.4, 1.4]


def same_detector_spacing(data, _):
    data.ImagerPixelSpacing = data.PixelSpacing


@pytest.mark.parametrize(
    ("change", "code", "default"),
    [
        (no_rescale, ReasonCode.NO_RESCALE, "reject"),
        (foreign_scale, ReasonCode.HU_SUSPECT, "warn"),
        (inverted, ReasonCode.MONOCHROME1, "warn"),
        (detector_spacing, ReasonCode.SPACING_SUSPECT, "warn"),
    ],
)
def test_a_doubtful_header_is_flagged_or_rejected_as_the_policy_says(phantom, change, code, default):
    series = phantom().edit(change)
    assert IngestConfig().choice(code) == default
    assert code in read(series, IngestConfig(**{code.lower(): "warn"})).flags
    assert code_of(series, IngestConfig(**{code.lower(): "reject"})) is code


def test_equal_spacings_of_patient_and_detector_are_no_doubt(phantom):
    series = phantom().edit(same_detector_spacing)
    assert ReasonCode.SPACING_SUSPECT not in read(series).flags


def blank(data, _):
    data.PixelData = np.full((10, 12), 1024, np.int16).tobytes()


@pytest.mark.parametrize(("which", "flagged"), [(slice(0, 2), False), (slice(3, 4), True), (slice(None), True)])
def test_a_blank_slice_within_the_scan_is_noticed(phantom, which, flagged):
    series = phantom().edit(blank, which)
    assert (ReasonCode.EMPTY in read(series).flags) == flagged
    if flagged:
        with pytest.raises(ScanError, match="one value|is empty between") as caught:
            read(series, IngestConfig(empty="reject"))
        assert caught.value.code is ReasonCode.EMPTY


def test_a_body_cut_by_the_field_of_view_is_noticed(phantom):
    """A slab of tissue in air, once within the image, once across it."""

    def slab(first: int):
        def change(data, _):
            hu = np.full((10, 12), -1000)
            hu[first:9, first:10] = 40
            data.PixelData = (hu + 1024).astype(np.int16).tobytes()

        return change

    assert read(phantom("whole").edit(slab(2))).flags == ()
    assert read(phantom("cut").edit(slab(0))).flags == (ReasonCode.FOV_TRUNCATED,)


def test_few_slices_are_refused_where_the_user_wants_more(phantom, assert_in_place):
    series = phantom(shape=(12, 10, 3))
    assert_in_place(read(series, IngestConfig(min_slices=3)), series.grid)
    assert code_of(series, IngestConfig(min_slices=4)) is ReasonCode.TOO_FEW_SLICES


def test_copies_and_phases_can_be_rejected(phantom):
    series = phantom()
    (series.folder / "copy").write_bytes(series.files[2].read_bytes())
    assert code_of(series, IngestConfig(duplicate="reject")) is ReasonCode.DUPLICATE
    assert ReasonCode.DUPLICATE in read(series).flags


# Choosing --------------------------------------------------------------------------------------------------


def test_policies_in_words():
    chosen = parse_policies(["MISSING_SLICE=repair", "min_slices = 10", "Duplicate=REJECT"])
    assert (chosen.missing_slice, chosen.min_slices, chosen.duplicate) == ("repair", 10, "reject")
    assert parse_policies([]) == IngestConfig()


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("TRUNCATED=warn", "TRUNCATED=warn: write it as CODE=policy"),
        ("MISSING_SLICE", "write it as CODE=policy"),
        ("DUPLICATE=repair", "DUPLICATE=repair: Input should be 'reject' or 'warn'"),
        ("MIN_SLICES=0", "MIN_SLICES=0: Input should be greater than or equal to 1"),
    ],
)
def test_policies_without_sense_are_refused(word, message):
    with pytest.raises(ConfigError, match=message):
        parse_policies([word])


def test_faults_without_a_choice_are_rejected():
    assert IngestConfig().choice(ReasonCode.TRUNCATED) == "reject"
