"""Find the regular line of slices that positions lie on, and what keeps them from lying on one.

Three faults are told apart. Missing slices: every distance is a whole multiple of the smallest. Variable
spacing: the distances have no common measure. Gantry tilt: each slice drifts sideways by the same amount.
A repair puts regular planes between the first slice and the last; intensities are interpolated onto them
(`interpolate_planes`), and a mask returns to the slices from the nearest plane.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medseg.errors import ReasonCode
from medseg.geometry import ORTHOGONALITY_TOLERANCE

COSINE_TOLERANCE = 1e-3
"""Largest deviation of a direction's length from 1, and of two directions' scalar product from 0: cosines are printed
with few decimals (GDCM's tolerance, ``DirectionCosines::IsValid``)."""

SAME_POSITION_MM = 0.01
"""Slices closer than this lie at one position (scanners print 0.001 mm and finer)."""

GAP_TOLERANCE = 0.01
"""Largest relative deviation of a slice distance from the median (contract of the ingest study)."""

GAP_TOLERANCE_MM = 0.01
"""Deviation of a slice distance that is always rounding: positions are printed to 0.001 mm or better."""

MULTIPLE_TOLERANCE = 0.05
"""How close to a whole multiple of the slice distance a gap must be to count as missing slices."""

LARGEST_MULTIPLE = 10
"""Gaps of more slices than this are no sign that the smallest distance is the rule."""

TILT_TOLERANCE = 1e-3
"""Largest sideways drift per mm along the normal that is still rounding (0.06 degrees)."""

LARGEST_TILT = 45.0
"""Degrees beyond which no gantry tilts (most reach 30): the positions must be wrong."""

LINE_TOLERANCE = 0.1
"""Largest distance of a slice from its place on the straight line, as a part of the slice distance."""

BRIDGE_MM = 10.0
"""Longest gap that is interpolated, unless it lacks a single slice: beyond it, anatomy would be invented."""

LARGEST_GROWTH = 4
"""Most planes that a repair makes of each slice."""


@dataclass(frozen=True, slots=True)
class Fault:
    """Something wrong with the positions.

    Attributes
    ----------
    code : what.
    message : the same in words, to follow "the series".
    repair : what repairing it does, in words; None: it can't be repaired.
    """

    code: ReasonCode
    message: str
    repair: str | None


@dataclass(frozen=True, slots=True, eq=False)
class Line:
    """Regular planes.

    Attributes
    ----------
    step : (3,) from plane to plane, mm.
    count : number of planes.
    places : (N,) where each slice lies, in planes from the first; 0, 1, 2, ... where nothing is wrong.
    faults : what has to be repaired to use the planes.
    """

    step: NDArray[np.float64]
    count: int
    places: NDArray[np.float64]
    faults: tuple[Fault, ...] = ()

    @property
    def is_even(self) -> bool:
        """Whether every plane is a slice, and nothing has to be interpolated."""
        return np.array_equal(self.places, np.arange(self.count))


def unit_directions(cosines: NDArray[np.float64]) -> NDArray[np.float64] | None:
    """Return the perpendicular unit directions (2, 3) that slices' row and column cosines (n, 2, 3) mean.

    None if they are farther from perpendicular unit vectors than rounding brings them.
    """
    lengths, dots = np.linalg.norm(cosines, axis=2), np.abs((cosines[:, 0] * cosines[:, 1]).sum(axis=1))
    if max(np.abs(lengths - 1).max(), dots.max()) > COSINE_TOLERANCE:
        return None
    mean = cosines.mean(axis=0)
    if dots.max() > ORTHOGONALITY_TOLERANCE:
        left, _, right = np.linalg.svd(mean, full_matrices=False)
        mean = left @ right  # the nearest pair that is perpendicular
    return np.asarray(mean / np.linalg.norm(mean, axis=1, keepdims=True))


def slice_normal(directions: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the unit normal of (2, 3) row and column directions."""
    normal = np.cross(directions[0], directions[1])
    return np.asarray(normal / np.linalg.norm(normal))


def fit_line(positions: NDArray[np.float64], normal: NDArray[np.float64], *, fallback: float) -> Line:
    """Return the planes that slices lie on.

    Parameters
    ----------
    positions : (N, 3) positions of the first pixel, ordered along `normal`, no two alike.
    normal : (3,) unit slice normal.
    fallback : slice distance of a single slice, mm.
    """
    if len(positions) == 1:
        return Line(normal * fallback, 1, np.zeros(1))
    along = (positions - positions[0]) @ normal
    places, gap_fault = _places(np.diff(along))
    distance = along[-1] / places[-1]
    drift = (positions[-1] - positions[0]) / along[-1]  # 1 mm along the normal moves a slice by this
    step = distance * drift
    faults = (gap_fault, _tilt(drift - normal, along[-1]), _bend(positions, places, step, distance))
    return Line(step, round(places[-1]) + 1, places, tuple(fault for fault in faults if fault))


def interpolate_planes(stack: NDArray[np.float32], line: Line) -> NDArray[np.float32]:
    """Return the values (P, rows, columns) on a line's planes, linear between the slices (N, rows, columns)."""
    planes = np.arange(line.count)
    after = np.clip(np.searchsorted(line.places, planes), 1, len(stack) - 1)
    share = (planes - line.places[after - 1]) / (line.places[after] - line.places[after - 1])
    result = np.empty((line.count, *stack.shape[1:]), dtype=np.float32)
    for plane, (upper, weight) in enumerate(zip(after, np.clip(share, 0, 1).astype(np.float32), strict=True)):
        if weight in (0, 1):  # the slice itself, whatever its neighbour holds
            result[plane] = stack[upper - 1 + int(weight)]
        else:
            np.multiply(stack[upper - 1], 1 - weight, out=result[plane])
            result[plane] += stack[upper] * weight
    return result


def _places(gaps: NDArray[np.float64]) -> tuple[NDArray[np.float64], Fault | None]:
    """Return where the slices lie among regular planes, the last on a plane too, and what is wrong with their gaps."""
    slices = len(gaps) + 1
    median, least, most = float(np.median(gaps)), float(gaps.min()), float(gaps.max())
    if np.abs(gaps - median).max() <= max(GAP_TOLERANCE * median, GAP_TOLERANCE_MM):
        return np.arange(slices, dtype=float), None
    multiples = np.rint(gaps / least)
    if np.abs(gaps / least - multiples).max() <= MULTIPLE_TOLERANCE and multiples.max() <= LARGEST_MULTIPLE:
        first, missing = int(np.argmax(multiples > 1)), int((multiples - 1).sum())
        message = (
            f"lacks {missing} slice(s): {gaps[first]:.4g} mm between slices {first + 1} and {first + 2} where "
            f"{least:.4g} mm is the rule; export it again"
        )
        repair = f"interpolated {missing} missing slice(s) between {slices}" if _can_bridge(gaps, least) else None
        return np.cumsum([0, *multiples]), Fault(ReasonCode.MISSING_SLICE, message, repair)
    distance = max(least, median / 2)  # one slice that lies close to its neighbour does not set the rule
    distance = gaps.sum() / max(1, np.rint(gaps.sum() / distance))
    span = f"from {least:.4g} to {most:.4g} mm"
    repair = f"interpolated planes {distance:.4g} mm apart between slices {span} apart"
    return np.cumsum([0, *gaps]) / distance, Fault(
        ReasonCode.VARIABLE_SPACING,
        f"has slice distances {span}; a volume needs one distance",
        repair if _can_bridge(gaps, distance) else None,
    )


def _can_bridge(gaps: NDArray[np.float64], distance: float) -> bool:
    bridged = gaps.max() <= max(BRIDGE_MM, 2 * distance) * (1 + MULTIPLE_TOLERANCE)
    return bool(bridged and gaps.sum() / distance <= LARGEST_GROWTH * (len(gaps) + 1))


def _tilt(drift: NDArray[np.float64], length: float) -> Fault | None:
    """Return the tilt; `drift` is sideways per mm along the normal."""
    size = float(np.linalg.norm(drift))
    if size <= TILT_TOLERANCE or size * length <= GAP_TOLERANCE_MM:
        return None
    angle = np.degrees(np.arctan(size))
    repair = (
        f"kept the slices where they are, sheared by {angle:.1f} degrees; networks see them straight to half a voxel"
    )
    return Fault(
        ReasonCode.GANTRY_TILT,
        f"was taken with a tilted gantry ({angle:.1f} degrees): its slices are sheared",
        repair if angle <= LARGEST_TILT else None,
    )


def _bend(
    positions: NDArray[np.float64], places: NDArray[np.float64], step: NDArray[np.float64], distance: float
) -> Fault | None:
    off = float(np.abs(positions - (positions[0] + places[:, None] * step)).max())
    if off <= max(LINE_TOLERANCE * distance, GAP_TOLERANCE_MM):
        return None
    message = f"has slices up to {off:.3g} mm off the straight line through its positions"
    return Fault(ReasonCode.VARIABLE_SPACING, message, None)


def are_torn(parts: Sequence[NDArray[np.float64]]) -> bool:
    """Whether parts of a series seem to be one evenly spaced volume: every second slice would pass for another one.

    Parameters
    ----------
    parts : positions (mm) of each part's slices along their normal; a slice may be there twice.
    """
    along, part = np.concatenate(parts), np.repeat(np.arange(len(parts)), [len(one) for one in parts])
    order = np.lexsort((part, along))
    along, part = along[order], part[order]
    steps, changes = np.diff(along), np.diff(part) != 0
    is_copy = steps <= SAME_POSITION_MM
    steps = steps[~is_copy]
    if len(along) < 3 or not len(steps) or (is_copy & changes).any():  # both have a slice there: volumes of their own
        return False
    steps = steps / np.median(steps)
    slices = np.rint(steps)  # more than 1 where some are missing
    if (np.abs(steps - slices) > GAP_TOLERANCE * slices).any():
        return False
    return bool(np.count_nonzero(changes) >= len(parts) or len(parts) == len(steps) + 1)
