"""A picture of a mask on its scan: three planes, outlines, a legend with volumes; no patient data.

Drawn with Pillow alone: importing matplotlib takes longer than all of this.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from medseg.errors import GeometryError, ReasonCode
from medseg.geometry import Grid
from medseg.io.files import atomic_file
from medseg.labels import Label, LabelMap
from medseg.quality.slices import Plane, Survey, display_window, in_grey, planes_of, survey
from medseg.volume import Mask, Volume

WIDTH = 1168
HEIGHT = 600
"""Largest size of the panels of one scan together, pixels: with the margins as wide as a report shows them."""
MARGIN, GAP = 16, 8
FILL_OPACITY = 0.25
OUTLINE_OPACITY = 0.95
BACKGROUND = (16, 17, 20)
TEXT = (228, 230, 234)
FAINT = (138, 143, 152)
BAR_LENGTHS_MM = (100, 50, 20, 10, 5, 2, 1)
FONT = "mpl-data/fonts/ttf/DejaVuSans.ttf"


def overlay_png(volume: Volume, mask: Mask, labels: LabelMap, path: Path) -> None:
    """Draw axial, coronal and sagittal slices with the mask's outlines and a legend into a PNG file.

    Parameters
    ----------
    volume : the scan; its first channel is shown.
    mask : on the scan's grid.
    labels : names and colours; values that it doesn't know are not drawn.
    path : the file to write.

    Raises
    ------
    GeometryError
        If mask and scan lie on different grids (GRID_MISMATCH).
    OutputError
        If the file can't be written.
    """
    scene = _scene(volume, mask)
    panels = _beside(_draw_planes(scene, labels))
    volumes = {label.value: scene.found.counts.get(label.value, 0) * scene.grid.voxel_ml for label in labels.labels}
    legend = _legend(
        [(label, f"{label.name}  {_ml(volumes[label.value])}") for label in labels.labels if volumes[label.value]],
        [label.name for label in labels.labels if not volumes[label.value]],
        max(panels.width, WIDTH // 2),
    )
    _save(_stack([panels, legend]), path)


@dataclass(frozen=True, slots=True, eq=False)
class _Scene:
    """Scan and mask in canonical order, and what is to be seen of them."""

    image: NDArray[np.float32]
    values: NDArray
    grid: Grid
    window: tuple[float, float]
    found: Survey


def _scene(volume: Volume, mask: Mask) -> _Scene:
    if not mask.grid.matches(volume.grid):
        raise GeometryError(
            ReasonCode.GRID_MISMATCH,
            f"the mask ({mask.grid.describe()}) is not on the scan's grid ({volume.grid.describe()}): no picture",
        )
    orientation = volume.grid.to_canonical()
    image, values = orientation.apply(volume.array[0]), orientation.apply(mask.array)
    grid = orientation.apply_to_grid(volume.grid)
    return _Scene(image, values, grid, display_window(volume, image), survey(values))


def _draw_planes(scene: _Scene, labels: LabelMap) -> list[Image.Image]:
    """Return a picture of each plane, all at one scale, so that sizes can be compared."""
    planes = planes_of(scene.grid)
    sizes = [plane.size_mm(scene.grid) for plane in planes]
    gaps = GAP * (len(planes) - 1)
    scale = min((WIDTH - gaps) / sum(width for width, _ in sizes), HEIGHT / max(height for _, height in sizes))
    panels = []
    for plane, (width, height) in zip(planes, sizes, strict=True):
        size = max(1, round(width * scale)), max(1, round(height * scale))
        index = scene.found.slices[plane.axis]
        grey = in_grey(plane.picture_of(scene.image, index), scene.window)
        panel = _paint(grey, plane.picture_of(scene.values, index), labels, size)
        panels.append(_annotate(panel, plane))
    _draw_scale_bar(panels[0], scale)
    return panels


def _beside(panels: Sequence[Image.Image]) -> Image.Image:
    """Return the pictures in a row, centred on one line."""
    width = sum(panel.width for panel in panels) + GAP * (len(panels) - 1)
    row = Image.new("RGB", (width, max(panel.height for panel in panels)), BACKGROUND)
    left = 0
    for panel in panels:
        row.paste(panel, (left, (row.height - panel.height) // 2))
        left += panel.width + GAP
    return row


def _paint(grey: NDArray[np.uint8], values: NDArray, labels: LabelMap, size: tuple[int, int]) -> Image.Image:
    """Return the slice at `size` (width, height) with the labels' fill and outlines.

    Each label is enlarged on its own and cut at one half: smooth outlines where voxels are large. Where they are
    smaller than a pixel, what is too thin for that gets the pixels that its voxels lie in.
    """
    pixels = np.asarray(Image.fromarray(grey).resize(size, Image.Resampling.BICUBIC))
    present = set(np.unique(values).tolist())
    styles = np.zeros(pixels.shape, dtype=np.intp)
    ramp = np.repeat(np.arange(256.0)[:, None], 3, axis=1)
    looks = [ramp]  # style 0: grey as it is; then a label's fill and its outline, each a colour for every grey
    shown = [label for label in labels.labels if label.value in present]
    for label in shown:
        region = Image.fromarray(np.where(values == label.value, np.uint8(255), np.uint8(0)))
        inside = np.asarray(region.resize(size, Image.Resampling.BILINEAR)) > 127
        styles[inside] = len(looks)
        styles[inside & ~_shrunk(_shrunk(inside))] = len(looks) + 1
        looks += [ramp + (np.array(label.colour) - ramp) * opacity for opacity in (FILL_OPACITY, OUTLINE_OPACITY)]
    for outline, label in enumerate(shown, start=1):
        drawn = (styles == 2 * outline - 1) | (styles == 2 * outline)
        styles[_lost(values == label.value, drawn)] = 2 * outline
    return Image.fromarray(np.array(looks, dtype=np.uint8)[styles, pixels])


def _lost(region: NDArray[np.bool_], drawn: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return the pixels in which voxels of a region lie that has nothing drawn there, nor beside."""
    lost = np.zeros_like(drawn)
    row, column = (
        (2 * index + 1) * pixels // (2 * voxels)
        for index, pixels, voxels in zip(np.nonzero(region), drawn.shape, region.shape, strict=True)
    )
    lost[row, column] = True
    return lost & _shrunk(~drawn)


def _shrunk(region: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return `region` without its outermost pixels; the picture's border doesn't count as outside."""
    inner = region.copy()
    inner[1:] &= region[:-1]
    inner[:-1] &= region[1:]
    inner[:, 1:] &= region[:, :-1]
    inner[:, :-1] &= region[:, 1:]
    return inner


def _annotate(panel: Image.Image, plane: Plane) -> Image.Image:
    draw, font = ImageDraw.Draw(panel), _font(17)
    width, height = panel.size
    places = ((8, height / 2), (width - 8, height / 2), (width / 2, 6), (width / 2, height - 6))
    for letter, position, anchor in zip(plane.edges, places, ("lm", "rm", "mt", "mb"), strict=True):
        draw.text(position, letter, TEXT, font, anchor, stroke_width=2, stroke_fill=(0, 0, 0))
    draw.text((8, 6), plane.name, TEXT, _font(14), "lt", stroke_width=2, stroke_fill=(0, 0, 0))
    return panel


def _draw_scale_bar(panel: Image.Image, scale: float) -> None:
    length = next((mm for mm in BAR_LENGTHS_MM if mm * scale <= panel.width * 0.3), None)
    if length is None or panel.height < 60:
        return
    draw = ImageDraw.Draw(panel)
    right, bottom = panel.width - 12, panel.height - 12
    left = right - length * scale
    draw.rectangle((left - 1, bottom - 2, right + 1, bottom + 2), (0, 0, 0))
    draw.line((left, bottom, right, bottom), TEXT, 2)
    text = f"{length // 10} cm" if length >= 10 else f"{length} mm"
    draw.text((right, bottom - 5), text, TEXT, _font(14), "rb", stroke_width=2, stroke_fill=(0, 0, 0))


def _legend(entries: Sequence[tuple[Label, str]], absent: Sequence[str], width: int) -> Image.Image:
    """Return the legend: entries in columns as wide as the longest, then the labels not found."""
    font, line = _font(16), 26
    column = 24 + round(max((font.getlength(text) for _, text in entries), default=0)) + 28
    columns = max(1, width // column)
    rows = -(-len(entries) // columns)
    legend = Image.new("RGB", (width, line * (rows + bool(absent))), BACKGROUND)
    draw = ImageDraw.Draw(legend)
    for number, (label, text) in enumerate(entries):
        left, top = number % columns * column, number // columns * line
        draw.rounded_rectangle((left, top + 6, left + 14, top + 20), 3, label.colour)
        draw.text((left + 24, top + 13), text, TEXT, font, "lm")
    if absent:
        draw.text((0, line * rows + 13), _fitted("not found: ", absent, width), FAINT, font, "lm")
    return legend


def _fitted(start: str, names: Sequence[str], width: int) -> str:
    """Return the names in one line, as many as fit."""
    font = _font(16)
    room = width - font.getlength(f"{start} and {len(names)} more")
    ends = np.cumsum([font.getlength(f"{name}, ") for name in names])
    shown = max(1, int(np.count_nonzero(ends <= room)))
    rest = f" and {len(names) - shown} more" if shown < len(names) else ""
    return start + ", ".join(names[:shown]) + rest


def _stack(parts: Sequence[Image.Image]) -> Image.Image:
    parts = [part for part in parts if part.height]
    width = max(part.width for part in parts)
    height = sum(part.height for part in parts) + MARGIN * (len(parts) + 1)
    sheet = Image.new("RGB", (width + 2 * MARGIN, height), BACKGROUND)
    top = MARGIN
    for part in parts:
        sheet.paste(part, (MARGIN, top))
        top += part.height + MARGIN
    return sheet


def _save(sheet: Image.Image, path: Path) -> None:
    with atomic_file(path) as temporary:
        sheet.save(temporary, format="PNG", compress_level=1)


def _ml(volume: float) -> str:
    return f"{volume:.0f} ml" if volume >= 100 else f"{volume:.1f} ml" if volume >= 10 else f"{volume:.2g} ml"


@lru_cache
def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Return the font that matplotlib brings along; Pillow's own has no letters beyond ASCII."""
    found = find_spec("matplotlib")  # not imported
    for folder in (found.submodule_search_locations if found else None) or ():
        with suppress(OSError):  # where a system's packages keep fonts elsewhere
            return ImageFont.truetype(Path(folder, FONT), size)
    return ImageFont.load_default(size)
