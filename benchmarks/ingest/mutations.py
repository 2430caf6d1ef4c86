"""Damaged NIfTI and DICOM files, each made by code from a seed number: the same seed makes the same files."""

from __future__ import annotations

import gzip
import struct
import sys
from functools import cache
from io import BytesIO
from pathlib import Path

import nibabel as nib
import numpy as np
from pydicom import dcmwrite
from pydicom.uid import ExplicitVRBigEndian, ImplicitVRLittleEndian, JPEG2000Lossless, JPEGLSLossless, RLELossless

sys.path.append(str(Path(__file__).parents[2] / "sample_data" / "hostile"))
from pitfalls.frames import enhanced_ct
from pitfalls.slices import make_slices

Random = np.random.Generator

NUMBERS = (0, 1, -1, 2, 3, 7, 8, 127, 255, 256, 1000, 32767, -32768, 65535, 2**31 - 1, -(2**31), 2**40)
FLOATS = (0.0, -0.0, 1.0, -1.0, 0.5, 1e-40, 1e-3, 352.0, 348.5, 1e9, 1e38, -1e38, np.nan, np.inf, -np.inf)
TEXTS = (
    b"", b"0", b"-1", b"1", b"nan", b"inf", b"1e400", b"-1e-400", b"1\\2", b"1\\2\\3", b"0\\0\\0\\0\\0\\0", b"\\\\",
    b"1\\0\\0\\0\\1\\0", b"1e10\\1e10", b"abc", b"\x00\x00", b"9" * 400, b"2147483648", b"1_0", "١".encode(), b" 1 ",
)  # fmt: skip
SHORTS = (0, 1, 2, 3, 7, 8, 12, 15, 16, 17, 20, 24, 31, 32, 64, 255, 256, 4096, 32768, 65534, 65535)
SYNTAXES = (
    b"1.2.840.10008.1.2", b"1.2.840.10008.1.2.1", b"1.2.840.10008.1.2.2", b"1.2.840.10008.1.2.1.99", b"", b"1.2.3",
    b"1.2.840.10008.1.2.5", b"1.2.840.10008.1.2.4.50", b"1.2.840.10008.1.2.4.70", b"1.2.840.10008.1.2.4.80",
    b"1.2.840.10008.1.2.4.90", b"1.2.840.10008.1.2.4.91", b"1.2.840.10008.1.2.4.201", b"1.2.840.10008.1.2.4.100",
)  # fmt: skip
LENGTHS = (0, 1, 2, 3, 4, 9, 100, 0xFFFE, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFE, 0xFFFFFFFF)
FIELDS = (
    "sizeof_hdr", "dim", "dim", "dim", "pixdim", "pixdim", "datatype", "bitpix", "vox_offset", "scl_slope", "scl_inter",
    "qform_code", "sform_code", "quatern_b", "quatern_c", "quatern_d", "qoffset_x", "srow_x", "srow_y", "srow_z",
    "xyzt_units", "magic",
)  # fmt: skip
LONG_TYPES = {b"OB", b"OW", b"OF", b"OD", b"OL", b"OV", b"SQ", b"UC", b"UN", b"UR", b"UT", b"SV", b"UV"}
PIXELS = b"\xe0\x7f\x10\x00"


def write_nifti(folder: Path, seed: int) -> Path:
    """Write the damaged NIfTI file of a seed and return its path."""
    random = np.random.default_rng([1, seed])
    base = _nifti_bases()[random.integers(len(_nifti_bases()))]
    content = bytearray(base)
    for _ in range(random.integers(1, 4)):
        random.choice([_set_field, _set_field, _flip_header, _cut, _append])(content, random)
    packed = random.random() < 0.5
    if packed:
        content = bytearray(gzip.compress(bytes(content), compresslevel=1, mtime=0))
        if random.random() < 0.5:
            random.choice([_flip_any, _cut, _append])(content, random)
    path = folder / ("scan.nii.gz" if packed != (random.random() < 0.1) else "scan.nii")
    path.write_bytes(content)
    return path


def write_dicom(folder: Path, seed: int) -> Path:
    """Write the series of a seed, one file of which is damaged, and return its folder."""
    random = np.random.default_rng([2, seed])
    bases = _dicom_bases()
    files = list(bases[random.integers(len(bases))])
    target = int(random.integers(len(files)))
    content = bytearray(files[target])
    for _ in range(random.integers(1, 4)):
        random.choice([_set_element, _set_element, _set_length, _flip_any, _cut, _repeat, _nest])(content, random)
    files[target] = bytes(content)
    for number, each in enumerate(files):
        (folder / f"{number}.dcm").write_bytes(each)
    return folder


@cache
def _nifti_bases() -> tuple[bytes, ...]:
    values = np.arange(6 * 5 * 4).reshape(6, 5, 4)
    affine = np.array([[-1.0, 0.1, 0, 4], [0.1, 1.5, 0, -7], [0, 0, 2.5, 11], [0, 0, 0, 1]])
    bases = []
    for kind in (nib.Nifti1Image, nib.Nifti2Image):
        for dtype in (np.uint8, np.int16, np.float32, np.float64):
            image = kind(values.astype(dtype), affine)
            headers = [image.header.as_byteswapped(order) for order in "<>"]
            bases += [kind(image.dataobj, affine, header).to_bytes() for header in headers]
        bases.append(kind(np.stack([values] * 2, axis=3).astype(np.int16), affine).to_bytes())
    return tuple(bases)


@cache
def _dicom_bases() -> tuple[tuple[bytes, ...], ...]:
    """Return series of three small slices in several encodings, and enhanced files."""
    bases = [tuple(map(_encoded, make_slices(count=3, size=(6, 5)))), (_encoded(make_slices(count=1, size=(6, 5))[0]),)]
    for syntax in (ImplicitVRLittleEndian, ExplicitVRBigEndian):
        slices = make_slices(count=3, size=(6, 5))
        for each in slices:
            each.file_meta.TransferSyntaxUID = syntax
        bases.append(tuple(map(_encoded, slices)))
    for syntax in (RLELossless, JPEGLSLossless, JPEG2000Lossless):
        slices = make_slices(count=2, size=(32, 32))
        for each in slices:
            each.compress(syntax, generate_instance_uid=False)
        bases.append(tuple(map(_encoded, slices)))
    bases += [(_encoded(enhanced_ct(make_slices(count=3, size=(6, 5)))),)] * 2
    return tuple(bases)


def _encoded(dataset) -> bytes:
    stream = BytesIO()
    dcmwrite(stream, dataset, enforce_file_format=True)
    return stream.getvalue()


def _set_field(content: bytearray, random: Random) -> None:
    """Put an awkward value into a field of a NIfTI header."""
    second = len(content) > 540 and 540 in (int.from_bytes(content[:4], order) for order in ("little", "big"))
    kind = nib.Nifti2Header if second else nib.Nifti1Header
    order = ">" if content[:1] == b"\0" else "<"
    name = str(random.choice(FIELDS))
    dtype, offset = kind.template_dtype.fields[name][:2]
    item = dtype.base.newbyteorder(order)
    place = offset + int(random.integers(max(1, dtype.itemsize // item.itemsize))) * item.itemsize
    if item.kind == "f":
        raw = np.array(random.choice(FLOATS)).astype(item).tobytes()
    elif item.kind in "iu":
        raw = np.array(int(random.choice(NUMBERS))).astype(item).tobytes()
    else:
        raw = random.bytes(item.itemsize)
    content[place : place + len(raw)] = raw


def _flip_header(content: bytearray, random: Random) -> None:
    for place in random.integers(0, max(1, min(len(content), 544)), random.integers(1, 6)):
        if place < len(content):
            content[place] = random.integers(256)


def _flip_any(content: bytearray, random: Random) -> None:
    for place in random.integers(0, max(1, len(content)), random.integers(1, 10)):
        if place < len(content):
            content[place] = random.integers(256)


def _cut(content: bytearray, random: Random) -> None:
    del content[random.integers(0, len(content) + 1) :]


def _append(content: bytearray, random: Random) -> None:
    content += random.choice([random.bytes(50), bytes(5000), bytes(content)])


def _elements(content: bytearray) -> list[tuple[int, int, int]]:
    """Return (start, length's width, value's start) of the elements of the outermost data set, as far as they go."""
    found, place, explicit = [], 132, True
    implicit_next = b"1.2.840.10008.1.2\x00" in content[:400]
    while place + 8 <= len(content) and len(found) < 200:
        if implicit_next and content[place : place + 2] != b"\x02\x00":
            explicit = False
        width = 4 if not explicit or bytes(content[place + 4 : place + 6]) in LONG_TYPES else 2
        at = place + (8 if explicit and width == 4 else 6 if explicit else 4)
        value = at + width
        length = int.from_bytes(content[at:value], "little")
        found.append((place, width, value))
        if content[place : place + 4] == PIXELS or length > len(content):
            break
        place = value + length
    return found


def _set_element(content: bytearray, random: Random) -> None:
    """Replace an element's value by an awkward one of the same kind, and its length with it."""
    elements = _elements(content)
    if not elements:
        return
    start, width, value = elements[random.integers(len(elements))]
    length = int.from_bytes(content[value - width : value], "little")
    if length > len(content) or content[start : start + 4] == PIXELS:
        return
    if bytes(content[start : start + 4]) == b"\x02\x00\x10\x00":
        new = SYNTAXES[random.integers(len(SYNTAXES))]
    elif length == 2 and random.random() < 0.9:
        new = struct.pack("<H", SHORTS[random.integers(len(SHORTS))])
    else:
        new = TEXTS[random.integers(len(TEXTS))]
    new += b"\0" * (len(new) % 2)
    content[value - width : value + length] = len(new).to_bytes(width, "little") + new


def _set_length(content: bytearray, random: Random) -> None:
    """Let an element lie about its length."""
    elements = _elements(content)
    if elements:
        _, width, value = elements[random.integers(len(elements))]
        lie = LENGTHS[random.integers(len(LENGTHS))] & (256**width - 1)
        content[value - width : value] = lie.to_bytes(width, "little")


def _repeat(content: bytearray, random: Random) -> None:
    """Drop, double or move a run of elements."""
    elements = _elements(content)
    if len(elements) > 2:
        one, other = sorted(random.integers(0, len(elements), 2))
        run = content[elements[one][0] : elements[other][0]]
        place = elements[random.integers(len(elements))][0]
        if random.random() < 0.5:
            del content[elements[one][0] : elements[other][0]]
        content[place:place] = run


def _nest(content: bytearray, random: Random) -> None:
    """Insert sequences within sequences, of undefined length."""
    elements = _elements(content)
    if elements:
        place = elements[random.integers(len(elements))][0]
        tag = random.choice([b"\x40\x00\x75\x02", b"\x00\x52\x29\x92", b"\x00\x52\x30\x92", b"\x28\x00\x00\x30"])
        depth = int(random.choice([1, 3, 50, 2000]))
        content[place:place] = (bytes(tag) + b"SQ\0\0\xff\xff\xff\xff" + b"\xfe\xff\x00\xe0\xff\xff\xff\xff") * depth
