"""Boxes of voxels, such as those around the labels of a mask: work on them grows with the structures, not the scan.

A box is a tuple of three slices with start and stop, in voxels of an array.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

Box = tuple[slice, slice, slice]


def box_at(start: Sequence[int], size: Sequence[int]) -> Box:
    """Return the box of `size` voxels whose first is `start`.

    Examples
    --------
    >>> box_at((0, 8, 4), (2, 2, 2))
    (slice(0, 2, None), slice(8, 10, None), slice(4, 6, None))
    """
    x, y, z = (slice(first, first + length) for first, length in zip(start, size, strict=True))
    return x, y, z


def occupied_box(array: NDArray) -> Box | None:
    """Return the smallest box that holds every non-zero voxel of `array` (X, Y, Z); None if all are 0.

    Examples
    --------
    >>> array = np.zeros((5, 6, 7), dtype=np.uint8)
    >>> array[2, 1:4, 5] = 9
    >>> occupied_box(array)
    (slice(2, 3, None), slice(1, 4, None), slice(5, 6, None))
    """
    shadow = array.max(axis=0)
    y, z = np.flatnonzero(shadow.max(axis=1)), np.flatnonzero(shadow.max(axis=0))
    if not len(y):
        return None
    across, along = _slice(y), _slice(z)
    return _slice(np.flatnonzero(array[:, across, along].max(axis=(1, 2)))), across, along


def label_boxes(array: NDArray) -> dict[int, Box]:
    """Return the box of every value of `array` (X, Y, Z), an unsigned integer mask, except 0.

    Notes
    -----
    512x512x256 uint8 with 20 organs: 0.06 s. `scipy.ndimage.find_objects` alone takes 0.3 s, and 1 s
    on an array in Fortran order, which is what nibabel gives: hence the crop and the transposition.
    """
    from scipy import ndimage  # 0.4 s to import, which preparing scans need not pay

    whole = occupied_box(array)
    if whole is None:
        return {}
    inside = array[whole]
    is_fortran = abs(inside.strides[0]) < abs(inside.strides[2])
    found = ndimage.find_objects(inside.T if is_fortran else inside)
    boxes = {value: box[::-1] if is_fortran else box for value, box in enumerate(found, start=1) if box is not None}
    return {value: _shifted(box, whole) for value, box in boxes.items()}


def united(boxes: Iterable[Box | None]) -> Box | None:
    """Return the smallest box that holds all `boxes`; None if there are none."""
    present = [box for box in boxes if box is not None]
    if not present:
        return None
    x, y, z = (slice(min(s.start for s in axis), max(s.stop for s in axis)) for axis in zip(*present, strict=True))
    return x, y, z


def _slice(positions: NDArray) -> slice:
    return slice(int(positions[0]), int(positions[-1]) + 1)


def _shifted(box: Box, origin: Box) -> Box:
    x, y, z = (slice(s.start + o.start, s.stop + o.start) for s, o in zip(box, origin, strict=True))
    return x, y, z
