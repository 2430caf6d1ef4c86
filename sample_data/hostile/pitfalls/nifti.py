"""NIfTI: contradictory places, headers that lie, streams that end early, values that are none."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from pitfalls.judge import corners_of
from pitfalls.registry import Truth, pitfall, ramp

SHAPE = (24, 20, 12)
AFFINE = np.array([[-1.0, 0, 0, 11], [0, -1.5, 0, 14], [0, 0, 2.5, -30], [0, 0, 0, 1]])
SHEARED = AFFINE + np.array([[0, 0, 0.4, 0], [0, 0, -0.7, 0], [0, 0, 0, 0], [0, 0, 0, 0]])
Header = nib.Nifti1Header


@pitfall("right")
def nifti_plain(folder: Path) -> list[Truth]:
    """Nothing is wrong with this one: the others differ from it by one thing each."""
    return save(folder / "scan.nii.gz")


@pitfall("right")
def nifti_not_compressed_as_named(folder: Path) -> list[Truth]:
    """A file named .nii is compressed, and one named .nii.gz is not."""
    truths = save(folder / "a.nii") + save(folder / "b.nii")
    (folder / "a.nii").write_bytes(gzip.compress((folder / "a.nii").read_bytes(), mtime=0))
    (folder / "b.nii").rename(folder / "b.nii.gz")
    return truths


@pitfall("right")
def nifti_big_endian(folder: Path) -> list[Truth]:
    """The file is big endian."""
    image = image_of().as_reoriented([[0, 1], [1, 1], [2, 1]])
    nib.Nifti1Image(image.dataobj, image.affine, image.header.as_byteswapped(">")).to_filename(folder / "scan.nii")
    return [truth()]


@pitfall("right")
def nifti_pair(folder: Path) -> list[Truth]:
    """Header and voxels are two files."""
    nib.save(nib.Nifti1Pair(voxels(), AFFINE), folder / "scan.hdr")
    return [truth()]


@pitfall("UNREADABLE")
def nifti_half_a_pair(folder: Path) -> list[Truth]:
    """Of a pair, the voxels' file is gone."""
    nib.save(nib.Nifti1Pair(voxels(), AFFINE), folder / "scan.hdr")
    (folder / "scan.img").unlink()
    return [truth()]


@pitfall("right")
def nifti_second_version(folder: Path) -> list[Truth]:
    """The file is NIfTI-2."""
    nib.save(nib.Nifti2Image(voxels(), AFFINE), folder / "scan.nii.gz")
    return [truth()]


@pitfall("right", flags=("NONORTHONORMAL_AFFINE",))
def nifti_sheared(folder: Path) -> list[Truth]:
    """The sform is sheared, which ITK refuses."""
    return save(folder / "scan.nii", lambda header: header.set_qform(None, 0), affine=SHEARED)


@pitfall("right", flags=("NONORTHONORMAL_AFFINE", "QFORM_SFORM_DISAGREE"))
def nifti_sheared_with_qform(folder: Path) -> list[Truth]:
    """The sform is sheared and a qform is there, too: ITK takes it without a word."""
    return save(folder / "scan.nii", lambda header: header.set_qform(AFFINE, 1), affine=SHEARED)


@pitfall("right", flags=("QFORM_SFORM_DISAGREE",))
def nifti_forms_disagree(folder: Path) -> list[Truth]:
    """The qform lies 50 mm from the sform, which goes first."""
    moved = AFFINE + np.array([[0, 0, 0, 50], [0, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]])
    return save(folder / "scan.nii", lambda header: header.set_qform(moved, 1))


@pitfall("right")
def nifti_qform_only(folder: Path) -> list[Truth]:
    """Only the qform is coded, with a quaternion of a left-handed grid (qfac -1); the sform holds noise."""

    def change(header: Header) -> None:
        header.set_qform(AFFINE, 1)
        header["sform_code"], header["srow_x"] = 0, (9, 8, 7, 6)

    return save(folder / "scan.nii", change)


@pitfall("NO_SPATIAL_CODES")
def nifti_no_codes(folder: Path) -> list[Truth]:
    """Both codes are 0: nothing says how the voxels lie in space."""

    def change(header: Header) -> None:
        header["sform_code"] = header["qform_code"] = 0

    return save(folder / "scan.nii", change)


@pitfall("BAD_ORIENTATION")
def nifti_singular(folder: Path) -> list[Truth]:
    """The sform sends all slices to one place."""
    return save(folder / "scan.nii", _put("srow_z", (0, 0, 0, -30)))


@pitfall("BAD_ORIENTATION")
def nifti_place_not_a_number(folder: Path) -> list[Truth]:
    """The sform holds NaN."""
    return save(folder / "scan.nii", _put("srow_y", (0, np.nan, 0, 14)))


@pitfall("right")
def nifti_in_metres(folder: Path) -> list[Truth]:
    """Lengths are in metres, and the header says so."""

    def change(header: Header) -> None:
        header.set_sform(np.diag([1e-3, 1e-3, 1e-3, 1]) @ AFFINE, 1)
        header["pixdim"][1:4] = np.array([1, 1.5, 2.5]) / 1000
        header["qform_code"] = 0
        header.set_xyzt_units("meter")

    return save(folder / "scan.nii", change)


@pitfall("NOT_3D")
def nifti_four_dimensions(folder: Path) -> list[Truth]:
    """The file holds a time series of three volumes."""
    nib.save(nib.Nifti1Image(np.stack([voxels()] * 3, axis=3), AFFINE), folder / "scan.nii.gz")
    return [truth()] * 3


@pitfall("right")
def nifti_fourth_dimension_of_one(folder: Path) -> list[Truth]:
    """The file says four dimensions, the fourth of which has one step."""
    nib.save(nib.Nifti1Image(voxels()[..., None], AFFINE), folder / "scan.nii.gz")
    return [truth()]


@pitfall("NOT_FINITE")
def nifti_not_a_number(folder: Path) -> list[Truth]:
    """A voxel is NaN."""
    return save(folder / "scan.nii.gz", spoilt=np.nan)


@pitfall("NOT_FINITE")
def nifti_infinite(folder: Path) -> list[Truth]:
    """A voxel is infinite."""
    return save(folder / "scan.nii.gz", spoilt=-np.inf)


@pitfall("right")
def nifti_scaled(folder: Path) -> list[Truth]:
    """Stored values become HU by scl_slope and scl_inter."""
    stored = np.rint((voxels() + 1024) * 2).astype(np.uint16)
    image = nib.Nifti1Image(stored, AFFINE)
    image.header.set_slope_inter(0.5, -1024)
    nib.save(image, folder / "scan.nii.gz")
    patch(folder / "scan.nii.gz", _scaling(0.5, -1024), stored)
    return [truth()]


@pitfall("UNREADABLE")
def nifti_scaled_by_nothing(folder: Path) -> list[Truth]:
    """scl_slope is 2, scl_inter is NaN."""
    truths = save(folder / "scan.nii")
    patch(folder / "scan.nii", _scaling(2, np.nan))
    return truths


@pitfall("TRUNCATED")
def nifti_claims_more(folder: Path) -> list[Truth]:
    """The field dim claims 120 slices where the file has 12."""
    return _claiming(folder, 3, 120)


@pitfall("UNREADABLE")
def nifti_claims_a_terabyte(folder: Path) -> list[Truth]:
    """The field dim claims 32767 voxels along each axis."""
    truths = save(folder / "scan.nii")
    patch(folder / "scan.nii", _put("dim", (3, 32767, 32767, 32767, 1, 1, 1, 1)))
    return truths


@pitfall("UNREADABLE")
def nifti_starts_at_infinity(folder: Path) -> list[Truth]:
    """The voxels are said to begin at an infinite byte."""
    truths = save(folder / "scan.nii")
    patch(folder / "scan.nii", _put("vox_offset", np.inf))
    return truths


@pitfall("UNREADABLE")
def nifti_negative_size(folder: Path) -> list[Truth]:
    """The field dim claims -12 slices."""
    return _claiming(folder, 3, -12)


@pitfall("TRUNCATED")
def nifti_gz_cut_short(folder: Path) -> list[Truth]:
    """The compressed stream ends early: an incomplete copy."""
    truths = save(folder / "scan.nii.gz")
    content = (folder / "scan.nii.gz").read_bytes()
    (folder / "scan.nii.gz").write_bytes(content[: len(content) * 2 // 3])
    return truths


@pitfall("UNREADABLE")
def nifti_gz_damaged(folder: Path) -> list[Truth]:
    """A byte in the middle of the compressed stream was changed: its checksum fails."""
    truths = save(folder / "scan.nii.gz")
    content = bytearray((folder / "scan.nii.gz").read_bytes())
    content[-8] ^= 0xFF
    (folder / "scan.nii.gz").write_bytes(content)
    return truths


@pitfall("UNSUPPORTED_PIXELS")
def nifti_complex(folder: Path) -> list[Truth]:
    """Voxels are complex numbers."""
    nib.save(nib.Nifti1Image(voxels().astype(np.complex64), AFFINE), folder / "scan.nii")
    return [truth()]


@pitfall("NO_SPATIAL_CODES")
def nifti_is_analyze(folder: Path) -> list[Truth]:
    """The pair is in the old Analyze format, which can't tell left from right."""
    nib.save(nib.AnalyzeImage(voxels(), AFFINE), folder / "scan.hdr")
    return [truth()]


@pitfall("NOT_A_SCAN")
def nifti_by_name_only(folder: Path) -> list[Truth]:
    """A text file is named scan.nii.gz."""
    (folder / "scan.nii.gz").write_bytes(gzip.compress(b"no scan at all " * 100, mtime=0))
    return [truth()]


def voxels(affine: NDArray[np.float64] = AFFINE) -> NDArray[np.int16]:
    """Return whole HU on the grid."""
    index = np.stack(np.meshgrid(*map(np.arange, SHAPE), indexing="ij"), axis=-1)
    return np.rint(ramp(index @ affine[:3, :3].T + affine[:3, 3])).astype(np.int16)


def truth(affine: NDArray[np.float64] = AFFINE) -> Truth:
    """Return what a scan on the grid must give."""
    return Truth(corners_of(SHAPE, affine))


def image_of(affine: NDArray[np.float64] = AFFINE) -> nib.Nifti1Image:
    """Return a sound image."""
    return nib.Nifti1Image(voxels(affine), affine)


def save(
    path: Path,
    change: Callable[[Header], object] = lambda header: None,
    *,
    affine: NDArray[np.float64] = AFFINE,
    spoilt: float | None = None,
) -> list[Truth]:
    """Write a scan whose header was changed last of all; `spoilt` replaces one of its voxels."""
    values = voxels(affine).astype(np.float32)
    if spoilt is None:
        values = voxels(affine)
    else:
        values[3, 4, 5] = spoilt
    nib.save(nib.Nifti1Image(values, affine), path)
    patch(path, change, values)
    return [truth(affine)]


def patch(path: Path, change: Callable[[Header], object], values: NDArray | None = None) -> None:
    """Change the header in place, past every check of nibabel."""
    content = path.read_bytes()
    packed = content[:2] == b"\x1f\x8b"
    raw = gzip.decompress(content) if packed else content
    header = Header(raw[:348], check=False)
    change(header)
    raw = header.binaryblock + raw[348:]
    path.write_bytes(gzip.compress(raw, mtime=0) if packed else raw)


def _put(field: str, value: object) -> Callable[[Header], None]:
    def change(header: Header) -> None:
        header[field] = value

    return change


def _scaling(slope: float, intercept: float) -> Callable[[Header], None]:
    def change(header: Header) -> None:
        header["scl_slope"], header["scl_inter"] = slope, intercept

    return change


def _claiming(folder: Path, axis: int, size: int) -> list[Truth]:
    truths = save(folder / "scan.nii")

    def change(header: Header) -> None:
        header["dim"][axis] = size

    patch(folder / "scan.nii", change)
    return truths
