"""What lies at one position of a DICOM series: copies of a slice, which are left out, and images of several phases."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from itertools import combinations
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from medseg.errors import ReasonCode, SeriesError
from medseg.io.dicom_elements import PHASE_KEYWORDS
from medseg.io.dicom_geometry import SAME_POSITION_MM, slice_normal
from medseg.io.dicom_headers import SliceHeader

Key = TypeVar("Key")


def without_copies(
    slices: list[SliceHeader],
    directions: NDArray[np.float64],
    same_pixels: Callable[[SliceHeader, SliceHeader], bool],
) -> tuple[list[SliceHeader], list[SliceHeader]]:
    """Return the slices without those that repeat another one's instance or image, and the repetitions.

    Raises
    ------
    SeriesError
        `CONFLICT` if one instance UID is of two images, or of two positions.
    """
    kept: list[SliceHeader] = []
    copies: list[SliceHeader] = []
    for place in _places(slices, directions):
        unique: list[SliceHeader] = []
        for header in place:
            twin = next((other for other in unique if _may_repeat(header, other) and same_pixels(header, other)), None)
            if twin is not None:
                copies.append(header)
            elif header.image and any(header.image == other.image for other in unique):
                raise SeriesError(ReasonCode.CONFLICT, "has two different images under one instance UID")
            else:
                unique.append(header)
        kept += unique
    images = [header.image for header in kept if header.image]
    if len(set(images)) < len(images):
        raise SeriesError(ReasonCode.CONFLICT, "has one instance UID at two positions")
    return kept, copies


def split_phases(slices: list[SliceHeader], directions: NDArray[np.float64]) -> dict[str, list[SliceHeader]]:
    """Split slices whose positions repeat by what tells the repetitions apart.

    An attribute explains them if each of its values covers every position exactly once; anything less
    could pick a regular subset, such as every second slice, and pass for a volume.

    Returns
    -------
    dict
        The slices of each phase, by what is added to the identity of their series; "" where nothing repeats.

    Raises
    ------
    SeriesError
        `PHASES` if nothing explains the repetitions, `CONFLICT` if not all positions repeat as often.
    """
    places = _places(slices, directions)
    if len(places) == len(slices):
        return {"": slices}
    repeats = {len(place) for place in places}
    if len(repeats) > 1:
        raise SeriesError(ReasonCode.CONFLICT, "holds several different images at some of its positions")
    if len(places) > 1 and slices[0].frames == 1:
        for count in (1, 2):
            for chosen in combinations(range(len(PHASE_KEYWORDS)), count):
                parts = grouped(slices, lambda header: tuple(header.phase[i] for i in chosen))  # noqa: B023
                if all(len(_places(part, directions)) == len(part) == len(places) for part in parts.values()):
                    names = [PHASE_KEYWORDS[i] for i in chosen]
                    return {f"|{names}={values}": part for values, part in parts.items()}
    found = f"holds {repeats.pop()} images at each of its {len(places)} positions"
    if slices[0].frames > 1:
        raise SeriesError(
            ReasonCode.PHASES,
            f"{found} in multi-frame files, whose frames are not parted; export each phase as a series of its own",
        )
    raise SeriesError(ReasonCode.PHASES, f"{found}, and no attribute tells them apart")


def grouped(slices: Iterable[SliceHeader], key: Callable[[SliceHeader], Key]) -> dict[Key, list[SliceHeader]]:
    """Return slices by what `key` gives for each, in their order."""
    groups: dict[Key, list[SliceHeader]] = defaultdict(list)
    for header in slices:
        groups[key(header)].append(header)
    return dict(groups)


def _may_repeat(one: SliceHeader, other: SliceHeader) -> bool:
    """Whether equal pixels make one slice a copy of the other; blank slices of two echoes are equal, too."""
    is_same_phase = one.phase[:-1] == other.phase[:-1]  # the last is a time, which a copy may have of its own
    return is_same_phase or bool(one.image and one.image == other.image)


def _places(slices: Sequence[SliceHeader], directions: NDArray[np.float64]) -> list[list[SliceHeader]]:
    """Group slices that lie at one position, in order along the normal."""
    along = np.array([header.position for header in slices]) @ slice_normal(directions)
    order = np.argsort(along, kind="stable")
    places: list[list[SliceHeader]] = []
    for previous, index in zip([None, *order[:-1]], order, strict=True):
        if previous is None or along[index] - along[previous] > SAME_POSITION_MM:
            places.append([])
        places[-1].append(slices[index])
    return places
