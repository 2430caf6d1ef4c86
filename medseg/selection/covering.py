"""Choose points that cover the others: greedy k-centre."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class Centre(NamedTuple):
    """A chosen point.

    Attributes
    ----------
    row : which one.
    distance : to the nearest point that was covered before it; None: nothing was.
    """

    row: int
    distance: float | None


def k_centres(
    points: NDArray[np.float64], count: int, covered: NDArray[np.float64] | None = None, first: int | None = None
) -> list[Centre]:
    """Return points in the order in which each is the farthest from all before it.

    The largest distance of any point to its nearest centre is at most twice the least possible (Gonzalez,
    1985; for choosing what to label: Sener and Savarese, ICLR 2018). Of equally far points the first wins,
    so that copies of a chosen point come last.

    Parameters
    ----------
    points : (n, d).
    count : how many; all of them if there are fewer.
    covered : (m, d) points that need no centre, such as what is labelled already.
    first : row to begin with where nothing is covered; default: the point with the least sum of distances to all.
    """
    chosen: list[Centre] = []
    nearest = np.full(len(points), np.inf)
    for point in [] if covered is None else covered:
        nearest = np.minimum(nearest, _distances(points, point))
    left = np.ones(len(points), dtype=bool)
    for _ in range(min(count, len(points))):
        if np.isinf(nearest).all():
            centre = Centre(_middle(points) if first is None else first, None)
        else:
            row = int(np.argmax(np.where(left, nearest, -1.0)))
            centre = Centre(row, float(nearest[row]))
        chosen.append(centre)
        left[centre.row] = False
        nearest = np.minimum(nearest, _distances(points, points[centre.row]))
    return chosen


def _middle(points: NDArray[np.float64]) -> int:
    return int(np.argmin([_distances(points, point).sum() for point in points]))


def _distances(points: NDArray[np.float64], point: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.linalg.norm(points - point, axis=1)
