"""NRRD files, as 3D Slicer keeps volumes and segmentations in: a header of text, then the voxels.

The format: https://teem.sourceforge.net/nrrd/format.html. What its key/value pairs say of segments:
`medseg.io.slicer`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from isal import isal_zlib
from numpy.typing import NDArray

from medseg.errors import ReasonCode, ScanError, UnsupportedScanError
from medseg.geometry import Grid
from medseg.io.files import atomic_file, read_back_error
from medseg.io.nifti_header import MAX_VALUES
from medseg.io.streams import DeflateError, compressed
from medseg.volume import Volume

TO_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
"""From RAS+ to LPS+ and back."""

PIXEL_TYPES = {
    "unsigned char": "u1", "uchar": "u1", "uint8": "u1", "unsigned short": "u2", "ushort": "u2", "uint16": "u2",
    "signed char": "i1", "int8": "i1", "short": "i2", "signed short": "i2", "int16": "i2",
    "int": "i4", "signed int": "i4", "int32": "i4", "unsigned int": "u4", "uint": "u4", "uint32": "u4",
}  # fmt: skip
"""NRRD's names of the pixel types that a mask may have; Slicer keeps that of a label map it imported."""

STORED_TYPES = {"u1": "unsigned char", "u2": "unsigned short", "i2": "short", "f4": "float"}
"""What is written, by numpy's name."""

SPACES = {"left-posterior-superior": TO_LPS, "lps": TO_LPS, "right-anterior-superior": np.eye(4), "ras": np.eye(4)}

ESCAPES = re.compile(r"\\([\\n])")
"""What NRRD escapes in key/value pairs: backslashes and line breaks."""

HEADER_LIMIT = 1 << 20
"""Bytes within which a header must end."""


@dataclass(frozen=True, slots=True)
class Nrrd:
    """What a file holds, its voxels still packed.

    Attributes
    ----------
    name : of the file, for messages.
    fields : the header's fields, in small letters, and its key/value pairs.
    content : all that follows the header.
    """

    name: str
    fields: Mapping[str, str]
    content: bytes

    def grid(self, shape: tuple[int, int, int]) -> Grid:
        """Return the grid; a list of layers has no direction ("none"), which leaves three vectors.

        Raises
        ------
        KeyError, ValueError
            If a field is missing, or not what it should be.
        """
        affine = np.eye(4)
        vectors, (origin,) = _vectors(self.fields["space directions"]), _vectors(self.fields["space origin"])
        first, second, third = vectors
        affine[:3] = np.array([first, second, third, origin]).T
        return Grid(shape, SPACES[self.fields["space"].lower()] @ affine)

    def voxels(self, count: int, dtype: np.dtype) -> NDArray:
        """Return so many values, flat, X fastest; nothing is allocated beyond them.

        Raises
        ------
        ScanError
            `TRUNCATED` if there are fewer, `UNREADABLE` if there are more or they are damaged.
        """
        if count > MAX_VALUES:
            raise UnsupportedScanError(ReasonCode.UNREADABLE, f"{self.name} claims {count} voxels, more than are read")
        needed = count * dtype.itemsize
        content, encoding = self.content, self.fields.get("encoding", "raw")
        if encoding in ("gzip", "gz"):
            inflater = isal_zlib.decompressobj(wbits=31)
            try:
                content = inflater.decompress(content, needed + 1)
            except DeflateError as error:
                raise UnsupportedScanError(
                    ReasonCode.UNREADABLE, f"{self.name}: the voxels are damaged ({error})"
                ) from None
            if len(content) > needed:
                raise UnsupportedScanError(ReasonCode.UNREADABLE, f"{self.name} holds more voxels than its header says")
            if not inflater.eof:  # the checksum stands at the end
                content = b""
        elif encoding != "raw":
            raise UnsupportedScanError(
                ReasonCode.UNREADABLE, f"{self.name} is {encoding} encoded; save it as gzip or raw"
            )
        if len(content) < needed:
            raise ScanError(ReasonCode.TRUNCATED, f"{self.name} ends before its last voxel; copy it again")
        return np.frombuffer(content[:needed], dtype)


def parse_nrrd(raw: bytes, name: str) -> Nrrd:
    """Part a file into header and voxels.

    Raises
    ------
    UnsupportedScanError
        `NOT_A_SCAN` for other content, `UNREADABLE` if the header has no end within `HEADER_LIMIT`.
    """
    if not raw.startswith(b"NRRD000"):
        raise UnsupportedScanError(ReasonCode.NOT_A_SCAN, f"{name} is not an NRRD file")
    head = raw[:HEADER_LIMIT]
    ends = [(head.find(blank), len(blank)) for blank in (b"\n\n", b"\r\n\r\n") if blank in head]
    if not ends:
        raise UnsupportedScanError(ReasonCode.UNREADABLE, f"{name} has no end of its header; voxels in another file?")
    end, length = min(ends)
    fields: dict[str, str] = {}
    for line in head[:end].decode("utf-8", "replace").splitlines()[1:]:
        key, colon, value = line.partition(":")
        if not colon or line.startswith("#"):
            continue
        if value.startswith("="):
            fields[key] = ESCAPES.sub(lambda match: "\n" if match[1] == "n" else "\\", value[1:])
        else:
            fields[key.strip().lower()] = value.strip()
    return Nrrd(name, fields, raw[end + length :])


def claimed_sizes(path: Path) -> tuple[int, ...]:
    """Return the sizes of the axes that a file's header claims, without its voxels; raises as `parse_nrrd`."""
    with path.open("rb") as stream:
        header = parse_nrrd(stream.read(HEADER_LIMIT), path.name)
    try:
        return tuple(map(int, header.fields["sizes"].split()))
    except (KeyError, ValueError):
        raise UnsupportedScanError(
            ReasonCode.UNREADABLE, f"{path.name} does not say how many voxels it has; save it again"
        ) from None


def write_nrrd(path: Path, array: NDArray, grid: Grid, pairs: Mapping[str, str] | None = None) -> None:
    """Write an array (X, Y, Z) of one of the `STORED_TYPES`, gzip-compressed.

    Parameters
    ----------
    pairs : key/value pairs for the header, without line breaks.
    """
    stored = array.astype(array.dtype.newbyteorder("<"), copy=False)
    said = [f"{key}:={_escaped(value)}" for key, value in (pairs or {}).items()]
    header = "\n".join([*_grid_lines(stored.dtype, grid), *said]) + "\n\n"
    path.write_bytes(header.encode() + compressed(stored.tobytes(order="F")))


def write_volume_nrrd(path: Path, volume: Volume) -> None:
    """Write a scan of one channel as NRRD, which holds the sheared grid of a tilted gantry.

    ITK, and with it Slicer, refuses such a grid in a NIfTI file ("only supports orthonormal direction cosines").

    Raises
    ------
    OutputError
        If the file can't be written, or what was written is not what was meant.
    """
    scan = volume.array[0]
    with np.errstate(invalid="ignore"):  # what int16 can't hold is unequal, and stays float32
        whole = scan.astype(np.int16)
    stored = whole if np.array_equal(scan, whole) else scan
    with atomic_file(path) as temporary:
        write_nrrd(temporary, stored, volume.grid)
        written = parse_nrrd(temporary.read_bytes(), path.name)
        values = written.voxels(stored.size, stored.dtype.newbyteorder("<"))
        same = np.array_equal(values, stored.reshape(-1, order="F"))
        if not (same and written.grid(volume.grid.shape).matches(volume.grid)):
            raise read_back_error(path)


def _grid_lines(dtype: np.dtype, grid: Grid) -> list[str]:
    affine = TO_LPS @ grid.affine
    vectors = [f"({','.join(repr(float(part)) for part in vector)})" for vector in affine[:3].T]
    return [
        "NRRD0004",
        f"type: {STORED_TYPES[dtype.str[1:]]}",
        "dimension: 3",
        "space: left-posterior-superior",
        f"sizes: {' '.join(map(str, grid.shape))}",
        f"space directions: {' '.join(vectors[:3])}",
        "kinds: domain domain domain",
        "endian: little",
        "encoding: gzip",
        f"space origin: {vectors[3]}",
    ]


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\")


def _vectors(text: str) -> list[list[float]]:
    return [[float(part) for part in vector.split(",")] for vector in re.findall(r"\(([^)]*)\)", text)]
