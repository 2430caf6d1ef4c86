"""What a pitfall is, and the list of all of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

SLACK_MM = 0.05
"""Largest distance between a corner voxel and its true place that is still rounding."""

Field = Callable[[NDArray[np.float64]], NDArray[np.float64]]
"""From world positions (..., 3), RAS mm, to HU; NaN where there is no tissue, only padding."""


def ramp(world: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return 200 + 2x + 3y + 5z: an error of 1 mm shows as 2, 3 or 5 HU, and names its axis."""
    return 200 + world @ [2.0, 3.0, 5.0]


def brighter_ramp(world: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the ramp 1000 HU up, for a second scan of the same place."""
    return ramp(world) + 1000


@dataclass(frozen=True, slots=True)
class Truth:
    """One volume that a sound reader must give.

    Attributes
    ----------
    corners : (8, 3) centres of its corner voxels, RAS mm.
    field : what every voxel holds.
    slack_mm : how far a corner may be off; more than rounding only where resampling is the repair.
    """

    corners: NDArray[np.float64]
    field: Field = ramp
    slack_mm: float = SLACK_MM


@dataclass(frozen=True, slots=True)
class Pitfall:
    """A hostile folder.

    Attributes
    ----------
    name : of its folder.
    wrong : what is wrong with it, in one sentence.
    expected : what medseg must do by default: "right", or the reason code of its refusal.
    repair : the code whose policy "repair" makes it right; "" if nothing is to be repaired.
    flags : codes that must be recorded with the scan when it is right by default.
    studied : whether the other readers were measured on it in the study that medseg's ingest follows.
    write : fills a folder and returns the volumes that are in it.
    """

    name: str
    wrong: str
    expected: str
    repair: str
    flags: tuple[str, ...]
    studied: bool
    write: Callable[[Path], list[Truth]]


PITFALLS: dict[str, Pitfall] = {}


def pitfall(
    expected: str, *, repair: str = "", flags: tuple[str, ...] = (), studied: bool = False
) -> Callable[[Callable[[Path], list[Truth]]], Callable[[Path], list[Truth]]]:
    """Register the decorated function; its name is the folder's, its docstring says what is wrong."""

    def register(write: Callable[[Path], list[Truth]]) -> Callable[[Path], list[Truth]]:
        wrong = " ".join((write.__doc__ or "").split())
        PITFALLS[write.__name__] = Pitfall(write.__name__, wrong, expected, repair, flags, studied, write)
        return write

    return register
