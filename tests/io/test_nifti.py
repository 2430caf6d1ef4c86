"""NIfTI scans are read as nibabel and SimpleITK read them, or refused; masks lie on their scans."""

import gzip
import shutil
import zlib

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from medseg.config import IngestConfig
from medseg.errors import GeometryError, LabelError, OutputError, ReasonCode, ScanError
from medseg.geometry import Grid
from medseg.io.nifti import inspect_nifti, read_mask, read_nifti, write_mask, write_volume
from medseg.io.scan import read_case
from medseg.volume import Case, Mask, Repair, Source, Volume

rng = np.random.default_rng(0)


def rotation(seed):
    q, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(3, 3)))
    return q


def affine_of(seed, spacing=(0.8, 1.2, 3.0), shear=0.0):
    affine = np.eye(4)
    sheared = np.eye(3)
    sheared[0, 2] = shear
    affine[:3, :3] = rotation(seed) @ sheared * spacing
    affine[:3, 3] = [-90.5, 33.25, 1041.0]
    return affine


def save(path, array, affine=None, *, kind=nib.Nifti1Image, codes=(1, 1), sform=None, qform=None, change=None):
    image = kind(array, None, kind.header_class())
    image.set_data_dtype(array.dtype)
    affine = affine_of(1) if affine is None else affine
    image.header.set_qform(affine if qform is None else qform, codes[0], strip_shears=True)
    image.header.set_sform(affine if sform is None else sform, codes[1])
    if change:
        change(image.header)
    nib.save(image, path)
    return path


def code_of(path, read=read_nifti, **options):
    with pytest.raises(ScanError) as caught:
        read(path, **options)
    assert path.name.split(".")[0] in str(caught.value)  # the message names the file
    return caught.value.code


# Reading -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [nib.Nifti1Image, nib.Nifti2Image])
@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
@pytest.mark.parametrize("dtype", ["u1", "i1", "i2", "u2", "i4", "u4", "i8", "u8", "f4", "f8", ">i2", ">f4"])
def test_reads_what_nibabel_reads(tmp_path, kind, ending, dtype):
    array = (rng.random((5, 4, 3)) * 100).astype(dtype)
    image = kind(array, affine_of(3), kind.header_class(endianness=">" if dtype[0] == ">" else "<"))
    image.set_data_dtype(dtype)
    nib.save(image, path := tmp_path / f"scan{ending}")
    volume = read_nifti(path)
    expected = nib.load(path)
    np.testing.assert_array_equal(volume.array[0], expected.get_fdata(dtype=np.float32))
    np.testing.assert_array_equal(volume.grid.affine, expected.affine)
    assert volume.array.dtype == np.float32
    assert inspect_nifti(path).grid.matches(volume.grid)
    assert volume.flags == ()


@pytest.mark.parametrize("ending", [".hdr", ".img"])
def test_reads_pairs_by_either_file(tmp_path, ending):
    array = rng.integers(-5, 5, (5, 4, 3)).astype(np.int16)
    nib.save(nib.Nifti1Pair(array, affine_of(2)), tmp_path / "scan.hdr")
    volume = read_nifti(tmp_path / f"scan{ending}")
    np.testing.assert_array_equal(volume.array[0], array)
    np.testing.assert_allclose(volume.grid.affine, affine_of(2), atol=1e-4)


def test_a_pair_of_which_one_file_is_a_folder_is_refused(tmp_path):
    nib.save(nib.Nifti1Pair(np.zeros((4, 4, 4), np.float32), np.eye(4)), tmp_path / "scan.hdr")
    (tmp_path / "scan.img").unlink()
    (tmp_path / "scan.img").mkdir()
    assert code_of(tmp_path / "scan.hdr") == ReasonCode.UNREADABLE


def test_half_a_pair_is_refused(tmp_path):
    nib.save(nib.Nifti1Pair(np.zeros((5, 4, 3), np.int16), np.eye(4)), tmp_path / "scan.hdr")
    (tmp_path / "scan.img").unlink()
    assert code_of(tmp_path / "scan.hdr") == ReasonCode.UNREADABLE


@pytest.mark.parametrize("dtype", ["i2", "i4", "f4"])
def test_scaling_is_applied(tmp_path, dtype):
    stored = rng.integers(0, 1000, (5, 4, 3)).astype(dtype)
    path = save(tmp_path / "scan.nii.gz", stored)
    content = bytearray(gzip.decompress(path.read_bytes()))
    content[112:120] = np.array([0.25, -1024.5], "<f4").tobytes()
    path.write_bytes(gzip.compress(bytes(content)))
    np.testing.assert_array_equal(read_nifti(path).array[0], stored * 0.25 - 1024.5)
    np.testing.assert_array_equal(read_nifti(path).array[0], nib.load(path).get_fdata(dtype=np.float32))


@given(
    seed=st.integers(0, 10**6),
    spacing=st.tuples(*[st.floats(0.2, 8.0)] * 3),
    shear=st.sampled_from([0.0, 0.0, 0.2, -0.4]),
)
def test_any_affine_survives_reading_and_writing(tmp_path_factory, seed, spacing, shear):
    folder = tmp_path_factory.mktemp("nifti")
    affine = affine_of(seed, spacing, shear)
    array = np.random.default_rng(seed).integers(0, 9, (4, 3, 2)).astype(np.int16)
    volume = read_nifti(save(folder / "scan.nii", array, affine, codes=(0, 1)))
    assert volume.grid.matches(Grid((4, 3, 2), affine))
    assert (ReasonCode.NONORTHONORMAL_AFFINE in volume.flags) == (shear != 0)
    write_volume(folder / "copy.nii.gz", volume)
    again = read_nifti(folder / "copy.nii.gz")
    assert again.grid.matches(volume.grid)
    assert again.flags == volume.flags
    np.testing.assert_array_equal(again.array, volume.array)
    if shear == 0:
        assert_same_to_itk(folder / "copy.nii.gz", volume)


def assert_same_to_itk(path, volume):
    image = sitk.ReadImage(str(path))
    affine = np.eye(4)
    affine[:3, :3] = np.array(image.GetDirection()).reshape(3, 3) * image.GetSpacing()
    affine[:3, 3] = image.GetOrigin()
    affine[:2] *= -1
    assert np.abs(Grid(image.GetSize(), affine).corners() - volume.grid.corners()).max() < 0.01
    np.testing.assert_array_equal(sitk.GetArrayFromImage(image).T, volume.array[0])


def test_image_written_by_itk_is_read_in_place(tmp_path):
    image = sitk.GetImageFromArray(rng.integers(-1000, 1000, (3, 4, 5)).astype(np.int16))
    image.SetSpacing((0.7, 0.8, 2.5))
    image.SetOrigin((-100, 20, 3))
    image.SetDirection(rotation(5).ravel() * np.sign(np.linalg.det(rotation(5))))
    sitk.WriteImage(image, str(tmp_path / "scan.nii.gz"))
    volume = read_nifti(tmp_path / "scan.nii.gz")
    assert volume.flags == ()
    assert_same_to_itk(tmp_path / "scan.nii.gz", volume)


def test_sform_wins_and_disagreement_is_flagged(tmp_path):
    moved = affine_of(1)
    moved[:3, 3] += [0, 50, 0]
    path = save(tmp_path / "scan.nii", np.arange(24, dtype=np.int16).reshape(4, 3, 2), sform=affine_of(1), qform=moved)
    volume = read_nifti(path)
    np.testing.assert_allclose(volume.grid.affine, affine_of(1), atol=1e-4)
    assert volume.flags == (ReasonCode.QFORM_SFORM_DISAGREE,)
    assert inspect_nifti(path).flags == volume.flags


def test_wrong_voxel_sizes_beside_a_right_sform_are_flagged(tmp_path):
    def change(header):
        header["pixdim"][1:4] = 3

    path = save(tmp_path / "scan.nii", np.arange(24, dtype=np.int16).reshape(4, 3, 2), codes=(0, 1), change=change)
    volume = read_nifti(path)
    np.testing.assert_allclose(volume.grid.spacing, (0.8, 1.2, 3.0), rtol=1e-5)
    assert volume.flags == (ReasonCode.QFORM_SFORM_DISAGREE,)


def test_half_turns_are_no_disagreement(tmp_path):
    for seed in range(200):
        angle = np.pi + np.random.default_rng(seed).normal() * 1e-4
        axis = rotation(seed)[:, 0]
        cross = np.cross(np.eye(3), axis)
        affine = np.eye(4)
        affine[:3, :3] = np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross
        path = save(tmp_path / "scan.nii", np.zeros((4, 3, 2), np.int16), affine)
        assert inspect_nifti(path).flags == ()


def test_units_are_obeyed(tmp_path):
    path = save(tmp_path / "scan.nii", np.zeros((4, 3, 2), np.int16), change=lambda h: h.set_xyzt_units("micron"))
    np.testing.assert_allclose(read_nifti(path).grid.spacing, (0.8e-3, 1.2e-3, 3e-3), rtol=1e-5)


@pytest.mark.parametrize(("unit", "mm"), [("meter", 1000.0), ("mm", 1.0), ("micron", 0.001)])
@pytest.mark.parametrize(("apart_mm", "flags"), [(0.005, ()), (5.0, (ReasonCode.QFORM_SFORM_DISAGREE,))])
def test_how_far_two_places_lie_apart_is_a_matter_of_mm_in_every_unit(tmp_path, unit, mm, apart_mm, flags):
    sform = np.diag([0.8 / mm, 1.2 / mm, 3.0 / mm, 1.0])
    qform = sform.copy()
    qform[1, 3] = apart_mm / mm
    array, units = np.arange(24, dtype=np.int16).reshape(4, 3, 2), lambda header: header.set_xyzt_units(unit)
    path = save(tmp_path / "scan.nii", array, sform=sform, qform=qform, change=units)
    assert read_nifti(path).flags == flags


def test_two_dimensional_file_is_one_slice(tmp_path):
    array = rng.integers(0, 9, (6, 5)).astype(np.int16)
    volume = read_nifti(save(tmp_path / "scan.nii", array))
    np.testing.assert_array_equal(volume.array[0, :, :, 0], array)

    def flatten(header):
        header["pixdim"][3] = 0
        header["srow_x"][2] = header["srow_y"][2] = header["srow_z"][2] = 0

    flat = read_nifti(save(tmp_path / "flat.nii", array, np.diag([0.5, 0.5, 1, 1]), change=flatten))
    np.testing.assert_allclose(flat.grid.affine, np.diag([0.5, 0.5, 1, 1]))


def test_trailing_sizes_of_one_are_no_dimension(tmp_path):
    volume = read_nifti(save(tmp_path / "scan.nii", np.ones((4, 3, 2, 1, 1), np.int16)))
    assert volume.array.shape == (1, 4, 3, 2)


def test_four_dimensions_are_channels_only_when_asked(tmp_path):
    array = rng.integers(0, 9, (4, 3, 2, 5)).astype(np.int16)
    path = save(tmp_path / "scan.nii", array)
    assert code_of(path) == code_of(path, inspect_nifti) == code_of(path, read_mask) == ReasonCode.NOT_3D
    volume = read_nifti(path, channels_last=True)
    np.testing.assert_array_equal(volume.array, array.transpose(3, 0, 1, 2))
    assert inspect_nifti(path, channels_last=True).channels == 5
    vector = save(tmp_path / "vector.nii", array[:, :, :, None])  # as ITK stores channels
    np.testing.assert_array_equal(read_nifti(vector, channels_last=True).array, volume.array)
    both = save(tmp_path / "both.nii", np.zeros((4, 3, 2, 5, 3), np.int16))
    assert code_of(both, channels_last=True) == ReasonCode.NOT_3D


def test_a_line_is_no_image(tmp_path):
    assert code_of(save(tmp_path / "scan.nii", np.zeros(9, np.int16))) == ReasonCode.NOT_3D


# Refusals ----------------------------------------------------------------------------------------------------


def test_no_codes_means_no_orientation(tmp_path):
    path = save(tmp_path / "scan.nii", np.zeros((4, 3, 2), np.int16), codes=(0, 0))
    assert code_of(path) == code_of(path, inspect_nifti) == ReasonCode.NO_SPATIAL_CODES
    assert code_of(path, read_mask, policy=IngestConfig()) == ReasonCode.NO_SPATIAL_CODES


def test_no_codes_can_be_accepted_for_scan_and_mask(tmp_path):
    """The mask is written without codes too, so that a viewer that guesses guesses the same for both."""
    policy = IngestConfig(no_spatial_codes="warn")
    array = np.arange(24, dtype=np.int16).reshape(4, 3, 2)
    path = save(tmp_path / "scan.nii", array, codes=(0, 0))
    volume = read_nifti(path, policy=policy)
    assert volume.flags == (ReasonCode.NO_SPATIAL_CODES,)
    np.testing.assert_array_equal(volume.grid.affine, nib.load(path).affine)
    source = Source("nifti", (path,), policy)
    write_mask(tmp_path / "mask.nii", Mask((array > 5).astype(np.uint8), volume.grid), source)
    header = nib.load(tmp_path / "mask.nii").header
    assert (int(header["qform_code"]), int(header["sform_code"])) == (0, 0)
    assert read_mask(tmp_path / "mask.nii").grid.matches(volume.grid)
    _, mask = read_case(Case("a", (source,), tmp_path / "mask.nii"))
    np.testing.assert_array_equal(mask.array, array > 5)


def shift_qform(tmp_path):
    moved = affine_of(1)
    moved[:3, 3] += [0, 50, 0]
    return save(tmp_path / "scan.nii", np.arange(24, dtype=np.int16).reshape(4, 3, 2), qform=moved)


def shear(tmp_path):
    return save(
        tmp_path / "scan.nii", np.arange(24, dtype=np.int16).reshape(4, 3, 2), affine_of(1, shear=0.9), codes=(0, 1)
    )


def blank(tmp_path):
    return save(tmp_path / "scan.nii", np.full((4, 3, 2), 7, np.int16))


@pytest.mark.parametrize(
    ("make", "code"),
    [
        (shift_qform, ReasonCode.QFORM_SFORM_DISAGREE),
        (shear, ReasonCode.NONORTHONORMAL_AFFINE),
        (blank, ReasonCode.EMPTY),
    ],
)
def test_a_doubtful_file_is_flagged_or_rejected_as_the_policy_says(tmp_path, make, code):
    path = make(tmp_path)
    volume = read_nifti(path)
    assert volume.flags == (code,)
    assert [repair.code for repair in volume.repairs] == ([code] if code == ReasonCode.NONORTHONORMAL_AFFINE else [])
    assert code_of(path, policy=IngestConfig(**{code.lower(): "reject"})) == code


def test_a_shear_beyond_all_tilts_is_refused(tmp_path):
    affine = np.eye(4)
    affine[0, 2] = 40
    path = save(tmp_path / "scan.nii.gz", np.zeros((40, 40, 400), np.uint8), affine, codes=(0, 1))
    assert code_of(path) == code_of(path, inspect_nifti) == ReasonCode.BAD_ORIENTATION


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_voxels_that_are_no_numbers(tmp_path, value):
    array = np.zeros((4, 3, 2), np.float32)
    array[3, 1, 1] = value
    path = save(tmp_path / "scan.nii.gz", array)
    assert code_of(path) == ReasonCode.NOT_FINITE
    with pytest.raises(LabelError, match="whole numbers"):
        read_mask(path)


def test_voxels_that_are_no_numbers_can_be_replaced(tmp_path):
    array = np.arange(24, dtype=np.float32).reshape(4, 3, 2) - 5
    array[3, 1, 1], array[0, 0, 0] = np.nan, np.inf
    volume = read_nifti(save(tmp_path / "scan.nii.gz", array), policy=IngestConfig(not_finite="repair"))
    assert volume.flags == (ReasonCode.NOT_FINITE,)
    assert volume.repairs == (Repair(ReasonCode.NOT_FINITE, "set 2 voxels that were no numbers to the smallest value"),)
    assert volume.array[0, 3, 1, 1] == volume.array[0, 0, 0, 0] == -4
    np.testing.assert_array_equal(volume.array[0, 1:3], array[1:3])
    empty = save(tmp_path / "empty.nii.gz", np.full((4, 3, 2), np.nan, np.float32))
    assert code_of(empty, policy=IngestConfig(not_finite="repair")) == ReasonCode.NOT_FINITE


def test_values_beyond_float32_are_not_finite(tmp_path):
    assert code_of(save(tmp_path / "scan.nii", np.full((2, 2, 2), 1e300))) == ReasonCode.NOT_FINITE


def test_every_truncation_is_noticed(tmp_path):
    array = rng.integers(0, 1000, (8, 8, 8)).astype(np.int16)
    for name in ("scan.nii", "scan.nii.gz"):
        whole = save(tmp_path / name, array).read_bytes()
        for length in (0, 3, 100, 347, len(whole) // 2, len(whole) - 9, len(whole) - 1):
            (tmp_path / name).write_bytes(whole[:length])
            code = code_of(tmp_path / name)
            assert code in (ReasonCode.TRUNCATED, ReasonCode.NOT_A_SCAN if length < 20 else code)


def test_damaged_gzip_is_never_zeros(tmp_path):
    path = save(tmp_path / "scan.nii.gz", rng.integers(0, 1000, (8, 8, 8)).astype(np.int16))
    whole = path.read_bytes()
    for position in range(len(whole) - 8, len(whole)):  # the checksum and the length
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 1]) + whole[position + 1 :])
        assert code_of(path) == ReasonCode.UNREADABLE
    middle = len(whole) // 2
    path.write_bytes(whole[:middle] + bytes([whole[middle] ^ 0x55]) + whole[middle + 1 :])
    assert code_of(path) in (ReasonCode.UNREADABLE, ReasonCode.TRUNCATED)


def test_gzip_of_several_members_and_padding(tmp_path):
    array = rng.integers(0, 1000, (8, 8, 8)).astype(np.int16)
    path = save(tmp_path / "scan.nii", array)
    content = path.read_bytes()
    packed = gzip.compress(content[:500]) + gzip.compress(content[500:]) + b"\0" * 1000
    (tmp_path / "members.nii.gz").write_bytes(packed)
    np.testing.assert_array_equal(read_nifti(tmp_path / "members.nii.gz").array[0], array)


def test_compression_is_recognised_by_content(tmp_path):
    array = rng.integers(0, 1000, (8, 8, 8)).astype(np.int16)
    shutil.move(save(tmp_path / "scan.nii.gz", array), tmp_path / "scan.nii")
    np.testing.assert_array_equal(read_nifti(tmp_path / "scan.nii").array[0], array)


def test_header_that_claims_more_than_the_file_allocates_nothing(tmp_path):
    for name in ("scan.nii", "scan.nii.gz"):
        path = save(tmp_path / name, np.zeros((8, 8, 8), np.int16))
        content = bytearray(path.read_bytes() if name == "scan.nii" else gzip.decompress(path.read_bytes()))
        content[42:48] = np.array([1000, 1000, 1000], "<i2").tobytes()
        path.write_bytes(bytes(content) if name == "scan.nii" else gzip.compress(bytes(content)))
        assert code_of(path) == code_of(path, inspect_nifti) == ReasonCode.TRUNCATED
        content[42:48] = np.array([32767] * 3, "<i2").tobytes()
        path.write_bytes(bytes(content) if name == "scan.nii" else gzip.compress(bytes(content)))
        assert code_of(path) == ReasonCode.UNREADABLE


def test_gzip_bomb_is_refused(tmp_path):
    path = save(tmp_path / "scan.nii", np.zeros((8, 8, 8), np.int16))
    packer = zlib.compressobj(1, wbits=31)
    packed = packer.compress(path.read_bytes())
    packed += b"".join(packer.compress(bytes(1 << 20)) for _ in range(100)) + packer.flush()
    (tmp_path / "scan.nii.gz").write_bytes(packed)
    assert code_of(tmp_path / "scan.nii.gz") == ReasonCode.UNREADABLE


@pytest.mark.parametrize("dtype", [np.complex64, np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1")])])
def test_complex_and_colour_are_refused(tmp_path, dtype):
    path = save(tmp_path / "scan.nii", np.zeros((4, 3, 2), dtype))
    assert code_of(path) == ReasonCode.UNSUPPORTED_PIXELS


def test_singular_affine_is_refused(tmp_path):
    path = save(tmp_path / "scan.nii", np.zeros((4, 3, 2), np.int16), sform=np.diag([1.0, 1, 0, 1]))
    assert code_of(path) == ReasonCode.BAD_ORIENTATION


@pytest.mark.parametrize("size", [0, -2, np.nan])
@pytest.mark.parametrize("axis", [1, 2, 3])
def test_a_voxel_size_that_is_none_is_refused(tmp_path, axis, size):
    """nibabel would read 0 as 1, and -2 as 2; ITK -2 as 1."""
    array = np.arange(24, dtype=np.int16).reshape(4, 3, 2)
    path = save(tmp_path / "scan.nii", array, codes=(1, 0))
    content = bytearray(path.read_bytes())
    content[76 + 4 * axis : 80 + 4 * axis] = np.array([size], "<f4").tobytes()
    path.write_bytes(bytes(content))
    assert code_of(path) == code_of(path, inspect_nifti) == ReasonCode.BAD_ORIENTATION


def test_analyze_is_refused_because_it_cannot_tell_left_from_right(tmp_path):
    nib.save(nib.AnalyzeImage(np.zeros((4, 3, 2), np.int16), np.eye(4)), tmp_path / "scan.img")
    assert code_of(tmp_path / "scan.img") == ReasonCode.NO_SPATIAL_CODES


def test_other_content_is_no_scan(tmp_path):
    (tmp_path / "scan.nii.gz").write_bytes(gzip.compress(b"hello" * 1000))
    (tmp_path / "other.nii").write_bytes(b"hello" * 1000)
    assert code_of(tmp_path / "scan.nii.gz") == code_of(tmp_path / "other.nii") == ReasonCode.NOT_A_SCAN
    assert code_of(tmp_path / "gone.nii") == ReasonCode.UNREADABLE


@pytest.mark.parametrize("name", ["scan.nii.gz", "0001.img"])
def test_dicom_that_is_named_like_nifti_says_what_to_do(tmp_path, name):
    (tmp_path / name).write_bytes(bytes(128) + b"DICM" + bytes(600))
    with pytest.raises(ScanError, match=rf"{name} is a DICOM file that is named like NIfTI; rename it"):
        read_nifti(tmp_path / name)


def test_contradictory_headers_are_refused(tmp_path):
    for place, value in ((40, -3), (42, -8), (42, 0)):
        path = save(tmp_path / "scan.nii", np.zeros((8, 8, 8), np.int16))
        content = bytearray(path.read_bytes())
        content[place : place + 2] = np.array([value], "<i2").tobytes()
        path.write_bytes(bytes(content))
        assert code_of(path) == ReasonCode.UNREADABLE


# Masks -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.int32, np.int64, np.float32, np.float64])
def test_masks_are_whole_numbers_of_any_type(tmp_path, dtype):
    labels = rng.integers(0, 4, (5, 4, 3))
    mask = read_mask(save(tmp_path / "mask.nii.gz", labels.astype(dtype), kind=nib.Nifti2Image))
    np.testing.assert_array_equal(mask.array, labels)
    assert mask.array.dtype == np.uint8


def test_many_labels_need_sixteen_bits(tmp_path):
    labels = np.array([0, 255, 256, 65535]).reshape(2, 2, 1)
    mask = read_mask(save(tmp_path / "mask.nii", labels.astype(np.int32)))
    np.testing.assert_array_equal(mask.array, labels)
    assert mask.array.dtype == np.uint16


@pytest.mark.parametrize("value", [-1, 65536, 0.5, 1e20])
def test_what_no_mask_holds_is_refused(tmp_path, value):
    labels = np.zeros((2, 2, 2), np.float64 if isinstance(value, float) else np.int32)
    labels[1, 1, 1] = value
    with pytest.raises(LabelError, match=r"mask\.nii"):
        read_mask(save(tmp_path / "mask.nii", labels))


PAIRS = {
    "1-1": {"codes": (1, 1)}, "1-2": {"codes": (1, 2)}, "1-0": {"codes": (1, 0)}, "0-0": {"codes": (0, 0)},
    "0-2": {"codes": (0, 2)}, "4-4": {"codes": (4, 4)}, "sheared": {"codes": (1, 1), "affine": affine_of(4, shear=0.3)},
    "sheared-sform-only": {"codes": (0, 1), "affine": affine_of(4, shear=0.3)},
    "disagreeing": {"codes": (1, 1), "qform": affine_of(9)},
    "metres": {"codes": (1, 1), "affine": np.diag([1e-3, 1e-3, 2e-3, 1]), "change": lambda h: h.set_xyzt_units(1, 8)},
}  # fmt: skip


@pytest.mark.parametrize("options", PAIRS.values(), ids=PAIRS.keys())
@pytest.mark.parametrize("kind", [nib.Nifti1Image, nib.Nifti2Image, nib.Nifti1Pair])
def test_mask_takes_over_the_place_of_its_scan(tmp_path, options, kind):
    array = rng.random((5, 4, 3)).astype(np.float32)
    scan = save(tmp_path / ("scan.hdr" if kind is nib.Nifti1Pair else "scan.nii.gz"), array, kind=kind, **options)
    before = nib.load(scan)
    scale = 1000.0 if before.header.get_xyzt_units()[0] == "meter" else 1.0
    mask = Mask(
        rng.integers(0, 3, (5, 4, 3)).astype(np.uint8), Grid((5, 4, 3), np.diag([scale] * 3 + [1]) @ before.affine)
    )
    write_mask(tmp_path / "mask.nii.gz", mask, Source("nifti", (scan,)))
    after = nib.load(tmp_path / "mask.nii.gz")
    assert type(after) is nib.Nifti1Image
    np.testing.assert_array_equal(np.asarray(after.dataobj), mask.array)
    assert after.get_data_dtype() == np.uint8
    np.testing.assert_allclose(after.affine, before.affine, atol=1e-6)
    np.testing.assert_allclose(after.get_qform(), before.get_qform(), atol=1e-6)
    np.testing.assert_allclose(after.get_sform(), before.get_sform(), atol=1e-6)
    for field in ("qform_code", "sform_code", "xyzt_units"):
        assert after.header[field] == before.header[field]
    assert (after.dataobj.slope, after.dataobj.inter) == (1, 0)


def test_mask_of_a_big_endian_scan(tmp_path):
    image = nib.Nifti1Image(np.zeros((5, 4, 3), ">i2"), affine_of(6), nib.Nifti1Header(endianness=">"))
    nib.save(image, tmp_path / "scan.nii")
    assert nib.load(tmp_path / "scan.nii").header.endianness == ">"
    mask = Mask(rng.integers(0, 3, (5, 4, 3)).astype(np.uint16), read_nifti(tmp_path / "scan.nii").grid)
    write_mask(tmp_path / "mask.nii", mask, Source("nifti", (tmp_path / "scan.nii",)))
    after = nib.load(tmp_path / "mask.nii")
    np.testing.assert_array_equal(np.asarray(after.dataobj), mask.array)
    np.testing.assert_allclose(after.affine, image.affine, atol=1e-6)


def test_mask_of_a_flat_scan(tmp_path):
    scan = save(tmp_path / "scan.nii", np.zeros((5, 4), np.int16))
    mask = Mask(rng.integers(0, 3, (5, 4, 1)).astype(np.uint8), read_nifti(scan).grid)
    write_mask(tmp_path / "mask.nii", mask, Source("nifti", (scan,)))
    assert read_mask(tmp_path / "mask.nii").grid.matches(mask.grid)


def test_mask_of_a_flat_scan_without_a_third_direction(tmp_path):
    def flatten(header):
        header["srow_x"], header["srow_y"], header["srow_z"] = [2, 0, 0, 1], [0, 3, 0, 2], [0, 0, 0, 5]

    scan = save(tmp_path / "scan.nii", np.zeros((5, 4), np.int16), change=flatten)
    mask = Mask(np.ones((5, 4, 1), np.uint8), read_nifti(scan).grid)
    write_mask(tmp_path / "mask.nii", mask, Source("nifti", (scan,)))
    assert read_mask(tmp_path / "mask.nii").grid.matches(mask.grid)


def test_a_mask_that_kept_the_qform_alone_lies_on_its_oblique_scan(tmp_path):
    """Directions of four decimals are not quite perpendicular; a qform's are."""
    affine = np.eye(4)
    affine[:3, :3] = np.round(Rotation.from_rotvec([0.2, -0.3, 0.5]).as_matrix(), 4) * [0.9, 0.9, 5]
    scan = read_nifti(save(tmp_path / "scan.nii", np.zeros((256, 256, 20), np.int16), affine))
    mask = read_mask(save(tmp_path / "mask.nii", np.zeros((256, 256, 20), np.uint8), affine, codes=(1, 0)))
    assert 0.001 < np.abs(mask.grid.corners() - scan.grid.corners()).max() < 0.01
    assert mask.grid.matches(scan.grid)


def test_nothing_of_the_scans_free_text_reaches_the_mask(tmp_path):
    def name(header):
        for field in ("descrip", "aux_file", "db_name", "intent_name", "data_type"):
            header[field] = b"CANARY"
        header.extensions.append(nib.nifti1.Nifti1Extension("comment", b"CANARY"))

    scan = save(tmp_path / "scan.nii", np.zeros((5, 4, 3), np.int16), change=name)
    assert scan.read_bytes().count(b"CANARY") >= 5
    mask = Mask(np.zeros((5, 4, 3), np.uint8), read_nifti(scan).grid)
    write_mask(tmp_path / "mask.nii", mask, Source("nifti", (scan,)))
    assert b"CANARY" not in (tmp_path / "mask.nii").read_bytes()


def test_mask_on_another_grid_is_refused(tmp_path):
    scan = save(tmp_path / "scan.nii", np.zeros((5, 4, 3), np.int16))
    for shape, affine in (((4, 4, 3), affine_of(1)), ((5, 4, 3), affine_of(2))):
        mask = Mask(np.zeros(shape, np.uint8), Grid(shape, affine))
        with pytest.raises(GeometryError, match=r"not on the grid of scan\.nii"):
            write_mask(tmp_path / "mask.nii", mask, Source("nifti", (scan,)))
    assert not (tmp_path / "mask.nii").exists()


@pytest.mark.parametrize("seed", range(5))
def test_mask_of_a_dicom_series_is_in_scanner_space(tmp_path, seed):
    mask = Mask(rng.integers(0, 3, (5, 4, 3)).astype(np.uint8), Grid((5, 4, 3), affine_of(seed)))
    write_mask(tmp_path / "mask.nii.gz", mask, Source("dicom", (tmp_path / "1.dcm",)))
    header = nib.load(tmp_path / "mask.nii.gz").header
    assert (header["qform_code"], header["sform_code"]) == (1, 1)
    assert header.get_xyzt_units()[0] == "mm"
    assert inspect_nifti(tmp_path / "mask.nii.gz").flags == ()
    assert_same_to_itk(tmp_path / "mask.nii.gz", Volume(mask.array[None].astype(np.float32), mask.grid))


def test_writing_is_deterministic_and_overwrites(tmp_path):
    mask = Mask(rng.integers(0, 3, (5, 4, 3)).astype(np.uint8), Grid((5, 4, 3), affine_of(0)))
    contents = []
    for _ in range(2):
        write_mask(tmp_path / "mask.nii.gz", mask, Source("dicom", ()))
        contents.append((tmp_path / "mask.nii.gz").read_bytes())
    assert contents[0] == contents[1]
    assert [path.name for path in tmp_path.iterdir()] == ["mask.nii.gz"]


def test_what_reads_back_differently_is_not_left_behind(tmp_path, monkeypatch):
    from medseg.io import nifti

    write = nifti._write_file
    monkeypatch.setattr(nifti, "_write_file", lambda path, fields, array, *rest: write(path, fields, array * 0, *rest))
    mask = Mask(np.ones((5, 4, 3), np.uint8), Grid((5, 4, 3), affine_of(0)))
    with pytest.raises(OutputError, match="reads back differently"):
        write_mask(tmp_path / "mask.nii.gz", mask, Source("dicom", ()))
    assert not list(tmp_path.iterdir())


# Volumes -----------------------------------------------------------------------------------------------------


def test_whole_numbers_are_stored_as_int16_and_others_as_float32(tmp_path):
    grid = Grid((4, 3, 2), affine_of(0))
    for array, stored in ((np.full((1, 4, 3, 2), -1024), np.int16), (np.full((1, 4, 3, 2), 0.5), np.float32),
                          (np.full((1, 4, 3, 2), 40000), np.float32)):  # fmt: skip
        volume = Volume(array.astype(np.float32), grid)
        write_volume(tmp_path / "scan.nii.gz", volume)
        assert nib.load(tmp_path / "scan.nii.gz").get_data_dtype() == stored
        np.testing.assert_array_equal(read_nifti(tmp_path / "scan.nii.gz").array, volume.array)


def test_channels_become_the_fourth_axis(tmp_path):
    volume = Volume(rng.random((3, 4, 3, 2)).astype(np.float32), Grid((4, 3, 2), affine_of(0)))
    write_volume(tmp_path / "scan.nii.gz", volume)
    assert nib.load(tmp_path / "scan.nii.gz").shape == (4, 3, 2, 3)
    np.testing.assert_array_equal(read_nifti(tmp_path / "scan.nii.gz", channels_last=True).array, volume.array)


def test_long_axes_need_nifti_2(tmp_path):
    volume = Volume(np.zeros((1, 40000, 1, 1), np.float32), Grid((40000, 1, 1), np.eye(4)))
    write_volume(tmp_path / "scan.nii.gz", volume)
    assert type(nib.load(tmp_path / "scan.nii.gz")) is nib.Nifti2Image
    assert read_nifti(tmp_path / "scan.nii.gz").grid.matches(volume.grid)


def test_sheared_volume_has_no_qform(tmp_path):
    volume = Volume(np.zeros((1, 4, 3, 2), np.float32), Grid((4, 3, 2), affine_of(0, shear=0.3)))
    write_volume(tmp_path / "scan.nii.gz", volume)
    assert nib.load(tmp_path / "scan.nii.gz").header["qform_code"] == 0
