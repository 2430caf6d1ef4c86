"""Where voxels are: grids and orientations, without pixels.

Conventions, true everywhere in medseg:

* Arrays are ``(X, Y, Z)`` in the index order of the affine; with channels ``(C, X, Y, Z)``;
  batches ``(B, C, X, Y, Z)``; 2D drops the slice axis. Functions here act on the *last three* axes.
* An affine is 4x4 float64 and maps voxel indices (of voxel centres) to world millimetres, RAS+.
  LPS and ``(Z, Y, X)`` exist only inside `medseg.io`.
* Lengths are mm, volumes ml, times s.

A `Grid` may be oblique, flipped, anisotropic or sheared; it is never singular.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import permutations, product

import numpy as np
from numpy.typing import NDArray

from medseg.errors import GeometryError, ReasonCode
from medseg.text import shown_sizes

GRID_TOLERANCE_MM = 1e-2
"""Two grids are the same when no corner lies further apart than this (mm).

DICOM writes positions as decimal strings and NIfTI as float32: both round to well below 1 µm at body size. Programs
that hand on an oblique scan by its qform alone make its directions orthonormal, which moved the corners of a brain
MR by 6 µm; a real mistake (half a voxel, another origin) is tens of times larger than this."""

GRID_TOLERANCE_VOXELS = 0.1
"""Nor further than this part of the smallest voxel size: of micro-CT 0.01 mm are several voxels."""

ORTHOGONALITY_TOLERANCE = 1e-4
"""Largest cosine between two axes that still count as perpendicular (the DICOM ingest tolerance)."""

STRAIGHT_TOLERANCE = 0.5
"""Largest total shear, in voxels, that a grid may show and pass for perpendicular."""

REACH_TOLERANCE = 1e-6
"""Voxels of a shift that are rounding of the affine."""

LARGEST_STRAIGHTENED = 8
"""Growth of a sheared grid by straightening beyond which it is a mistake: a gantry tilts by 30 degrees at most,
which makes 2 of a head and 4 of a whole body of thin slices."""

SMALL_GRID = 1 << 24
"""Voxels that are never too many."""

AXIS_NAMES = (("L", "R"), ("P", "A"), ("I", "S"))


@dataclass(frozen=True, slots=True)
class Orientation:
    """A reordering of axes and flips that brings an array closest to RAS+.

    Attributes
    ----------
    axes : for each target axis (x, y, z), the source axis it is taken from.
    flips : for each target axis, whether it runs against the source axis.
    """

    axes: tuple[int, int, int]
    flips: tuple[bool, bool, bool]

    def apply(self, array: NDArray) -> NDArray:
        """Return a view of `array` (..., X, Y, Z) in the target order."""
        lead = array.ndim - 3
        moved = array.transpose(*range(lead), *(lead + axis for axis in self.axes))
        return self._flip(moved)

    def undo(self, array: NDArray) -> NDArray:
        """Return a view of `array` (..., X, Y, Z) back in the source order."""
        lead = array.ndim - 3
        return self._flip(array).transpose(*range(lead), *(lead + int(axis) for axis in np.argsort(self.axes)))

    def _flip(self, array: NDArray) -> NDArray:
        x, y, z = (slice(None, None, -1 if flip else 1) for flip in self.flips)
        return array[..., x, y, z]

    def apply_to_grid(self, grid: Grid) -> Grid:
        """Return the grid whose voxels `apply` gives."""
        x, y, z = (grid.shape[axis] for axis in self.axes)
        target_to_source = np.zeros((4, 4))
        target_to_source[3, 3] = 1.0
        for target, (source, flip) in enumerate(zip(self.axes, self.flips, strict=True)):
            target_to_source[source, target] = -1.0 if flip else 1.0
            target_to_source[source, 3] = grid.shape[source] - 1 if flip else 0
        return Grid((x, y, z), grid.affine @ target_to_source)


@dataclass(frozen=True, slots=True, eq=False)
class Grid:
    """A regular lattice of voxels in space: its shape and its affine, without intensities.

    Parameters
    ----------
    shape : three sizes in voxels, each at least 1.
    affine : (4, 4), voxel index -> world mm, RAS+.

    Raises
    ------
    GeometryError
        If the affine is not finite, not affine, or singular, or the shape is not three positive sizes.

    Examples
    --------
    >>> grid = Grid((10, 20, 5), np.diag([1.0, 1.0, 3.0, 1.0]))
    >>> grid.spacing
    (1.0, 1.0, 3.0)
    >>> grid.axcodes
    'RAS'
    """

    shape: tuple[int, int, int]
    affine: NDArray[np.float64]

    def __post_init__(self) -> None:
        shape = tuple(int(size) for size in self.shape)
        affine = np.array(self.affine, dtype=np.float64)
        if len(shape) != 3 or min(shape) < 1:
            raise GeometryError(ReasonCode.NOT_3D, f"a grid needs three sizes of at least 1, not {shape}")
        if affine.shape != (4, 4) or not np.isfinite(affine).all() or not np.array_equal(affine[3], [0, 0, 0, 1]):
            raise GeometryError(ReasonCode.BAD_ORIENTATION, "the affine is not a finite 4x4 matrix ending in 0 0 0 1")
        spacing = np.linalg.norm(affine[:3, :3], axis=0)
        if (spacing <= 0).any() or abs(np.linalg.det(affine[:3, :3] / np.where(spacing > 0, spacing, 1.0))) < 1e-3:
            raise GeometryError(ReasonCode.BAD_ORIENTATION, "the affine is singular: its axes span no volume")
        affine.setflags(write=False)
        object.__setattr__(self, "shape", shape)
        object.__setattr__(self, "affine", affine)

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Distance between neighbouring voxel centres along each index axis, mm."""
        x, y, z = np.linalg.norm(self.affine[:3, :3], axis=0)
        return float(x), float(y), float(z)

    @property
    def directions(self) -> NDArray[np.float64]:
        """(3, 3) unit vectors of the index axes as columns."""
        return self.affine[:3, :3] / np.linalg.norm(self.affine[:3, :3], axis=0)

    @property
    def voxel_ml(self) -> float:
        """Volume of one voxel in ml (1000 mm³)."""
        return float(abs(np.linalg.det(self.affine[:3, :3]))) / 1000.0

    @property
    def is_orthogonal(self) -> bool:
        """Whether the axes are perpendicular, within `ORTHOGONALITY_TOLERANCE`."""
        cosines = self.directions.T @ self.directions
        return bool(np.abs(cosines - np.eye(3)).max() <= ORTHOGONALITY_TOLERANCE)

    @property
    def axcodes(self) -> str:
        """Closest anatomical direction of each index axis, such as 'RAS' or 'LPS'."""
        orientation = self.to_canonical()
        codes = [""] * 3
        for world, (index, flip) in enumerate(zip(orientation.axes, orientation.flips, strict=True)):
            codes[index] = AXIS_NAMES[world][0 if flip else 1]
        return "".join(codes)

    def to_canonical(self) -> Orientation:
        """Return the reordering and flips that bring the axes closest to RAS+.

        The directions are replaced by the nearest rotation (polar decomposition), so that shear does
        not tip the choice; of the six axis orders the one with the largest sum of cosines wins.
        """
        left, _, right = np.linalg.svd(self.directions)
        rotation = left @ right
        axes = max(permutations(range(3)), key=lambda order: sum(abs(rotation[w, order[w]]) for w in range(3)))
        a, b, c = axes
        x, y, z = (bool(rotation[world, index] < 0) for world, index in enumerate(axes))
        return Orientation((a, b, c), (x, y, z))

    def canonical(self) -> Grid:
        """Return this grid with its axes reordered and flipped to closest RAS+."""
        return self.to_canonical().apply_to_grid(self)

    def index_to(self, other: Grid) -> NDArray[np.float64]:
        """Return the (4, 4) matrix from this grid's voxel indices to `other`'s (not rounded)."""
        return np.linalg.inv(other.affine) @ self.affine

    def cropped(self, start: Sequence[int], shape: Sequence[int]) -> Grid:
        """Return the sub-grid of `shape` whose first voxel is `start` (may lie outside: padding)."""
        affine = self.affine.copy()
        affine[:3, 3] = (self.affine @ [*start, 1.0])[:3]
        x, y, z = shape
        return Grid((x, y, z), affine)

    def resampled(self, spacing: Sequence[float]) -> Grid:
        """Return a grid of exactly `spacing` mm over the same extent, centred on this one.

        Each size is the extent divided by the spacing, rounded, at least 1: the border moves by at
        most half a new voxel.
        """
        ratio = np.asarray(spacing, dtype=float) / self.spacing
        x, y, z = (max(1, round(size / r)) for size, r in zip(self.shape, ratio, strict=True))
        scale = np.diag([*ratio, 1.0])
        scale[:3, 3] = ((np.array(self.shape) - 1) - (np.array([x, y, z]) - 1) * ratio) / 2
        return Grid((x, y, z), self.affine @ scale)

    def drift(self) -> NDArray[np.float64]:
        """Return (3, 3): by how many voxels along axis i each slice across axis j is off from the last one.

        All zero for perpendicular axes. The two axes that span the slices are those closest to perpendicular,
        of equal ones the finer; so a tilted gantry is a drift of its slices.
        """
        order = self._slice_order()
        r = np.linalg.qr(self.affine[:3, list(order)], mode="r")
        drift = np.zeros((3, 3))
        drift[np.ix_(order, order)] = np.triu(r / np.diag(r)[:, None], 1)
        return drift

    def straightened(self) -> Grid:
        """Return perpendicular axes over the space of this grid, or this grid if its shear is below half a voxel.

        Slices keep their planes and their spacing within: straightening only shifts them
        (`preprocessing.straighten`). The lattice grows to hold every voxel.

        Raises
        ------
        GeometryError
            If it would hold more than `LARGEST_STRAIGHTENED` times as many voxels, and than `SMALL_GRID`.
        """
        slices = np.array(self.shape)
        with np.errstate(all="ignore"):  # axes of absurd lengths are refused below
            drift = self.drift()
            farthest = float((np.abs(drift) @ (slices - 1)).max())
        if farthest <= STRAIGHT_TOLERANCE:
            return self
        most = max(LARGEST_STRAIGHTENED * int(np.prod(slices)), SMALL_GRID)
        too_far = GeometryError(
            ReasonCode.BAD_ORIENTATION,
            f"axes so far from perpendicular that straightening shifts slices by {farthest:.3g} voxels",
        )
        if not farthest < most:  # what is no number is not less
            raise too_far
        reaches = [reach(drift[:, axis], self.shape[axis]) for axis in range(3)]
        low, high = sum(low for low, _ in reaches), sum(high for _, high in reaches)
        x, y, z = (int(size) for size in slices + high - low)
        if x * y * z > most:
            raise too_far
        affine = self.affine.copy()
        affine[:3, :3] = self.affine[:3, :3] @ np.linalg.inv(np.eye(3) + drift)
        affine[:3, 3] += affine[:3, :3] @ low
        return Grid((x, y, z), affine)

    def _slice_order(self) -> tuple[int, int, int]:
        """Return the two axes within slices, then the one across: the others are perpendicular, or it is coarsest.

        A single slice is never drawn apart, such as a coronal one of a CT with a tilted gantry.
        """
        cosines = np.abs(self.directions.T @ self.directions)

        def rank(across: int) -> tuple[bool, bool, float, int]:
            a, b = (axis for axis in range(3) if axis != across)
            are_oblique = bool(cosines[a, b] > ORTHOGONALITY_TOLERANCE)
            return self.shape[across] > 1, are_oblique, -self.spacing[across], -across

        across = min(range(3), key=rank)
        a, b = (axis for axis in range(3) if axis != across)
        return a, b, across

    def corners(self) -> NDArray[np.float64]:
        """Return the world positions (8, 3), mm, of the centres of the corner voxels."""
        ends = product(*((0, size - 1) for size in self.shape))
        return np.array([(self.affine @ [*end, 1.0])[:3] for end in ends])

    def matches(self, other: Grid, tolerance_mm: float = GRID_TOLERANCE_MM) -> bool:
        """Whether both grids have the same shape and every voxel in the same place.

        The axes' unit steps are compared too, so that an axis of size 1 (one slice) can't hide
        another thickness or direction.

        Examples
        --------
        >>> fine, shifted = np.diag([0.005, 0.005, 0.005, 1]), np.diag([0.005, 0.005, 0.005, 1])
        >>> shifted[0, 3] = 0.005  # a whole voxel
        >>> Grid((9, 9, 9), fine).matches(Grid((9, 9, 9), shifted))
        False
        """
        if self.shape != other.shape:
            return False
        step = np.abs(self.affine[:3, :3] - other.affine[:3, :3]).max()
        farthest = max(np.abs(self.corners() - other.corners()).max(), step)
        return bool(farthest <= min(tolerance_mm, GRID_TOLERANCE_VOXELS * min(self.spacing)))

    def describe(self) -> str:
        """Return shape, spacing and orientation as a short text for messages."""
        return f"{shown_sizes(self.shape)} voxels of {shown_sizes(self.spacing, '.4g')} mm, {self.axcodes}"


def reach(drift: NDArray[np.float64], slices: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return how far, in whole voxels, slices move to either side that drift (3,) voxels each."""
    last = drift * (slices - 1)
    low, high = np.minimum(last, 0), np.maximum(last, 0)
    return np.floor(low + REACH_TOLERANCE).astype(int), np.ceil(high - REACH_TOLERANCE).astype(int)


def reorder(array: NDArray, grid: Grid, target: Grid) -> NDArray:
    """Return voxels in the axis order and directions of another grid of the same voxels.

    Programs store one scan in different orders: DICOM runs to the left and back, most NIfTI writers to
    the right and front.

    Parameters
    ----------
    array : (..., X, Y, Z) on `grid`.
    grid, target : may differ by permuted and flipped axes only.

    Returns
    -------
    NDArray
        A view of `array` on `target`.

    Raises
    ------
    GeometryError
        `GRID_MISMATCH` if the voxels lie elsewhere.
    """
    if grid.matches(target):
        return array
    steps = target.index_to(grid)[:3, :3]
    x, y, z = (int(axis) for axis in np.abs(steps).argmax(axis=0))
    if {x, y, z} == {0, 1, 2}:
        flips = bool(steps[x, 0] < 0), bool(steps[y, 1] < 0), bool(steps[z, 2] < 0)
        orientation = Orientation((x, y, z), flips)
        if orientation.apply_to_grid(grid).matches(target):
            return orientation.apply(array)
    found, wanted = grid.canonical(), target.canonical()
    same_shape = found.shape == wanted.shape
    distance = f", up to {np.abs(found.corners() - wanted.corners()).max():.3g} mm apart" if same_shape else ""
    raise GeometryError(ReasonCode.GRID_MISMATCH, f"{grid.describe()} against {target.describe()}{distance}")
