"""Pictures small enough to travel inside a report: data URIs within a budget of bytes."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from io import BytesIO
from pathlib import Path

from PIL import Image, features

from medseg.provenance import usable_cores

BUDGET = 30 << 20
"""Bytes of all pictures of a report together, before base64 adds a third."""

MOST_PICTURES = 2000
"""Cases that get a picture, the first ones; more would not fit the budget in any useful size."""

SIZES = ((1200, 78), (960, 74), (760, 68), (560, 60), (400, 50), (280, 40))
"""Width in pixels and quality that are tried until a picture fits."""

THUMBNAIL = (264, 55)
SCAN_THUMBNAIL = (192, 60)


@dataclass(frozen=True, slots=True)
class Pictures:
    """A case's picture as data URIs, large and small; "" where there is none."""

    large: str = ""
    small: str = ""


def embed_pictures(paths: Iterable[Path]) -> list[Pictures]:
    """Return each picture in two sizes, in the order given; a missing or damaged file gives an empty entry."""
    wanted = list(paths)
    room = BUDGET // max(1, min(len(wanted), MOST_PICTURES))
    with ThreadPoolExecutor(usable_cores()) as threads:  # Pillow lets go of the interpreter while it works
        found = list(threads.map(partial(_embed, room=room), wanted[:MOST_PICTURES]))
    return found + [Pictures()] * (len(wanted) - len(found))


def embed_thumbnail(picture: Image.Image) -> str:
    """Return a picture of at most `SCAN_THUMBNAIL` pixels as a data URI."""
    return _uri(_encode(picture, *SCAN_THUMBNAIL))


def _embed(path: Path, room: int) -> Pictures:
    try:
        with Image.open(path) as opened:
            picture = opened.convert("RGB")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return Pictures()
    small = _encode(picture, *THUMBNAIL)
    large = next((data for data in _smaller_and_smaller(picture) if len(data) + len(small) <= room), b"")
    return Pictures(_uri(large), _uri(small))


def _smaller_and_smaller(picture: Image.Image) -> Iterator[bytes]:
    for width, quality in SIZES:
        yield _encode(picture, width, quality)


def _encode(picture: Image.Image, width: int, quality: int) -> bytes:
    """Return the picture at most `width` pixels wide, as WebP (or JPEG, a third larger, where Pillow has none)."""
    copy = picture.copy()
    copy.thumbnail((width, width), Image.Resampling.BICUBIC, reducing_gap=2.0)
    stream = BytesIO()
    copy.save(stream, _format(), quality=quality, **({"method": 2} if _format() == "WEBP" else {}))
    return stream.getvalue()


def _format() -> str:
    return "WEBP" if features.check("webp") else "JPEG"


def _uri(data: bytes) -> str:
    return f"data:image/{_format().lower()};base64,{base64.b64encode(data).decode('ascii')}" if data else ""
