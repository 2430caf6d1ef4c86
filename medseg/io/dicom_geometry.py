"""Check that slice positions lie on one straight, evenly divided line along the slice normal."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from medseg.errors import ReasonCode

GAP_TOLERANCE = 0.01
"""Largest relative deviation of a slice distance from the median (contract of the ingest study)."""

GAP_TOLERANCE_MM = 0.01
"""Deviation of a slice distance that is always rounding: positions are printed to 0.001 mm or better."""

MULTIPLE_TOLERANCE = 0.05
"""How close to a whole multiple of the slice distance a gap must be to count as missing slices."""

TILT_TOLERANCE = 1e-3
"""Largest sideways drift per mm along the normal that is still rounding (0.06 degrees)."""

LINE_TOLERANCE = 0.1
"""Largest distance of a slice from its place on the straight line, as a part of the slice distance."""


class LineError(Exception):
    """Positions do not make a volume; `code` says how."""

    def __init__(self, code: ReasonCode, message: str) -> None:
        super().__init__(message)
        self.code = code


def slice_normal(directions: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the unit normal of (2, 3) row and column directions."""
    normal = np.cross(directions[0], directions[1])
    return np.asarray(normal / np.linalg.norm(normal))


def check_line(positions: NDArray[np.float64], normal: NDArray[np.float64], *, fallback: float) -> NDArray[np.float64]:
    """Return the step (3,) from slice to slice, mm.

    Parameters
    ----------
    positions : (N, 3) positions of the first pixel, ordered along `normal`, no two alike.
    normal : (3,) unit slice normal.
    fallback : slice distance of a single slice, mm.

    Raises
    ------
    LineError
        `MISSING_SLICE`, `VARIABLE_SPACING` or `GANTRY_TILT`.
    """
    if len(positions) == 1:
        return normal * fallback
    along = positions @ normal
    gaps = np.diff(along)
    _check_gaps(gaps)
    step = (positions[-1] - positions[0]) / (len(positions) - 1)
    distance = float(step @ normal)
    drift = float(np.linalg.norm(step - distance * normal))
    if drift > TILT_TOLERANCE * distance and drift * (len(positions) - 1) > GAP_TOLERANCE_MM:
        angle = np.degrees(np.arctan2(drift, distance))
        raise LineError(
            ReasonCode.GANTRY_TILT, f"was taken with a tilted gantry ({angle:.1f} degrees): its slices are sheared"
        )
    off = np.abs(positions - (positions[0] + np.arange(len(positions))[:, None] * step)).max()
    if off > max(LINE_TOLERANCE * distance, GAP_TOLERANCE_MM):
        raise LineError(
            ReasonCode.VARIABLE_SPACING, f"has slices up to {off:.3g} mm off the straight line through its positions"
        )
    return np.asarray(step)


def _check_gaps(gaps: NDArray[np.float64]) -> None:
    median, least = float(np.median(gaps)), float(gaps.min())
    if np.abs(gaps - median).max() <= max(GAP_TOLERANCE * median, GAP_TOLERANCE_MM):
        return
    multiples = np.rint(gaps / least)
    if np.abs(gaps / least - multiples).max() <= MULTIPLE_TOLERANCE:
        first = int(np.argmax(multiples > 1))
        raise LineError(
            ReasonCode.MISSING_SLICE,
            f"lacks {int((multiples - 1).sum())} slice(s): {gaps[first]:.4g} mm between slices {first + 1} and "
            f"{first + 2} where {least:.4g} mm is the rule; export it again",
        )
    raise LineError(
        ReasonCode.VARIABLE_SPACING,
        f"has slice distances from {least:.4g} to {gaps.max():.4g} mm; a volume needs one distance",
    )
