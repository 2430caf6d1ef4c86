"""NIfTI headers: which files belong to a scan, what they claim, and where the voxels lie.

Only the fixed header is parsed; extensions, which may hold anything about a patient, are never read.
"""

from __future__ import annotations

import logging
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from medseg.errors import GeometryError, ReasonCode, ScanError, UnsupportedScanError
from medseg.geometry import Grid
from medseg.io.nibabel_alone import nib
from medseg.io.streams import CorruptFileError, may_hold, read_head

NIFTI_ENDINGS = (".nii", ".nii.gz", ".hdr", ".img", ".hdr.gz", ".img.gz")

ONE_FILE_ENDINGS = (".nii.gz", ".nii")
"""Of files that hold header and voxels; masks that are handed in or compared are such."""

HEADER_BYTES = {348: nib.Nifti1Header, 540: nib.Nifti2Header}
"""Length of the fixed header, which is also its first field, for NIfTI-1 and NIfTI-2."""

PIXEL_TYPES = {
    2: "u1", 4: "i2", 8: "i4", 16: "f4", 64: "f8", 256: "i1", 512: "u2", 768: "u4", 1024: "i8", 1280: "u8",
}  # fmt: skip
"""NIfTI datatype codes of real numbers; complex, colour and 128-bit types are not scans."""

UNIT_MM = {1: 1000.0, 2: 1.0, 3: 0.001}
"""Millimetres in NIfTI's spatial units metre, millimetre, micrometre; unknown counts as millimetre."""

DICOM_MARK, DICOM_MARK_AT = b"DICM", 128
"""What a DICOM file says at which byte: some programs name all files alike."""

MAX_VALUES = 1 << 31
"""Most voxel values of one scan (8 GiB as float32; a whole-body CT of 512x512x2000 has a quarter)."""

QFORM_TOLERANCE = 2e-3
"""Largest relative difference of an axis step between qform and sform that is only rounding.

The qform's float32 quaternion leaves up to 1e-3 rad undetermined near half turns, which every LPS image is."""

OFFSET_TOLERANCE_MM = 0.01
"""Largest difference of the first voxel's position between qform and sform that is only rounding."""

_SILENT = logging.Logger("medseg.io.nifti")
_SILENT.addHandler(logging.NullHandler())


@dataclass(frozen=True, slots=True, eq=False)
class NiftiHeader:
    """The parsed header of one scan.

    Attributes
    ----------
    fields : nibabel's header, used for its affine arithmetic only.
    data_file : file of the voxels (the header's own file, except for pairs).
    shape : sizes as in the file, trailing sizes of 1 beyond the third removed, at least three.
    flat : whether the file is two-dimensional (its third size was added).
    """

    fields: nib.Nifti1Header
    data_file: Path
    shape: tuple[int, ...]
    flat: bool

    @property
    def name(self) -> str:
        """File name for messages."""
        return self.data_file.name

    @property
    def dtype(self) -> np.dtype:
        """Numpy type of the stored values, in the file's byte order."""
        return np.dtype(PIXEL_TYPES[int(self.fields["datatype"])]).newbyteorder(self.fields.endianness)

    @property
    def offset(self) -> int:
        """Byte position of the first voxel in the (decompressed) data file."""
        return int(self.fields["vox_offset"])

    @property
    def has_codes(self) -> bool:
        """Whether the header says how it lies in space at all."""
        return int(self.fields["sform_code"]) > 0 or int(self.fields["qform_code"]) > 0

    def scaling(self) -> tuple[float, float]:
        """Return slope and intercept of the stored values; (1, 0) where none is set."""
        slope, intercept = float(self.fields["scl_slope"]), float(self.fields["scl_inter"])
        if slope == 0 or not np.isfinite(slope):
            return 1.0, 0.0
        if not np.isfinite(intercept):
            raise UnsupportedScanError(
                ReasonCode.UNREADABLE, f"{self.name} has a scl_slope but its scl_inter is {intercept}; repair the file"
            )
        return slope, intercept


def split_ending(name: str) -> tuple[str, str]:
    """Return a file's name without its NIfTI ending, and the ending in small letters; "" if it has none.

    Examples
    --------
    >>> split_ending("liver_3.NII.gz"), split_ending("series.7")
    (('liver_3', '.nii.gz'), ('series.7', ''))
    """
    ending = next((ending for ending in NIFTI_ENDINGS if name.lower().endswith(ending)), "")
    return name[: len(name) - len(ending)], ending


def scan_files(path: Path) -> tuple[Path, Path]:
    """Return the header file and the voxel file of a NIfTI scan (the same one, except for pairs)."""
    name = path.name.lower()
    for ours, theirs in ((".hdr", ".img"), (".img", ".hdr")):
        for packed in ("", ".gz"):
            if not name.endswith(ours + packed):
                continue
            stem = path.name[: -len(ours + packed)]
            twins = [path.with_name(stem + ending + end) for ending in (theirs, theirs.upper()) for end in ("", ".gz")]
            twin = next((twin for twin in twins if twin.exists()), None)
            if twin is None:
                with suppress(OSError, CorruptFileError):  # told when it is read
                    _refuse_dicom(read_head(path, DICOM_MARK_AT + len(DICOM_MARK)), path.name)
                raise UnsupportedScanError(
                    ReasonCode.UNREADABLE, f"{path.name} has no {theirs} file beside it; a NIfTI pair needs both"
                )
            return (path, twin) if ours == ".hdr" else (twin, path)
    return path, path


def read_nifti_header(path: Path) -> NiftiHeader:
    """Parse and check the header of a NIfTI-1 or NIfTI-2 file or pair.

    Raises
    ------
    ScanError
        `NOT_A_SCAN` for other content, `UNREADABLE` for contradictory fields, `UNSUPPORTED_PIXELS`,
        `TRUNCATED` where the voxel file is too small for its header, `NOT_3D` for a single line.
    """
    header_file, data_file = scan_files(path)
    try:
        raw = read_head(header_file, 540)
    except CorruptFileError as error:
        raise UnsupportedScanError(ReasonCode.UNREADABLE, f"{header_file.name} can't be read: {error}") from None
    except OSError as error:
        raise _unreadable(header_file, error) from None
    fields = _parse(raw, header_file.name)
    count = int(fields["dim"][0])
    sizes = [int(size) for size in fields["dim"][1 : count + 1]]
    if not 1 <= count <= 7 or min(sizes) < 1:
        raise UnsupportedScanError(
            ReasonCode.UNREADABLE,
            f"{header_file.name} has impossible sizes {sizes} in {count} dimensions; the file is damaged",
        )
    if count == 1:
        raise UnsupportedScanError(ReasonCode.NOT_3D, f"{header_file.name} holds one line of values, not an image")
    while len(sizes) > 3 and sizes[-1] == 1:
        sizes.pop()
    header = NiftiHeader(fields, data_file, tuple(sizes + [1] * (3 - len(sizes))), flat=count == 2)
    try:
        _check_pixels(header, is_pair=header_file != data_file)
    except OSError as error:  # of a pair, the other file
        raise _unreadable(data_file, error) from None
    return header


def grid_of(header: NiftiHeader) -> Grid:
    """Return the grid in mm, RAS+: sform where coded, else qform, else nibabel's centred guess.

    A two-dimensional file gives one slice along the normal of its plane.
    """
    with np.errstate(all="ignore"):  # bits that are no numbers are refused by Grid
        affine = _best_affine(header)
    if header.flat and np.linalg.norm(affine[:3, 2]) == 0:
        normal = np.cross(affine[:3, 0], affine[:3, 1])
        affine[:3, 2] = normal / (np.linalg.norm(normal) or 1.0)
    affine[:3] *= _unit_mm(header)
    try:
        x, y, z = header.shape[:3]
        return Grid((x, y, z), affine)
    except GeometryError as error:
        raise GeometryError(error.code, f"{header.name} can't be placed in space: {error}") from None


def forms_agree(header: NiftiHeader) -> bool:
    """Whether qform and voxel sizes say the same as the sform, which is believed where it is coded."""
    with np.errstate(all="ignore"):  # the form that is not used may hold any bits; such bits disagree
        return int(header.fields["sform_code"]) == 0 or _forms_agree(header)


def _parse(raw: bytes, name: str) -> nib.Nifti1Header:
    for order, endianness in (("little", "<"), ("big", ">")):
        length = int.from_bytes(raw[:4], order)  # type: ignore[arg-type]
        if length in HEADER_BYTES and len(raw) >= length:
            kind: type[nib.Nifti1Header] = HEADER_BYTES[length]
            fields = kind(raw[:length], endianness, check=False)
            if bytes(fields["magic"])[:3] not in (b"n+1", b"ni1", b"n+2", b"ni2"):
                raise UnsupportedScanError(
                    ReasonCode.NO_SPATIAL_CODES,
                    f"{name} is in the old Analyze format, which can't tell left from right; convert the scan to NIfTI",
                )
            break
    else:
        _refuse_dicom(raw, name)
        code = ReasonCode.TRUNCATED if 0 < len(raw) < 348 else ReasonCode.NOT_A_SCAN
        raise UnsupportedScanError(code, f"{name} has no NIfTI header in its first {len(raw)} bytes")
    _check_voxel_sizes(fields, name)
    try:
        fields.check_fix(logger=_SILENT, error_level=40)
    except (nib.spatialimages.HeaderDataError, ValueError, OverflowError) as error:  # infinite where a byte is named
        raise UnsupportedScanError(
            ReasonCode.UNREADABLE, f"{name} has a contradictory NIfTI header ({error}); the file is damaged"
        ) from None
    return fields


def _unreadable(file: Path, error: OSError) -> ScanError:
    return UnsupportedScanError(ReasonCode.UNREADABLE, f"{file.name} can't be read: {error.strerror}")


def _refuse_dicom(head: bytes, name: str) -> None:
    if head[DICOM_MARK_AT:].startswith(DICOM_MARK):
        raise UnsupportedScanError(
            ReasonCode.NOT_A_SCAN, f"{name} is a DICOM file that is named like NIfTI; rename it, such as to .dcm"
        )


def _check_voxel_sizes(fields: nib.Nifti1Header, name: str) -> None:
    """Refuse sizes that are not positive where no sform says them; nibabel takes 1 for 0, ITK 1 for -2."""
    if int(fields["sform_code"]) > 0:
        return
    sizes = [float(size) for size, voxels in zip(fields["pixdim"][1:4], fields["dim"][1:4], strict=True) if voxels > 1]
    if not all(size > 0 for size in sizes):
        raise GeometryError(
            ReasonCode.BAD_ORIENTATION,
            f"{name} gives voxel sizes of {', '.join(f'{size:g}' for size in sizes)} and no sform; "
            "convert the scan again from its source",
        )


def _check_pixels(header: NiftiHeader, *, is_pair: bool) -> None:
    """Refuse pixel types and sizes before anything is allocated for them."""
    code = int(header.fields["datatype"])
    if code not in PIXEL_TYPES:
        raise UnsupportedScanError(
            ReasonCode.UNSUPPORTED_PIXELS,
            f"{header.name} holds values of NIfTI type {code} (complex, colour or 128 bits); a scan has real numbers",
        )
    values = int(np.prod([int(size) for size in header.shape], dtype=object))
    if values > MAX_VALUES:
        raise UnsupportedScanError(
            ReasonCode.UNREADABLE, f"{header.name} claims {values} values, more than the {MAX_VALUES} that are read"
        )
    offset = float(header.fields["vox_offset"])
    if not 0 <= offset <= MAX_VALUES or (not is_pair and offset < int(header.fields["sizeof_hdr"])):
        raise UnsupportedScanError(
            ReasonCode.UNREADABLE, f"{header.name} says its voxels begin at byte {offset:g}; the file is damaged"
        )
    needed = header.offset + values * header.dtype.itemsize
    if not may_hold(header.data_file, needed):
        raise ScanError(
            ReasonCode.TRUNCATED,
            f"{header.name} is too short: its header describes {needed} bytes, the file has "
            f"{header.data_file.stat().st_size}; copy it again",
        )


def _best_affine(header: NiftiHeader) -> NDArray[np.float64]:
    fields = header.fields
    if header.flat and float(fields["pixdim"][3]) == 0:
        fields = fields.copy()
        fields["pixdim"][3] = 1.0
    try:
        return np.array(fields.get_best_affine(), dtype=np.float64)
    except (ValueError, nib.spatialimages.HeaderDataError) as error:
        raise GeometryError(
            ReasonCode.BAD_ORIENTATION, f"{header.name} has an impossible qform ({error}); repair its header"
        ) from None


def _forms_agree(header: NiftiHeader) -> bool:
    fields = header.fields
    sform = fields.get_sform()
    steps = np.linalg.norm(sform[:3, :3], axis=0)
    steps = np.where(steps > 0, steps, 1.0)  # a flat file may leave its third axis out
    if int(fields["qform_code"]) == 0:
        return bool(np.abs(fields["pixdim"][1:4] / steps - 1).max() <= QFORM_TOLERANCE)
    try:
        difference = fields.get_qform() - sform
    except (ValueError, nib.spatialimages.HeaderDataError):
        return False
    step = np.abs(difference[:3, :3] / steps).max()
    offset_mm = np.abs(difference[:3, 3]).max() * _unit_mm(header)
    return bool(step <= QFORM_TOLERANCE and offset_mm <= OFFSET_TOLERANCE_MM)


def _unit_mm(header: NiftiHeader) -> float:
    return UNIT_MM.get(int(header.fields["xyzt_units"]) & 7, 1.0)
