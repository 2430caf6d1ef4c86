"""The outline of a mask's slice as closed polygons, and back.

Outlines run half-way between the centres of pixels inside and outside (marching squares): a pixel is inside if
its centre is, so filling an outline gives the mask back, pixel for pixel. Each corner is cut, by an eighth of a
pixel: an outline encloses half a pixel less than its pixels do, whatever its size.

A hole is joined to the outline around it by a channel without width, the keyhole technique of PS3.3 C.8.8.6.3,
which every reader understands, whether it fills by parity, by winding or each contour on its own. The channel
runs a quarter pixel beside the centres, so that none lies on it.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from contourpy import FillType, contour_generator
from numpy.typing import NDArray

Polygon = NDArray[np.float64]
"""Corners (N, 2) in pixels, (x, y) from the centre of pixel (0, 0); the last joins the first."""

BESIDE = 0.25
"""How far beside the pixels' centres a channel runs: corners lie at whole and half pixels only."""


def outline(inside: NDArray[np.bool_]) -> list[Polygon]:
    """Return the outlines of a slice, a polygon for each connected part, its holes joined to it.

    Parameters
    ----------
    inside : (X, Y).

    Examples
    --------
    >>> outline(np.array([[True, True]]))
    [array([[-0.5,  0. ],
           [ 0. , -0.5],
           [ 0.5,  0. ],
           [ 0.5,  1. ],
           [ 0. ,  1.5],
           [-0.5,  1. ]])]
    """
    where = np.argwhere(inside)
    if not len(where):
        return []
    start, stop = where.min(axis=0), where.max(axis=0) + 1
    cropped = np.pad(inside[start[0] : stop[0], start[1] : stop[1]], 1)
    generator = contour_generator(z=cropped.T.astype(np.float64), name="serial", fill_type=FillType.OuterOffset)
    polygons = []
    for corners, ends in zip(*generator.filled(0.5, 2.0), strict=True):
        rings = [_without_straight(corners[first : last - 1]) for first, last in pairwise(ends)]
        joined = rings[0]
        for hole in sorted(rings[1:], key=lambda ring: float(ring[:, 0].min())):  # each reaches those left of it
            joined = _with_hole(joined, hole)
        polygons.append(joined + (start - 1.0))
    return polygons


def fill(polygons: list[Polygon], shape: tuple[int, int]) -> NDArray[np.bool_]:
    """Return which pixels' centres lie within an odd number of polygons (X, Y).

    Along each line of pixels the parity changes where an edge crosses it; an edge has its lower end but not
    its upper one, so that a corner on the line counts once.
    """
    changes = np.zeros((shape[0] + 1, shape[1]), np.uint8)
    if polygons:
        start = np.concatenate(polygons)
        end = np.concatenate([np.roll(polygon, -1, axis=0) for polygon in polygons])
        first = np.clip(np.ceil(np.minimum(start[:, 1], end[:, 1])), 0, shape[1]).astype(int)
        last = np.clip(np.ceil(np.maximum(start[:, 1], end[:, 1])), 0, shape[1]).astype(int)
        count = last - first
        edge = np.repeat(np.arange(len(start)), count)
        line = np.arange(len(edge)) - np.repeat(np.cumsum(count) - count, count) + first[edge]
        (x0, y0), (x1, y1) = start[edge].T, end[edge].T
        crossing = np.clip(np.ceil(x0 + (line - y0) * (x1 - x0) / (y1 - y0)), 0, shape[0]).astype(int)
        np.bitwise_xor.at(changes, (crossing, line), 1)
    return np.bitwise_xor.accumulate(changes, axis=0)[:-1].astype(bool)


def _without_straight(ring: Polygon) -> Polygon:
    """Leave out corners at which the outline goes straight on."""
    before, after = ring - np.roll(ring, 1, axis=0), np.roll(ring, -1, axis=0) - ring
    return ring[before[:, 0] * after[:, 1] != before[:, 1] * after[:, 0]]


def _with_hole(outer: Polygon, hole: Polygon) -> Polygon:
    """Join a hole to the outline on its left."""
    y = hole[hole[:, 0].argmin(), 1] + BESIDE
    x_hole, edge_hole = min(_crossings(hole, y))
    x_outer, edge_outer = max(crossing for crossing in _crossings(outer, y) if crossing[0] < x_hole)
    there, back = np.array([[x_outer, y]]), np.array([[x_hole, y]])
    around = np.roll(hole, -edge_hole - 1, axis=0)
    return np.concatenate([outer[: edge_outer + 1], there, back, around, back, there, outer[edge_outer + 1 :]])


def _crossings(ring: Polygon, y: float) -> list[tuple[float, int]]:
    """Return where a line of constant y crosses a ring: x, and the number of the edge."""
    following = np.roll(ring, -1, axis=0)
    edges = np.flatnonzero((ring[:, 1] > y) != (following[:, 1] > y))
    start, end = ring[edges], following[edges]
    x = start[:, 0] + (y - start[:, 1]) * (end[:, 0] - start[:, 0]) / (end[:, 1] - start[:, 1])
    return list(zip(x.tolist(), edges.tolist(), strict=True))
