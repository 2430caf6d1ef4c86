"""DICOM headers, reduced to what places a slice in space and tells series apart.

Identifiers live in `SliceHeader` fields that no ``repr`` shows.
"""

from __future__ import annotations

import logging
import os
import re
import struct
import warnings
from dataclasses import dataclass, field, replace
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

import numpy as np
from pydicom.dataset import Dataset
from pydicom.filereader import read_dataset
from pydicom.pixels.decoders.base import get_decoder
from pydicom.tag import BaseTag

from medseg.errors import ReasonCode, UnsupportedScanError
from medseg.io.dicom_elements import PHASE_KEYWORDS, TAGS, Elements
from medseg.io.dicom_meta import FileMeta, meta_start, read_meta
from medseg.io.streams import BoundedReader

CT, MR, PT = "CT", "MR", "PT"
UID_ROOT = "1.2.840.10008.5.1.4.1.1."
SINGLE_FRAME = {UID_ROOT + "2": CT, UID_ROOT + "4": MR, UID_ROOT + "128": PT}
MULTI_FRAME = {
    UID_ROOT + "2.1": CT, UID_ROOT + "2.2": CT, UID_ROOT + "4.1": MR, UID_ROOT + "4.4": MR,
    UID_ROOT + "128.1": PT, UID_ROOT + "130": PT,
}  # fmt: skip
"""Enhanced and legacy-converted enhanced CT, MR and PET: one file, many frames."""

IMPLICIT_LITTLE, EXPLICIT_LITTLE, EXPLICIT_BIG = "1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2"
DEFLATED = "1.2.840.10008.1.2.1.99"
JPEG_LOSSLESS = {"1.2.840.10008.1.2.4.57", "1.2.840.10008.1.2.4.70"}
"""Processes 14 and 14 with selection value 1, of older archives; the decoder is in the extra `codecs`."""

NATIVE = {IMPLICIT_LITTLE, EXPLICIT_LITTLE, EXPLICIT_BIG}

MODALITIES = {
    CT, MR, PT, "NM", "US", "CR", "DX", "MG", "XA", "RF", "OT", "SC", "SR", "SEG", "PR", "KO", "REG", "DOC", "RTSTRUCT",
    "RTPLAN", "RTDOSE", "RTIMAGE", "RWV", "FID", "SM", "ES", "XC", "OPT",
}  # fmt: skip
COLOURS = {"MONOCHROME1", "MONOCHROME2", "RGB", "PALETTE COLOR", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT"}
"""Words of these elements that may appear in messages and tables; others could be anything, a name included."""

DETECTOR_TOLERANCE = 0.01
"""Largest relative difference between the spacings of patient and detector that is only rounding."""

TEXT_LIMIT = 64
"""Letters of a description or kernel; the standard allows no more (PS3.5 6.2, LO)."""

HEAD_BYTES = 32768
"""First read of a file: holds nearly every header, and is parsed in memory, several times faster."""

PIXEL_ELEMENT_BYTES = 12
PIXEL_VALUE_TYPES = {b"OB", b"OW", b"UN"}
"""Value types of integer pixel data; where none is written its length stands, which is even and so none of these."""

PIXEL_TAGS = {0x7FE00008, 0x7FE00009, 0x7FE00010}
"""Float, double and integer pixel data (PS3.3 C.7.6.3, C.7.6.24): a header ends there."""

Problem = tuple[ReasonCode, str]
"""What refuses a file, and a sentence about it that follows "the file"."""

ITEM, DELIMITER = b"\xfe\xff\x00\xe0", b"\xfe\xff\xdd\xe0"


@dataclass(frozen=True, slots=True)
class SliceHeader:
    """One image plane of a DICOM file. Positions are LPS mm, as DICOM writes them.

    Attributes
    ----------
    path, frame, frames : the file, the plane's number in it from 0, and how many planes it holds.
    modality : "CT", "MR" or "PT" for what may be read, any other word for what may not.
    supported : whether the SOP class is one that medseg reads.
    rows, columns : matrix; 0 for files without an image.
    spacing : distance between rows and between columns, mm; None: not stated.
    orientation : cosines of the row direction, then of the column direction; None: not stated.
    position : centre of the first pixel, mm; None: not stated.
    thickness : distance to the next plane if the file states one, else slice thickness, else 0 (mm).
    slope, intercept : from stored values to the modality's units.
    rescaled : whether the file states them.
    padding : lowest and highest stored value that stand for no image (PS3.3 C.7.5.1.1.2); None: none do.
    doubts : what is odd about the header but refuses nothing by itself.
    phase : values of `PHASE_KEYWORDS`, in that order.
    problem : what refuses this file by itself, and a sentence about it; None: nothing.
    slice_thickness : mm; 0: not stated.
    contrast : whether a contrast agent is named.
    description, kernel : free text of the series and the name of its reconstruction kernel, at most `TEXT_LIMIT`
        letters, for rules to match; never shown.
    """

    path: Path
    frame: int = 0
    frames: int = 1
    modality: str = ""
    supported: bool = False
    sop_class: str = ""
    rows: int = 0
    columns: int = 0
    spacing: tuple[float, float] | None = None
    orientation: tuple[float, ...] | None = None
    position: tuple[float, float, float] | None = None
    thickness: float = 0.0
    slope: float = 1.0
    intercept: float = 0.0
    rescaled: bool = False
    photometric: str = ""
    padding: tuple[int, int] | None = None
    doubts: tuple[ReasonCode, ...] = ()
    phase: tuple[str, ...] = ()
    problem: Problem | None = None
    slice_thickness: float = 0.0
    contrast: bool = False
    description: str = field(default="", repr=False)
    kernel: str = field(default="", repr=False)
    instance: str = field(default="", repr=False)
    study: str = field(default="", repr=False)
    series: str = field(default="", repr=False)
    frame_of_reference: str = field(default="", repr=False)
    patient: str = field(default="", repr=False)

    @property
    def image(self) -> str:
        """What names its image: the file's instance, and the frame in it; "" where the file has no instance UID."""
        return f"{self.instance}#{self.frame}" if self.instance else ""

    @property
    def is_mosaic(self) -> bool:
        """Whether this is a volume as Siemens stores diffusion and functional MR: its slices are tiles of one image."""
        return "MOSAIC" in self.phase[0].upper().split("\\") if self.phase else False

    @property
    def is_localizer(self) -> bool:
        """Whether this is a scout view, not part of a volume."""
        return "LOCALIZER" in self.phase[0].upper().split("\\") if self.phase else False


def read_headers(path: Path) -> tuple[SliceHeader, ...]:
    """Return the header of every plane of a DICOM file; nothing if the file is not DICOM.

    Raises
    ------
    UnsupportedScanError
        `UNREADABLE` if it claims to be DICOM but can't be parsed.
    """
    try:
        header = _read_header(path)
    except OSError as error:
        raise UnsupportedScanError(ReasonCode.UNREADABLE, f"a file can't be read: {error.strerror}") from None
    except UnsupportedScanError:
        raise
    except Exception as error:  # a parser of hostile files may fail in any way; the message stays free of values
        raise UnsupportedScanError(
            ReasonCode.UNREADABLE, f"a DICOM file is damaged: its header can't be parsed ({type(error).__name__})"
        ) from None
    if header is None:
        return ()
    if not header.sop_class and not header.rows:
        raise UnsupportedScanError(
            ReasonCode.UNREADABLE, "a DICOM file is damaged: it names neither what kind of object nor image it is"
        )
    if header.problem is None and header.sop_class in MULTI_FRAME:
        from medseg.io.dicom_frames import frame_headers

        return frame_headers(header)
    return (header,)


def quiet_pydicom() -> None:
    """Keep pydicom from printing or logging warnings: they quote header values, a patient's name among them.

    Called before each series or folder, because a program may set up warnings after it imported medseg.
    """
    warnings.filterwarnings("ignore", module="pydicom")
    logging.getLogger("pydicom").setLevel(logging.CRITICAL)


def _read_header(path: Path) -> SliceHeader | None:
    """Return what a file's header says of all its planes; None if it is not DICOM."""
    with BoundedReader(path) as stream:
        head = stream.read(HEAD_BYTES)
        start = meta_start(head)
        if start is None:
            return None
        meta = read_meta(head, start)
        if meta.syntax == DEFLATED:  # pydicom inflates the whole file without a bound
            raise UnsupportedScanError(
                ReasonCode.UNREADABLE,
                "a deflated DICOM file is not read, because its size has no bound; save it uncompressed",
            )
        read = Elements(_parse(stream, head, meta))
        header = _header(path, read, meta)
        if header.supported:
            header = replace(header, problem=_pixel_problem(stream, read, meta.syntax, header))
        return header


def _parse(stream: BinaryIO, head: bytes, meta: FileMeta) -> Dataset:
    """Parse the header; leave `stream` at the element that follows it."""
    whole = len(head) < HEAD_BYTES
    try:
        buffer = BytesIO(head)
        dataset = _read_dataset(buffer, meta)
        whole = whole or buffer.tell() + PIXEL_ELEMENT_BYTES <= len(head)
    except Exception:  # the head may end in the middle of an element; the whole file decides
        if whole:
            raise
    if whole:
        stream.seek(buffer.tell())
        return dataset
    return _read_dataset(stream, meta)


def _read_dataset(stream: BinaryIO, meta: FileMeta) -> Dataset:
    """Parse the wanted elements from where the dataset begins up to the pixels."""
    stream.seek(meta.end)
    return read_dataset(
        stream,
        is_implicit_VR=meta.syntax == IMPLICIT_LITTLE,
        is_little_endian=meta.syntax != EXPLICIT_BIG,
        stop_when=_at_pixels,
        specific_tags=list(TAGS.values()),
    )


def _at_pixels(tag: BaseTag, value_type: str | None, length: int) -> bool:
    return tag in PIXEL_TAGS


def _header(path: Path, read: Elements, meta: FileMeta) -> SliceHeader:
    sop_class = read.text("SOPClassUID") or meta.sop_class
    modality = read.text("Modality")
    modality = modality if modality in MODALITIES else ""
    known = SINGLE_FRAME.get(sop_class) or MULTI_FRAME.get(sop_class)
    # Some exports blank every UID; an image of a known modality is still an image.
    supported = known is not None or (not sop_class and modality in (CT, MR, PT))
    spacing, orientation = read.numbers("PixelSpacing"), read.numbers("ImageOrientationPatient")
    position = read.numbers("ImagePositionPatient")
    slope, intercept = read.numbers("RescaleSlope"), read.numbers("RescaleIntercept")
    return SliceHeader(
        path=path,
        frames=max(1, int(read.number("NumberOfFrames", 1))),
        modality=known or modality,
        supported=supported,
        sop_class=sop_class,
        rows=read.integer("Rows"),
        columns=read.integer("Columns"),
        spacing=spacing if spacing and len(spacing) == 2 and min(spacing) > 0 else None,
        orientation=orientation if orientation and len(orientation) == 6 else None,
        position=position if position and len(position) == 3 else None,
        thickness=abs(read.number("SpacingBetweenSlices", 0)) or abs(read.number("SliceThickness", 0)),
        slope=slope[0] if slope else 1.0,
        intercept=intercept[0] if intercept else 0.0,
        rescaled=slope is not None and intercept is not None,
        photometric=read.text("PhotometricInterpretation"),
        padding=_padding(read),
        doubts=_doubts(read, known or modality, spacing),
        phase=tuple(read.text(keyword) for keyword in PHASE_KEYWORDS),
        slice_thickness=abs(read.number("SliceThickness", 0)),
        contrast=bool(read.text("ContrastBolusAgent")),
        description=read.free_text("SeriesDescription")[:TEXT_LIMIT],
        kernel=read.free_text("ConvolutionKernel")[:TEXT_LIMIT],
        instance=read.text("SOPInstanceUID") or meta.instance,
        study=read.text("StudyInstanceUID"),
        series=read.text("SeriesInstanceUID"),
        frame_of_reference=read.text("FrameOfReferenceUID"),
        patient=read.text("PatientID"),
    )


def _padding(read: Elements) -> tuple[int, int] | None:
    if not read.value("PixelPaddingValue"):
        return None
    values = [read.integer(word) for word in ("PixelPaddingValue", "PixelPaddingRangeLimit") if read.value(word)]
    if read.integer("PixelRepresentation") == 1:
        values = [value - 65536 if value > 32767 else value for value in values]
    return min(values), max(values)


def _doubts(read: Elements, modality: str, spacing: tuple[float, ...] | None) -> tuple[ReasonCode, ...]:
    doubts = []
    if modality == CT and is_foreign_scale(read.text("RescaleType")):
        doubts.append(ReasonCode.HU_SUSPECT)
    detector = read.numbers("ImagerPixelSpacing")
    if detector and spacing and not np.allclose(detector, spacing, rtol=DETECTOR_TOLERANCE):
        doubts.append(ReasonCode.SPACING_SUSPECT)
    return tuple(doubts)


def is_foreign_scale(rescale_type: str) -> bool:
    """Whether a CT says that its values are not HU, such as optical density or electron density."""
    return bool(rescale_type) and not rescale_type.upper().startswith("HU")


def _pixel_problem(stream: BinaryIO, read: Elements, syntax: str, header: SliceHeader) -> Problem | None:
    """Return what is wrong with the pixel data as far as header and length show; the stream stands before them."""
    if not (header.rows and header.columns):
        return ReasonCode.TRUNCATED, "ends before it says how large its image is"
    bits = read.integer("BitsAllocated")
    return _format_problem(read, syntax, header) or _length_problem(stream, bits, syntax, header)


def _format_problem(read: Elements, syntax: str, header: SliceHeader) -> Problem | None:
    """Return why pixels of this kind, or compressed in this way, are not read."""
    if header.frames > 1 and header.sop_class not in MULTI_FRAME:
        return ReasonCode.NO_POSITION, f"holds {header.frames} images and one position for all of them"
    if header.is_mosaic:
        return ReasonCode.UNSUPPORTED_PIXELS, "holds a mosaic, all slices of a volume side by side; convert it to NIfTI"
    samples, bits = read.integer("SamplesPerPixel") or 1, read.integer("BitsAllocated")
    if samples != 1 or header.photometric not in ("MONOCHROME1", "MONOCHROME2", "") or bits not in (8, 16, 32):
        colour = header.photometric if header.photometric in COLOURS else "other"
        kind = f"{colour} pixels, {samples} sample(s) of {bits} bits"
        return ReasonCode.UNSUPPORTED_PIXELS, f"holds {kind}; a scan has one grey value of 8, 16 or 32 bits a pixel"
    if syntax in NATIVE and read.value("HighBit") and read.integer("HighBit") != read.integer("BitsStored") - 1:
        where = f"high bit {read.integer('HighBit')} of {read.integer('BitsStored')}"
        return ReasonCode.UNSUPPORTED_PIXELS, f"stores its values elsewhere than in the lowest bits ({where})"
    if syntax not in NATIVE and not can_decode(syntax):
        if syntax in JPEG_LOSSLESS:
            return ReasonCode.DECODE_FAILED, 'is compressed as JPEG Lossless; install "medseg[codecs]" to have it read'
        name = syntax if re.fullmatch(r"[0-9.]{1,64}", syntax) else "no transfer syntax"
        return ReasonCode.DECODE_FAILED, f"is compressed in a way that no installed decoder reads ({name})"
    if not header.rescaled and TAGS["ModalityLUTSequence"] in read.elements:
        return ReasonCode.UNSUPPORTED_PIXELS, (
            "maps stored values by a table (Modality LUT), which is not read; export it with slope and intercept"
        )
    if any(read.value(keyword) and read.numbers(keyword) is None for keyword in ("RescaleSlope", "RescaleIntercept")):
        return ReasonCode.NO_RESCALE, "states a rescale slope or intercept that is no number"
    return None


def _length_problem(stream: BinaryIO, bits: int, syntax: str, header: SliceHeader) -> Problem | None:
    """Return where a file is cut short, if it is; the stream stands before the pixel data."""
    start = stream.tell()
    size = stream.seek(0, os.SEEK_END)
    stream.seek(start)
    order = ">" if syntax == EXPLICIT_BIG else "<"
    element = stream.read(PIXEL_ELEMENT_BYTES)
    wide = 12 if element[4:6] in PIXEL_VALUE_TYPES else 8  # as it is written, which may not be as the file says
    if len(element) < wide or struct.unpack_from(order + "HH", element) != (0x7FE0, 0x0010):
        return ReasonCode.TRUNCATED, "ends before its pixels"
    if syntax not in NATIVE:
        return None if _fragments_end(stream, size) else (ReasonCode.TRUNCATED, "ends within its pixels")
    (length,) = struct.unpack_from(order + "I", element, wide - 4)
    needed = header.rows * header.columns * header.frames * bits // 8
    if min(length, size - start - wide) < needed:
        return ReasonCode.TRUNCATED, f"ends within its pixels ({size - start - wide} of {needed} bytes)"
    return None


def can_decode(syntax: str) -> bool:
    """Whether pixels of a compressed transfer syntax can be read here."""
    try:
        return bool(get_decoder(syntax).is_available)
    except NotImplementedError:
        return False


def _fragments_end(stream: BinaryIO, size: int) -> bool:
    """Whether encapsulated pixel data are whole: every fragment lies within the file."""
    fragments = 0
    while True:
        item = stream.read(8)
        if item[:4] == DELIMITER or not item:
            return fragments >= 2  # the offset table counts as one
        if len(item) < 8 or item[:4] != ITEM:
            return False
        end = stream.tell() + int.from_bytes(item[4:], "little")
        if end > size:
            return False
        stream.seek(end)
        fragments += 1
