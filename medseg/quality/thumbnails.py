"""A small picture of a scan: its middle slice."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Literal

from PIL import Image

from medseg.catalog.entries import CatalogEntry
from medseg.io.nifti_header import NIFTI_ENDINGS
from medseg.io.scan import read_scan
from medseg.quality.pictures import embed_picture
from medseg.quality.slices import display_window, in_grey, planes_of
from medseg.volume import Source, Volume

LARGEST = 144
"""Pixels along the longer side: 2 to 3 kB of a real scan, 16 kB of noise."""


def thumbnail(entry: CatalogEntry, fetch: Callable[[Path], None]) -> str:
    """Return the middle slice of a catalogued scan as a data URI; "" if it can't be read.

    Of a DICOM series only the file in the middle is read, so that series which make no volume can be seen, too.

    Parameters
    ----------
    fetch : makes sure that a file of an archive is unpacked.
    """
    files = entry.source.files if entry.source else entry.files
    file = files[len(files) // 2]
    kind: Literal["nifti", "dicom"] = "nifti" if file.name.lower().endswith(NIFTI_ENDINGS) else "dicom"
    try:
        fetch(file)
        return embed_picture(middle_slice(read_scan(Source(kind, (file,)))))
    except Exception:  # a refused file may make foreign decoders fail in any way; the catalogue says what is wrong
        return ""


def middle_slice(volume: Volume) -> Image.Image:
    """Return the middle slice of a scan: the axial one, or of a flat scan the only one; in true proportions."""
    orientation = volume.grid.to_canonical()
    image, grid = orientation.apply(volume.array[0]), orientation.apply_to_grid(volume.grid)
    plane = planes_of(grid)[0]
    picture = plane.picture_of(image, grid.shape[plane.axis] // 2)
    width, height = plane.size_mm(grid)
    scale = LARGEST / max(width, height)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    return Image.fromarray(in_grey(picture, display_window(volume, image))).resize(size, Image.Resampling.BICUBIC)
