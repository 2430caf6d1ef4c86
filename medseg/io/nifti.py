"""Read scans and masks from NIfTI files, and write them.

Read are NIfTI-1 and NIfTI-2, ``.nii``, ``.nii.gz`` and ``.hdr/.img`` pairs, in either byte order. Refused
are files that can't be placed in space, are cut short, fail their checksum, or hold NaN: a wrong volume
is never returned. A mask is written with the header of its scan, so that every viewer lays it exactly
on the scan, whichever of qform and sform that viewer believes.
"""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from medseg.config import IngestConfig
from medseg.errors import GeometryError, LabelError, ReasonCode, ScanError, UnsupportedScanError
from medseg.geometry import Grid
from medseg.io.files import atomic_file, read_back_error
from medseg.io.findings import Findings
from medseg.io.header import ScanHeader
from medseg.io.label_tables import caret_table
from medseg.io.nibabel_alone import nib
from medseg.io.nifti_header import NiftiHeader, forms_agree, grid_of, read_nifti_header
from medseg.io.streams import CorruptFileError, ShortFileError, compressed, read_into
from medseg.labels import LabelMap
from medseg.volume import Mask, Source, Volume

INTEGRAL_TOLERANCE = 1e-3
"""Largest distance from a whole number that a mask stored as float or scaled may show."""

INT16 = np.iinfo(np.int16)

COPIED_FIELDS = (
    "pixdim", "xyzt_units", "qform_code", "sform_code", "quatern_b", "quatern_c", "quatern_d",
    "qoffset_x", "qoffset_y", "qoffset_z", "srow_x", "srow_y", "srow_z",
)  # fmt: skip
"""What a mask takes over from its scan's header: geometry and units. Free text stays behind."""


def inspect_nifti(path: Path, *, channels_last: bool = False, policy: IngestConfig | None = None) -> ScanHeader:
    """Return what reading the scan would give, from its header alone.

    Raises
    ------
    ScanError
        As `read_nifti`, as far as a header shows it.
    """
    header = read_nifti_header(path)
    channels = _channels(header, channels_last=channels_last)
    findings = Findings(policy or IngestConfig())
    grid = _judged(header, findings)
    return ScanHeader(grid, channels, "", tuple(findings.flags), tuple(findings.repairs))


def read_nifti(path: Path, *, channels_last: bool = False, policy: IngestConfig | None = None) -> Volume:
    """Read a scan as float32, with the file's scaling applied.

    Parameters
    ----------
    path : the file; of a pair, either one.
    channels_last : take the fourth (or fifth) axis as channels instead of refusing it.
    policy : what is done about faults; default: `IngestConfig`'s defaults.

    Returns
    -------
    Volume
        (C, X, Y, Z) in the file's own axis order; in memory X varies fastest, as on disk.

    Raises
    ------
    ScanError
        With the reason code: `NOT_3D`, `NOT_FINITE`, `TRUNCATED`, `UNREADABLE`, `UNSUPPORTED_PIXELS`,
        `NO_SPATIAL_CODES`, `BAD_ORIENTATION`, `NOT_A_SCAN`.
    """
    header = read_nifti_header(path)
    channels = _channels(header, channels_last=channels_last)
    findings = Findings(policy or IngestConfig())
    grid = _judged(header, findings)
    values = _to_float(_read_values(header), *header.scaling())
    if not (np.isfinite(values.min()) and np.isfinite(values.max())):
        _make_finite(values, header.name, findings)
    array = values.reshape((*grid.shape, channels), order="F").transpose(3, 0, 1, 2)
    for channel in array:
        findings.check_values(channel, "", header.name)
    return Volume(array, grid, "", tuple(findings.flags), tuple(findings.repairs))


def read_mask(path: Path, *, policy: IngestConfig | None = None) -> Mask:
    """Read a label map; values stored as float are accepted where they are whole numbers.

    Parameters
    ----------
    policy : says whether it may leave open how it lies in space; None: it may, as a mask of a scan that does, because
        its grid is compared with the scan's.

    Raises
    ------
    LabelError
        If a value is negative, above 65535, not whole, or not a number.
    ScanError
        As `read_nifti`.
    """
    header = read_nifti_header(path)
    _channels(header, channels_last=False)
    if policy:
        _check_codes(header, Findings(policy))
    grid = grid_of(header)
    stored = _read_values(header)
    if stored.dtype.kind == "f" or header.scaling() != (1.0, 0.0):
        stored = _to_whole(_to_float(stored, *header.scaling()), header.name)
    low, high = int(stored.min()), int(stored.max())
    if low < 0 or high > 65535:
        raise LabelError(f"{header.name} holds the value {low if low < 0 else high}; a mask's values are 0 to 65535")
    labels = stored.reshape(grid.shape, order="F")
    if high <= 255:
        return Mask(labels.astype(np.uint8, copy=False), grid)
    return Mask(labels.astype(np.uint16, copy=False), grid)


def write_mask(path: Path, mask: Mask, source: Source, labels: LabelMap | None = None) -> None:
    """Write a mask so that it lies exactly on its scan, read it back and compare.

    A NIfTI source hands on its affines, codes and units as they are, sheared or contradictory ones
    included; its free text and extensions, which may name a patient, stay behind. For a DICOM source
    both codes are 1 (scanner) and the unit is mm. The file is NIfTI-1 wherever its sizes allow.

    Parameters
    ----------
    path : target, ending in .nii.gz or .nii.
    mask : on the grid of `source`.
    source : the scan that the mask belongs to.
    labels : written as TotalSegmentator's header extension, so that programs that know it show names.

    Raises
    ------
    GeometryError
        If the mask is not on the source's grid.
    OutputError
        If the file can't be written, or what was written is not what was meant.
    """
    if source.kind == "nifti":
        fields = _header_of_scan(read_nifti_header(source.files[0]), mask)
    else:
        fields = _placed_header(mask.grid, mask.array.shape, mask.array.dtype)
    fields.set_intent("label", name="")
    extension = _extension(caret_table(labels)) if labels else b""
    fields["vox_offset"] = int(fields["vox_offset"]) + len(extension)
    with atomic_file(path) as temporary:
        _write_file(temporary, fields, mask.array, extension)
        _verify(temporary, mask.array, fields, mask.grid, path)


def write_volume(path: Path, volume: Volume) -> None:
    """Write a scan as NIfTI, int16 where that is exact and float32 elsewhere, codes 1, unit mm.

    Several channels become the fourth axis. A sheared grid is written with its sform alone, because a
    qform can't say it.

    Raises
    ------
    OutputError
        If the file can't be written, or what was written is not what was meant.
    """
    array = volume.array.transpose(1, 2, 3, 0)
    if volume.channels == 1:
        array = array[..., 0]
    exact = bool(INT16.min <= array.min() and array.max() <= INT16.max and (array == np.rint(array)).all())
    stored = array.astype(np.int16) if exact else array
    fields = _placed_header(volume.grid, stored.shape, stored.dtype)
    with atomic_file(path) as temporary:
        _write_file(temporary, fields, stored)
        _verify(temporary, stored, fields, volume.grid, path)


def nifti_bytes(array: NDArray, grid: Grid, *, slope: float = 1.0, intercept: float = 0.0) -> bytes:
    """Return a compressed NIfTI file, for a program that takes it from memory.

    Parameters
    ----------
    array : (X, Y, Z) on the grid, of a type that NIfTI has.
    slope, intercept : a value means ``value * slope + intercept``.
    """
    fields = _placed_header(grid, array.shape, array.dtype)
    fields["scl_slope"], fields["scl_inter"] = slope, intercept
    return compressed(_content(fields, array))


def _channels(header: NiftiHeader, *, channels_last: bool) -> int:
    shape = header.shape
    if len(shape) == 3:
        return 1
    extra = shape[3:]
    if channels_last and max(extra) == np.prod(extra):  # ITK writes channels as the fifth axis: (X, Y, Z, 1, C)
        return int(max(extra))
    raise UnsupportedScanError(
        ReasonCode.NOT_3D,
        f"{header.name} has {len(shape)} dimensions, {'x'.join(map(str, shape))}; a scan has three. Split a time "
        "series into its volumes; channels along the fourth axis are for models that take as many",
    )


def _judged(header: NiftiHeader, findings: Findings) -> Grid:
    """Return where a scan lies, noting what is odd about it."""
    _check_codes(header, findings)
    grid = grid_of(header)
    findings.check_axes(grid, f"{header.name} has")
    if not forms_agree(header):
        findings.note(
            ReasonCode.QFORM_SFORM_DISAGREE,
            f"{header.name} gives two places for the scan: its qform (or voxel sizes) and its sform disagree",
        )
    return grid


def _check_codes(header: NiftiHeader, findings: Findings) -> None:
    if not header.has_codes:
        findings.note(
            ReasonCode.NO_SPATIAL_CODES,
            f"{header.name} does not say how it lies in space (qform_code and sform_code are 0); "
            "left and right would be a guess. Convert the scan again from its source",
        )


def _make_finite(values: NDArray[np.float32], name: str, findings: Findings) -> None:
    """Replace what is no number by the smallest that is one."""
    wrong = ~np.isfinite(values)
    count = np.count_nonzero(wrong)
    message = f"{name} holds voxels that are NaN or infinite, {count} of {values.size}; repair the scan"
    if count == values.size:
        raise ScanError(ReasonCode.NOT_FINITE, message)
    findings.note(ReasonCode.NOT_FINITE, message, f"set {count} voxels that were no numbers to the smallest value")
    values[wrong] = values[~wrong].min()


def _read_values(header: NiftiHeader) -> NDArray:
    """Return the stored values, flat, native byte order, as the file orders them (X fastest)."""
    values = np.empty(int(np.prod(header.shape)), dtype=header.dtype)
    try:
        read_into(header.data_file, header.offset, values.view(np.uint8).data)
    except ShortFileError:
        raise ScanError(
            ReasonCode.TRUNCATED, f"{header.name} ends before its last voxel; the copy is incomplete, copy it again"
        ) from None
    except CorruptFileError as error:
        raise UnsupportedScanError(
            ReasonCode.UNREADABLE, f"{header.name} can't be read: {error}; copy it again"
        ) from None
    except OSError as error:
        raise UnsupportedScanError(ReasonCode.UNREADABLE, f"{header.name} can't be read: {error.strerror}") from None
    if not values.dtype.isnative:
        values = values.byteswap(inplace=True).view(values.dtype.newbyteorder("="))
    return values


def _to_float(values: NDArray, slope: float, intercept: float) -> NDArray[np.float32]:
    """Scale to float32; wide types are scaled in float64 first, a part at a time."""
    if values.dtype == np.float32 or values.dtype.itemsize <= 2:
        scaled = values.astype(np.float32, copy=False)
        if slope != 1.0:
            scaled *= np.float32(slope)
        if intercept != 0.0:
            scaled += np.float32(intercept)
        return scaled
    result = np.empty(values.shape, dtype=np.float32)
    part = 1 << 20
    with np.errstate(over="ignore"):  # what float32 can't hold becomes infinite and is refused as such
        for start in range(0, len(values), part):
            result[start : start + part] = values[start : start + part].astype(np.float64) * slope + intercept
    return result


def _to_whole(values: NDArray[np.float32], name: str) -> NDArray[np.int64]:
    whole = np.rint(values)
    with np.errstate(invalid="ignore"):
        wrong = ~((np.abs(values - whole) <= INTEGRAL_TOLERANCE) & (whole >= 0) & (whole <= 65535))
    if wrong.any():
        raise LabelError(f"{name} holds the value {values[wrong][0]:g}; a mask holds whole numbers from 0 to 65535")
    return whole.astype(np.int64)


def _new_header(shape: tuple[int, ...], dtype: np.dtype) -> nib.Nifti1Header:
    kind: type[nib.Nifti1Header] = nib.Nifti1Header if max(shape) <= INT16.max else nib.Nifti2Header
    fields = kind(endianness="<")
    fields.set_data_shape(shape)
    fields.set_data_dtype(dtype)
    fields["scl_slope"], fields["scl_inter"] = 1.0, 0.0
    fields["vox_offset"] = int(fields["sizeof_hdr"]) + 4
    return fields


def _header_of_scan(scan: NiftiHeader, mask: Mask) -> nib.Nifti1Header:
    """Return a header that places a mask as its scan's does; raises `GeometryError` if it lies elsewhere."""
    expected = grid_of(scan)
    if not mask.grid.matches(expected):
        raise GeometryError(
            ReasonCode.GRID_MISMATCH,
            f"the mask ({mask.grid.describe()}) is not on the grid of {scan.name} ({expected.describe()})",
        )
    fields = _new_header(mask.array.shape, mask.array.dtype)
    for name in COPIED_FIELDS:
        fields[name] = scan.fields[name]
    if scan.flat and fields["sform_code"]:  # whose third direction may be missing, and was added
        for row, name in enumerate(("srow_x", "srow_y", "srow_z")):
            fields[name][2] = expected.affine[row, 2]
    return fields


def _placed_header(grid: Grid, shape: tuple[int, ...], dtype: np.dtype) -> nib.Nifti1Header:
    fields = _new_header(shape, dtype)
    fields.set_xyzt_units("mm")
    fields.set_sform(grid.affine, code=1)
    if grid.is_orthogonal:
        fields.set_qform(grid.affine, code=1)
    else:
        fields["pixdim"][1:4] = grid.spacing
    return fields


def _extension(content: bytes) -> bytes:
    """Return a header extension of code 0: its size, a multiple of 16, and text padded with what XML allows."""
    size = -(-(len(content) + 8) // 16) * 16
    return struct.pack("<ii", size, 0) + content.ljust(size - 8)


def _write_file(path: Path, fields: nib.Nifti1Header, array: NDArray, extension: bytes = b"") -> None:
    content = _content(fields, array, extension)
    path.write_bytes(compressed(content) if path.name.lower().endswith(".gz") else content)


def _content(fields: nib.Nifti1Header, array: NDArray, extension: bytes = b"") -> bytes:
    order = array.dtype.newbyteorder("<")
    flag = bytes([bool(extension), 0, 0, 0])
    return fields.binaryblock + flag + extension + array.astype(order, copy=False).tobytes(order="F")


def _verify(written: Path, array: NDArray, fields: nib.Nifti1Header, grid: Grid, target: Path) -> None:
    """Compare the file on disk with what was meant; an unnoticed misplacement is the worst outcome."""
    header = read_nifti_header(written)
    same_values = np.array_equal(_read_values(header), array.reshape(-1, order="F"))
    if not same_values or header.fields != fields or not grid_of(header).matches(grid):
        raise read_back_error(target)
