"""3D Slicer's segmentation files, ``.seg.nrrd``: masks with names, colours, terminology and review status.

Such a file opens in 3D Slicer as a segmentation without questions, and keeps sheared grids. The rules are
those of vtkMRMLSegmentationStorageNode.cxx (Slicer 583e9b3, 2026-08-21). What is written depends on mask
and labels alone, never on the clock: equal masks give equal files.
"""

from __future__ import annotations

import re
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from medseg.errors import OutputError, ReasonCode, ScanError, UnsupportedScanError
from medseg.geometry import Grid
from medseg.io.files import atomic_file
from medseg.io.nifti_header import MAX_VALUES
from medseg.io.terminology import category_of, printable, side_of, type_of
from medseg.labels import Code, Label, LabelMap
from medseg.volume import Mask

GZIP_LEVEL = 2
"""As for NIfTI masks: higher levels gain little."""

TO_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])

PIXEL_TYPES = {
    "unsigned char": "u1", "uchar": "u1", "uint8": "u1", "unsigned short": "u2", "ushort": "u2", "uint16": "u2",
}  # fmt: skip
"""NRRD's names of the pixel types that a mask may have."""

SPACES = {"left-posterior-superior": TO_LPS, "lps": TO_LPS, "right-anterior-superior": np.eye(4), "ras": np.eye(4)}

ESCAPES = re.compile(r"\\([\\n])")
"""What NRRD escapes in key/value pairs: backslashes and line breaks."""

HEADER_LIMIT = 1 << 20
"""Bytes within which a header must end."""

CONTEXT = "Segmentation category and type - 3D Slicer General Anatomy list"
REGION_CONTEXT = "Anatomic codes - DICOM master list"
STATUS = "Segmentation.Status"
TERMINOLOGY = "TerminologyEntry"
NOT_STARTED = "notstarted"
"""Review status of what nobody has looked at; then come inprogress, completed and flagged."""


@dataclass(frozen=True, slots=True)
class Segment:
    """One segment of a segmentation file.

    Attributes
    ----------
    id : unique in the file; medseg writes ``Segment_<value>``.
    name : as shown.
    value : in the mask.
    colour : RGB, 0 to 255.
    status : review status; "" where none is stated.
    terminology : Slicer's terminology entry, parts joined by ``~``; "" where none is stated.
    """

    id: str
    name: str
    value: int
    colour: tuple[int, int, int]
    status: str = ""
    terminology: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class Segmentation:
    """What a segmentation file holds: a mask, and its segments in the file's order."""

    mask: Mask
    segments: tuple[Segment, ...]


def write_seg_nrrd(path: Path, mask: Mask, labels: LabelMap) -> None:
    """Write a mask as a segmentation, read it back and compare.

    Every label becomes a segment, found or not, so that a reviewer can draw what the model missed. Each
    covers the whole grid: Slicer would clip a segment at a smaller extent.

    Parameters
    ----------
    path : target, ending in .seg.nrrd, by which Slicer knows a segmentation.
    mask : on any grid, sheared ones included.
    labels : names, colours and codes of its values.

    Raises
    ------
    OutputError
        If the file can't be written, or what was written is not what was meant.
    """
    segments = tuple(_segment(label) for label in labels.labels)
    content = mask.array.astype(mask.array.dtype.newbyteorder("<"), copy=False).tobytes(order="F")
    packer = zlib.compressobj(GZIP_LEVEL, wbits=31)
    header = "\n".join([*_grid_lines(mask), *_segment_lines(mask, segments)]) + "\n\n"
    with atomic_file(path) as temporary:
        temporary.write_bytes(header.encode() + packer.compress(content) + packer.flush())
        try:
            written = read_seg_nrrd(temporary)
        except ScanError as error:
            raise OutputError(f"{path} can't be read back ({error}); check the disk and try again") from None
        same = written.segments == segments and np.array_equal(written.mask.array, mask.array)
        if not (same and written.mask.grid.matches(mask.grid)):
            raise OutputError(f"{path} reads back differently from what was written; check the disk and try again")


def read_seg_nrrd(path: Path) -> Segmentation:
    """Read a segmentation file whose segments don't overlap.

    Returns
    -------
    Segmentation
        The mask is on the file's own grid, which Slicer may have cropped.

    Raises
    ------
    ScanError
        `NOT_A_SCAN` for other content, `UNREADABLE` for damaged or contradictory files, `NOT_3D` for
        overlapping segments, `UNSUPPORTED_PIXELS`, `BAD_ORIENTATION`, `TRUNCATED`.
    """
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise UnsupportedScanError(ReasonCode.UNREADABLE, f"{path.name} can't be read: {error.strerror}") from None
    fields, start = _header(raw, path.name)
    if fields.get("dimension") != "3":
        raise UnsupportedScanError(
            ReasonCode.NOT_3D,
            f"{path.name} has {fields.get('dimension')} dimensions: its segments overlap or it is no mask; "
            "a mask has three",
        )
    try:
        grid = _grid(fields)
        dtype = np.dtype(PIXEL_TYPES[fields["type"]])
        segments = _segments(fields)
    except KeyError as error:
        raise UnsupportedScanError(
            ReasonCode.UNSUPPORTED_PIXELS, f"{path.name}: {error} is missing or not what a segmentation file has"
        ) from None
    except (ValueError, IndexError):
        raise UnsupportedScanError(ReasonCode.UNREADABLE, f"{path.name} has a header that contradicts itself") from None
    if fields.get("endian") == "big":
        dtype = dtype.newbyteorder(">")
    array = _voxels(raw[start:], fields, int(np.prod(grid.shape, dtype=object)), dtype, path.name)
    return Segmentation(Mask(array.astype(dtype.newbyteorder("=")).reshape(grid.shape, order="F"), grid), segments)


def _segment(label: Label) -> Segment:
    parts = [
        CONTEXT,
        *(_code(code) for code in (category_of(label), type_of(label), side_of(label))),
        REGION_CONTEXT,
        _code(None),
        _code(None),
    ]
    name = printable(label.name) or f"label_{label.value}"
    terminology = "~".join(parts) if label.code or label.lesion else ""
    return Segment(f"Segment_{label.value}", name, label.value, label.colour, NOT_STARTED, terminology)


def _code(code: Code | None) -> str:
    texts = (code.scheme, code.value, code.meaning) if code else ("", "", "")
    return "^".join(printable(text, without="^~|:") for text in texts)


def _grid_lines(mask: Mask) -> list[str]:
    affine = TO_LPS @ mask.grid.affine
    vectors = [f"({','.join(repr(float(part)) for part in vector)})" for vector in affine[:3].T]
    return [
        "NRRD0004",
        f"type: {'unsigned char' if mask.array.dtype == np.uint8 else 'unsigned short'}",
        "dimension: 3",
        "space: left-posterior-superior",
        f"sizes: {' '.join(map(str, mask.array.shape))}",
        f"space directions: {' '.join(vectors[:3])}",
        "kinds: domain domain domain",
        "endian: little",
        "encoding: gzip",
        f"space origin: {vectors[3]}",
    ]


def _segment_lines(mask: Mask, segments: tuple[Segment, ...]) -> list[str]:
    extent = " ".join(f"0 {size - 1}" for size in mask.array.shape)
    pairs = {
        "Segmentation_ContainedRepresentationNames": "Binary labelmap|",
        "Segmentation_MasterRepresentation": "Binary labelmap",
        "Segmentation_ReferenceImageExtentOffset": "0 0 0",
    }
    for number, segment in enumerate(segments):
        tags = f"{STATUS}:{segment.status}|"
        if segment.terminology:
            tags += f"{TERMINOLOGY}:{segment.terminology}|"
        pairs |= {
            f"Segment{number}_ID": segment.id,
            f"Segment{number}_Name": segment.name,
            f"Segment{number}_NameAutoGenerated": "0",
            f"Segment{number}_Color": " ".join(f"{part / 255:.6g}" for part in segment.colour),
            f"Segment{number}_ColorAutoGenerated": "0",
            f"Segment{number}_LabelValue": str(segment.value),
            f"Segment{number}_Layer": "0",
            f"Segment{number}_Extent": extent,
            f"Segment{number}_Tags": tags,
        }
    return [f"{key}:={_escaped(value)}" for key, value in pairs.items()]


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\")


def _header(raw: bytes, name: str) -> tuple[dict[str, str], int]:
    """Return the header's fields and key/value pairs, and where the voxels begin."""
    if not raw.startswith(b"NRRD000"):
        raise UnsupportedScanError(ReasonCode.NOT_A_SCAN, f"{name} is not an NRRD file")
    head = raw[:HEADER_LIMIT]
    ends = [(head.find(blank), len(blank)) for blank in (b"\n\n", b"\r\n\r\n") if blank in head]
    if not ends:
        raise UnsupportedScanError(ReasonCode.UNREADABLE, f"{name} has no end of its header; voxels in another file?")
    end, length = min(ends)
    fields = {}
    for line in head[:end].decode("utf-8", "replace").splitlines()[1:]:
        key, colon, value = line.partition(":")
        if not colon or line.startswith("#"):
            continue
        if value.startswith("="):
            fields[key] = ESCAPES.sub(lambda match: "\n" if match[1] == "n" else "\\", value[1:])
        else:
            fields[key.strip().lower()] = value.strip()
    return fields, end + length


def _grid(fields: dict[str, str]) -> Grid:
    x, y, z = (int(size) for size in fields["sizes"].split())
    affine = np.eye(4)
    (first, second, third), (origin,) = _vectors(fields["space directions"]), _vectors(fields["space origin"])
    affine[:3] = np.array([first, second, third, origin]).T
    return Grid((x, y, z), SPACES[fields["space"].lower()] @ affine)


def _vectors(text: str) -> list[list[float]]:
    return [[float(part) for part in vector.split(",")] for vector in re.findall(r"\(([^)]*)\)", text)]


def _segments(fields: dict[str, str]) -> tuple[Segment, ...]:
    segments: list[Segment] = []
    while (start := f"Segment{len(segments)}_") + "ID" in fields:
        red, green, blue = (round(float(part) * 255) for part in fields[start + "Color"].split())
        tags = dict(tag.split(":", 1) for tag in fields.get(start + "Tags", "").split("|") if ":" in tag)
        segments.append(
            Segment(
                id=fields[start + "ID"],
                name=fields[start + "Name"],
                value=int(fields[start + "LabelValue"]),
                colour=(red, green, blue),
                status=tags.get(STATUS, ""),
                terminology=tags.get(TERMINOLOGY, ""),
            )
        )
    return tuple(segments)


def _voxels(content: bytes, fields: dict[str, str], count: int, dtype: np.dtype, name: str) -> NDArray:
    """Return the stored values, flat; memory is bounded by the header's sizes."""
    if count > MAX_VALUES:
        raise UnsupportedScanError(ReasonCode.UNREADABLE, f"{name} claims {count} voxels, more than are read")
    needed = count * dtype.itemsize
    encoding = fields.get("encoding", "raw")
    if encoding in ("gzip", "gz"):
        inflater = zlib.decompressobj(wbits=31)
        try:
            content = inflater.decompress(content, needed + 1)
        except zlib.error as error:
            raise UnsupportedScanError(ReasonCode.UNREADABLE, f"{name}: the voxels are damaged ({error})") from None
        if len(content) > needed:
            raise UnsupportedScanError(ReasonCode.UNREADABLE, f"{name} holds more voxels than its header says")
        if not inflater.eof:  # the checksum stands at the end
            content = b""
    elif encoding != "raw":
        raise UnsupportedScanError(ReasonCode.UNREADABLE, f"{name} is {encoding} encoded; save it as gzip or raw")
    if len(content) < needed:
        raise ScanError(ReasonCode.TRUNCATED, f"{name} ends before its last voxel; copy it again")
    return np.frombuffer(content[:needed], dtype)
