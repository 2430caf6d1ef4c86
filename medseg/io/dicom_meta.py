"""The file meta information at the head of a DICOM file: what it holds, and how the rest is written (PS3.10 7.1)."""

from __future__ import annotations

import struct
from typing import NamedTuple

LONG_VALUE_TYPES = {b"OB", b"OW", b"OF", b"OD", b"OL", b"OV", b"SQ", b"UC", b"UN", b"UR", b"UT", b"SV", b"UV"}


def meta_start(head: bytes) -> int | None:
    """Return where the file meta information begins; None if this is not DICOM."""
    if head[128:132] == b"DICM":
        return 132
    return 0 if head[:2] == b"\x02\x00" and head[4:6] in (b"UL", b"OB", b"UI") else None


class FileMeta(NamedTuple):
    """The file meta information, always explicit and little endian (PS3.10 7.1).

    Attributes
    ----------
    syntax, sop_class, instance : UIDs of the transfer syntax, and of what the file holds; "" where not stated.
    end : where the dataset begins.
    """

    syntax: str
    sop_class: str
    instance: str
    end: int


def read_meta(head: bytes, position: int) -> FileMeta:
    """Read the file meta information by itself: pydicom takes as long for its ten elements as for the whole header."""
    found: dict[bytes, str] = {}
    while head[position : position + 2] == b"\x02\x00" and position + 12 <= len(head):
        wide = head[position + 4 : position + 6] in LONG_VALUE_TYPES
        layout, at = ("<I", position + 8) if wide else ("<H", position + 6)
        (length,) = struct.unpack_from(layout, head, at)
        start = position + (12 if wide else 8)
        found[head[position + 2 : position + 4]] = head[start : start + length].decode("latin-1").strip(" \0")
        position = start + length
    syntax, sop_class, instance = (found.get(element, "") for element in (b"\x10\x00", b"\x02\x00", b"\x03\x00"))
    return FileMeta(syntax, sop_class, instance, position)
