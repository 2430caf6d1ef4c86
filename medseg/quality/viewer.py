"""A look at a case in a browser: scan and mask in three planes and 3D, drawn by NiiVue.

The page of a result holds its scan and mask, so it opens by a double click, without a server: a browser lets a
page from the disk read no other file, only run scripts that it names. NiiVue is 5 MB and shared by all cases:

    RESULTS/niivue.js               NiiVue, as `write_report` puts it there
            cases/<case>/view.html  the page, with the scan's voxels, or every second or third of a large scan
"""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from math import prod
from pathlib import Path

import numpy as np
from markupsafe import Markup

from medseg.geometry import Grid
from medseg.io.files import write_text
from medseg.io.nifti import nifti_bytes
from medseg.labels import Label, LabelMap
from medseg.quality.overlay import overlay_png
from medseg.quality.page import script_digest, template_of, text_of
from medseg.quality.slices import display_window, in_grey
from medseg.volume import Mask, Volume

VIEW = "view.html"
NIIVUE = "niivue.js"

INSTALL = "pip install 'medseg[viewer]'"

MOST_VOXELS = 4_000_000
"""Voxels of a scan that a page holds: about 2 MB, and 0.1 s to write; larger scans are thinned."""

MASK_OPACITY = 0.5


@dataclass(frozen=True, slots=True)
class Layer:
    """One volume of a page.

    Attributes
    ----------
    url : where its NIfTI or NRRD file is; from the page, or as data.
    name : of that file; its ending says what it is.
    low, high : intensities shown as black and white; None: a label map.
    lut : colours of a label map, four numbers a value: red, green, blue, opacity.
    """

    url: str
    name: str
    low: float | None = None
    high: float | None = None
    lut: tuple[int, ...] | None = None

    @classmethod
    def of_mask(cls, url: str, name: str, labels: LabelMap) -> Layer:
        """Return a label map in which the first label has the value 1, the second 2, and so on."""
        colours = (part for label in labels.labels for part in (*label.colour, 255))
        return cls(url, name, lut=(0, 0, 0, 0, *colours))


def niivue_file() -> Path | None:
    """Return NiiVue's script as the package ipyniivue installs it; None without that package.

    The package itself is not imported: that would need Jupyter.
    """
    spec = find_spec("ipyniivue")
    script = Path(spec.origin).parent / "static" / "widget.js" if spec and spec.origin else Path()
    return script if script.is_file() else None


def write_niivue(folder: Path) -> bool:
    """Put NiiVue's script where the pages of a results folder look for it; returns whether it is there.

    It is kept as text, because browsers refuse modules from the disk.

    Raises
    ------
    OutputError
        If it can't be written.
    """
    installed = niivue_file()
    if installed:
        origin = "// NiiVue, BSD 2-Clause License, https://github.com/niivue/niivue; from the package ipyniivue\n"
        source = json.dumps(installed.read_text(encoding="utf-8"))
        write_text(folder / NIIVUE, f"{origin}globalThis.niivueSource = {source};\n")
    return (folder / NIIVUE).is_file()


def draw_case(volume: Volume, mask: Mask, labels: LabelMap, path: Path) -> None:
    """Draw a case as `overlay_png` does, and with NiiVue installed write the page to look at it, too."""
    overlay_png(volume, mask, labels, path)
    if niivue_file():
        write_view(volume, mask, labels, path.with_name(VIEW))


def write_view(volume: Volume, mask: Mask, labels: LabelMap, path: Path) -> None:
    """Write the page of a result, which goes to ``cases/<case>/`` of a results folder.

    Parameters
    ----------
    volume : the scan; its first channel is shown, in the 256 greys of its display window.
    mask : on the scan's grid.

    Raises
    ------
    OutputError
        If the file can't be written.
    """
    steps = steps_within(volume.grid, MOST_VOXELS)
    x, y, z = (slice(None, None, step) for step in steps)
    scan = volume.array[0][x, y, z]
    grid = Grid((scan.shape[0], scan.shape[1], scan.shape[2]), volume.grid.affine @ np.diag([*steps, 1.0]))
    low, high = display_window(volume, scan)
    grey = nifti_bytes(in_grey(scan, (low, high)), grid, slope=(high - low) / 255, intercept=low)
    classes = labels.encode(mask.array[x, y, z])
    layers = [
        Layer(_data(grey), "scan.nii.gz", low, high),
        Layer.of_mask(_data(nifti_bytes(classes, grid)), "mask.nii.gz", labels),
    ]
    present = [labels.labels[number - 1] for number in np.unique(classes).tolist() if number]
    sizes = " × ".join(map(str, steps))
    note = f"one of {sizes} voxels is shown; small parts may be missing" if prod(steps) > 1 else ""
    write_text(path, render_view(layers, present, home="../../report.html", note=note))


def steps_within(grid: Grid, voxels: int) -> tuple[int, int, int]:
    """Return the step along each axis with which a grid has at most so many voxels.

    The axis with the closest voxels is thinned first, so they become as like to cubes as they can be.

    Examples
    --------
    >>> steps_within(Grid((512, 512, 60), np.diag([0.8, 0.8, 5.0, 1.0])), 4_000_000)
    (2, 2, 1)
    """
    steps = [1, 1, 1]
    while prod(-(-size // step) for size, step in zip(grid.shape, steps, strict=True)) > voxels:
        distances = [step * spacing for step, spacing in zip(steps, grid.spacing, strict=True)]
        steps[distances.index(min(distances))] += 1
    return steps[0], steps[1], steps[2]


def render_view(
    layers: Sequence[Layer],
    labels: Sequence[Label],
    *,
    home: str,
    case: str = "",
    note: str = "",
    niivue: str = "",
) -> str:
    """Return a page that shows a scan and, as the second layer, its mask.

    Parameters
    ----------
    labels : named in the page's head; none if no mask is shown.
    home : where the list of cases is.
    case : the case's name; "": the name of the folder that the page is in.
    note : what a reader should know of what is shown.
    niivue : address of NiiVue's module; "": as `write_niivue` puts it into a results folder.
    """
    script = text_of("view.js")
    what = {"layers": [asdict(layer) for layer in layers], "niivue": niivue, "opacity": MASK_OPACITY}
    return template_of("view.html").render(
        what=what,
        labels=labels,
        home=home,
        case=case,
        note=note,
        niivue_text="" if niivue else f"../../{NIIVUE}",
        script=Markup(script),
        digest=script_digest(script),
    )


def _data(content: bytes) -> str:
    return f"data:application/octet-stream;base64,{base64.b64encode(content).decode('ascii')}"
