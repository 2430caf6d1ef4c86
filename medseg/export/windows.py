"""Windows as a model sees them when it segments: what its export is calibrated on and compared by."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from medseg.boxes import box_at
from medseg.catalog.channels import join_channels, with_stacks
from medseg.catalog.index import index_scans
from medseg.errors import DatasetError, ScanError
from medseg.inference.forward import tile_scan
from medseg.inference.predictor import prepare_scan
from medseg.io.scan import read_case
from medseg.networks.model import Model
from medseg.plan import Plan
from medseg.preprocessing.prepare import Prepared
from medseg.volume import Case

WINDOWS = 16
"""Windows that are drawn from scans: ranges of 8-bit numbers hardly change with more."""

PER_SCAN = 4
"""Windows of one scan at most, so that several scans are seen."""

NOISE_WINDOWS = 4
"""Windows without scans: noise is everywhere alike."""

NOISE_SIGMA = 2.0
"""Smoothness of windows without scans, voxels: structures of several voxels, as in scans."""

Window = NDArray[np.float32]
"""(C, X, Y, Z), prepared."""


def windows_of(scans: Path, model: Model, count: int = WINDOWS) -> list[Window]:
    """Return windows of scans, prepared and laid as a model segments them, spread evenly over scans and windows.

    Windows that hold nothing but one value are left out. Scans that can't be read, or that the model
    refuses, are passed over.

    Raises
    ------
    DatasetError
        If no scan gives a window.
    """
    plan, channels = model.plan, len(model.plan.channels)
    found = join_channels(with_stacks(index_scans(scans), channels).with_status("accepted"), channels)
    cases = [scan.case() for scan in found if scan.has(channels)]
    windows: list[Window] = []
    for case in _spread(cases, len(cases)):
        if len(windows) >= count:
            break
        windows += _of_case(case, model, min(PER_SCAN, count - len(windows)))
    if not windows:
        raise DatasetError(
            f"{scans}: of {len(cases)} scans none gives a window to calibrate on; give a folder with scans such as the "
            f"model segments, with {channels} channel(s): {', '.join(plan.channels)}"
        )
    return windows


def noise(plan: Plan) -> list[Window]:
    """Return smooth noise of the normalised scale, the same at every call."""
    rng = np.random.default_rng(0)
    shape = (len(plan.channels), *plan.patch)
    sigma = (0.0, *(NOISE_SIGMA if size > 1 else 0.0 for size in plan.patch))
    drawn = (gaussian_filter(rng.normal(size=shape), sigma) for _ in range(NOISE_WINDOWS))
    return [(window / window.std()).astype(np.float32) for window in drawn]


def _of_case(case: Case, model: Model, count: int) -> list[Window]:
    try:
        prepared = prepare_scan(read_case(case)[0], model)
    except ScanError:
        return []
    useful = [window for window in _laid(prepared, model.plan, model.inference.overlap) if np.ptp(window) > 0]
    return list(_spread(useful, count))


def _laid(prepared: Prepared, plan: Plan, overlap: float) -> Iterator[Window]:
    tiling, image = tile_scan(prepared, plan, overlap)
    for origin in tiling.origins:
        yield image[(slice(None), *box_at(origin, tiling.window))]


def _spread(items: Sequence, count: int) -> Iterator:
    """Yield `count` items, or all, from the whole length of a sequence and not in its order."""
    order = np.random.default_rng(0).permutation(len(items))[:count]
    yield from (items[number] for number in order)
