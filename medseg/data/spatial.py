"""Random rotation, size, deformation and mirroring of a patch, in one resampling of image and mask.

All parameters of a patch are drawn first (`SpatialDrawer`), then only the voxels they need are read and each is
interpolated once (`read_patch`). A patch that is only mirrored, or not changed at all, is read as it is.

Decisions
---------
* Turning and resizing happen in millimetres, so that anatomy is never sheared on anisotropic grids.
* 2D patches, 3D patches of one slice, and those whose spacings differ by more than `ANISOTROPY`, turn and resize in the
  plane across ``plan.slice_axis`` only: interpolating between far slices invents anatomy (nnU-Net's "dummy 2D"), and
  a single slice would be turned out of the scan.
* The image is interpolated linearly and the mask takes the nearest voxel. nnU-Net interpolates each class of the mask
  linearly and takes the largest, which differs on single boundary voxels and costs one interpolation a class.
* Whole samples at 128^3 with the default probabilities: 36 ms on one core, mean of 100 (nnU-Net 2.8.1: 254); see
  ``benchmarks/augmentation.py``.
* Elastic deformation is a cubic B-spline over control points whose shifts are clipped so that it can't fold.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from medseg.config import AugmentationConfig
from medseg.plan import Plan, Sizes

ANISOTROPY = 3.0
"""Ratio of the largest to the smallest spacing above which patches turn in plane only (nnU-Net's threshold)."""

ROTATION_3D, ROTATION_PLANE, ROTATION_ELONGATED = 30.0, 180.0, 15.0
"""Largest angles, degrees, where the configuration leaves them open: nnU-Net's."""

ELONGATED = 1.5
"""Ratio of a plane patch's edges (mm) above which large angles would turn most of it out of the scan (nnU-Net's)."""

NODE_DISTANCE = 4.0
"""Least distance of the elastic control points: this many standard deviations of their shifts, and voxels."""

NO_FOLD = 0.4
"""Largest control-point shift, in control-point distances, for which a cubic B-spline in 3D stays one-to-one.

Y. Choi, S. Lee: Injectivity conditions of 2D and 3D uniform cubic B-spline functions. Graphical Models 62, 2000.
"""

CPU = torch.device("cpu")

SLAB_VOXELS = {"cpu": 2**17, "cuda": 2**21}
"""Voxels interpolated at a time: on a CPU their coordinates stay in a core's cache; on a GPU they keep all cores busy
and take 100 MB."""


class PatchSource(Protocol):
    """A prepared case that patches are read from (`medseg.preprocessing.cached_case.CachedCase`)."""

    @property
    def shape(self) -> Sizes:
        """Voxels along x, y, z."""

    @property
    def foreground(self) -> Mapping[int, NDArray[np.integer]]:
        """Voxel positions (n, 3) of each class index that is present."""

    def read(
        self, start: Sequence[int], size: Sequence[int]
    ) -> tuple[NDArray[np.float32], NDArray[np.uint8], NDArray[np.uint8] | None]:
        """Return image (C, *size), class indices and their weights (*size) from voxel `start` on, padded outside.

        Weights go from 0 to 255; None where every voxel counts. The arrays are the caller's own to change.
        """


@dataclass(frozen=True, slots=True)
class SpatialChange:
    """What was drawn for one patch.

    Attributes
    ----------
    matrix : (3, 3) float64; from a voxel's offset to the patch's centre to the offset it is taken from; None: neither
        turned nor resized nor deformed.
    axes : the axes that move; the others keep their voxels.
    shifts : (len(axes), *nodes) float32 shifts of the elastic control points in voxels, before `matrix`; None: rigid.
    flips : axes mirrored afterwards.
    """

    matrix: NDArray[np.float64] | None = None
    axes: tuple[int, ...] = (0, 1, 2)
    shifts: NDArray[np.float32] | None = None
    flips: tuple[int, ...] = ()


class SpatialDrawer:
    """Draws spatial changes for the patches of a plan."""

    def __init__(self, config: AugmentationConfig, plan: Plan) -> None:
        self.config = config
        self.patch, self.spacing, self.mirror = plan.patch, plan.spacing, plan.mirror
        is_flat = plan.patch[plan.slice_axis] == 1
        in_plane = is_flat or max(plan.spacing) > ANISOTROPY * min(plan.spacing)
        self.axes = tuple(axis for axis in range(3) if not (in_plane and axis == plan.slice_axis))
        edges = [self.patch[axis] * self.spacing[axis] for axis in self.axes]
        default = ROTATION_3D
        if in_plane:
            default = ROTATION_ELONGATED if max(edges) > ELONGATED * min(edges) else ROTATION_PLANE
        self.degrees = default if config.rotation_degrees is None else config.rotation_degrees

    def draw(self, rng: np.random.Generator) -> SpatialChange:
        """Draw the change of one patch; the same number generator state gives the same change."""
        config = self.config
        turned, resized, deformed = rng.random(3) < (config.rotation_p, config.scaling_p, config.elastic_p)
        matrix = None
        if turned or resized or deformed:
            angles = rng.uniform(-self.degrees, self.degrees, len(self.axes)) if turned else np.zeros(len(self.axes))
            size = rng.uniform(*config.scaling) if resized else 1.0
            matrix = turn_and_resize(np.radians(angles), size, self.spacing, self.axes)
        shifts = self._draw_shifts(rng) if deformed and config.elastic_mm > 0 else None
        chosen = rng.random(3) < config.mirror_p
        flips = tuple(a for a in range(3) if chosen[a] and self.mirror[a] and self.patch[a] > 1)
        return SpatialChange(matrix, self.axes, shifts, flips)

    def _draw_shifts(self, rng: np.random.Generator) -> NDArray[np.float32]:
        std = self.config.elastic_mm / np.array([self.spacing[axis] for axis in self.axes])
        extent = np.array([self.patch[axis] - 1 for axis in self.axes])
        intervals = np.maximum(extent // np.maximum(NODE_DISTANCE * std, NODE_DISTANCE), 1).astype(int)
        nodes = intervals + 3  # a cubic B-spline needs one control point beyond either end
        distance = extent / intervals
        shifts = rng.standard_normal((len(nodes), *nodes), dtype=np.float32)
        column = (slice(None), *[None] * len(nodes))
        limit = NO_FOLD * distance[column]
        return np.clip(shifts * std[column], -limit, limit).astype(np.float32)


def turn_and_resize(
    angles: NDArray[np.float64], size: float, spacing: Sequence[float], axes: Sequence[int]
) -> NDArray[np.float64]:
    """Return the (3, 3) matrix from patch offsets to scan offsets, in voxels.

    Parameters
    ----------
    angles : radians, one an axis of `axes`; with two axes only the last counts, turning the first towards the second.
    size : how large things appear in the patch; 2 doubles them.
    spacing : mm; the rotation is rigid in millimetres.
    axes : the two or three axes that move.

    Examples
    --------
    >>> turn_and_resize(np.array([0.0, 0.0]), 2.0, (1, 1, 5), (0, 1)).diagonal()
    array([0.5, 0.5, 1. ])
    """
    rotation = np.eye(3)
    planes = [(axes[0], axes[1])] if len(axes) == 2 else [(1, 2), (2, 0), (0, 1)]
    for (first, second), angle in zip(planes, angles[-len(planes) :], strict=True):
        turn = np.eye(3)
        turn[[first, second], [first, second]] = math.cos(angle)
        turn[first, second], turn[second, first] = -math.sin(angle), math.sin(angle)
        rotation = rotation @ turn
    scale = np.array([1 / size if axis in axes else 1.0 for axis in range(3)])
    return np.diag(scale / np.asarray(spacing, dtype=float)) @ rotation @ np.diag(spacing)


class SpatialPatch(NamedTuple):
    """A patch as it was read.

    Attributes
    ----------
    image : (C, *patch) float32.
    target : (*patch) uint8 class indices; each is one that the mask holds.
    weight : (*patch) uint8, how much each target counts, 255 fully; None: all of them do.
    """

    image: torch.Tensor
    target: torch.Tensor
    weight: torch.Tensor | None = None

    def flip(self, axes: Sequence[int]) -> SpatialPatch:
        """Return the patch mirrored along spatial axes."""
        dims = list(axes)
        return SpatialPatch(
            self.image.flip([axis + 1 for axis in axes]),
            self.target.flip(dims),
            None if self.weight is None else self.weight.flip(dims),
        )


def read_patch(
    source: PatchSource, start: Sequence[int], patch: Sizes, change: SpatialChange, device: torch.device = CPU
) -> SpatialPatch:
    """Read a patch with a spatial change.

    Parameters
    ----------
    start : (3,) first voxel of the unchanged patch; may lie outside of the scan.
    patch : voxels along x, y, z.
    device : that the voxels read are interpolated on, and the patch lies on.
    """
    if change.matrix is None:
        read = _read(source, start, patch, device)
    else:
        read = _resample(source, start, patch, change, device)
    return read.flip(change.flips) if change.flips else read


def _read(source: PatchSource, start: Sequence[int], size: Sequence[int], device: torch.device) -> SpatialPatch:
    image, target, weight = source.read(start, size)
    return SpatialPatch(
        torch.from_numpy(image).to(device),
        torch.from_numpy(target).to(device),
        None if weight is None else torch.from_numpy(weight).to(device),
    )


def _resample(
    source: PatchSource, start: Sequence[int], patch: Sizes, change: SpatialChange, device: torch.device
) -> SpatialPatch:
    low, size = _needed_box(start, patch, change)
    image, target, weight = _read(source, low, size, device)
    maps = target[None] if weight is None else torch.stack((target, weight))
    # The axes that stay come first, as more channels: their voxels share one set of coordinates.
    order = (*(axis for axis in range(3) if axis not in change.axes), *change.axes)
    box = [size[axis] for axis in change.axes]
    moved = [patch[axis] for axis in change.axes]
    channels = image.permute(0, *(axis + 1 for axis in order)).reshape(-1, math.prod(box)).contiguous()
    labels = maps.permute(0, *(axis + 1 for axis in order)).reshape(-1, math.prod(box)).contiguous()
    new_image = torch.empty((len(channels), *moved), device=device)
    new_target = torch.empty((len(labels), *moved), dtype=torch.uint8, device=device)
    centre = [start[axis] + (patch[axis] - 1) / 2 - low[axis] for axis in change.axes]
    slab = SLAB_VOXELS[device.type] // len(channels)
    for rows, coordinates in _slabs(moved, centre, change, slab, device):
        corner, fractions, strides = _neighbours(coordinates, box)
        new_image[:, rows] = _linear(channels, corner, fractions, strides).reshape(len(channels), -1, *moved[1:])
        new_target[:, rows] = _nearest(labels, corner, fractions, strides).reshape(len(labels), -1, *moved[1:])
    back = [int(axis) for axis in np.argsort(order)]
    kept = [patch[axis] for axis in order]
    restored = [array.reshape(-1, *kept).permute(0, *(axis + 1 for axis in back)) for array in (new_image, new_target)]
    return SpatialPatch(restored[0].contiguous(), *(part.contiguous() for part in restored[1]))


def _needed_box(start: Sequence[int], patch: Sizes, change: SpatialChange) -> tuple[list[int], list[int]]:
    """Return first voxel and size of the smallest box that holds all neighbours of the changed patch's voxels."""
    reach = (np.array(patch) - 1) / 2
    if change.shifts is not None:  # a B-spline never exceeds its control points
        for position, axis in enumerate(change.axes):
            reach[axis] += np.abs(change.shifts[position]).max()
    centre = np.array(start) + (np.array(patch) - 1) / 2
    reach = np.abs(change.matrix) @ reach if change.matrix is not None else reach
    rounding = 1e-3  # coordinates are float32
    low = np.floor(centre - reach - rounding).astype(int)
    high = np.ceil(centre + reach + rounding).astype(int)
    for axis in set(range(3)) - set(change.axes):
        low[axis], high[axis] = start[axis], start[axis] + patch[axis] - 1
    return [int(v) for v in low], [int(v) for v in high - low + 1]


def _slabs(
    moved: Sequence[int], centre: Sequence[float], change: SpatialChange, voxels: int, device: torch.device
) -> Iterator[tuple[slice, list[torch.Tensor]]]:
    """Yield rows of the patch's first moving axis, about `voxels` at a time, with their coordinates in the box.

    There is one float32 tensor an axis, of shape (rows, *moved[1:]).
    """
    assert change.matrix is not None
    matrix = change.matrix[np.ix_(change.axes, change.axes)]
    offsets = [torch.arange(n, dtype=torch.float32, device=device) - (n - 1) / 2 for n in moved]
    offsets = [o.reshape([-1 if d == axis else 1 for d in range(len(moved))]) for axis, o in enumerate(offsets)]
    shifts = None if change.shifts is None else _spread(torch.from_numpy(change.shifts).to(device), moved)
    rest = [sum(float(m) * o for m, o in zip(row[1:], offsets[1:], strict=True)) for row in matrix]
    step = max(1, voxels // math.prod(moved[1:]))
    for first in range(0, moved[0], step):
        rows = slice(first, min(first + step, moved[0]))
        along = [offsets[0][rows] * float(row[0]) + c for row, c in zip(matrix, centre, strict=True)]
        coordinates = [a + r for a, r in zip(along, rest, strict=True)]
        if shifts is not None:
            for coordinate, row in zip(coordinates, matrix, strict=True):
                for shift, weight in zip(shifts, row, strict=True):
                    coordinate.add_(shift[rows], alpha=float(weight))
        yield rows, coordinates


def _spread(shifts: torch.Tensor, moved: Sequence[int]) -> torch.Tensor:
    """Return control-point shifts (A, *nodes) at every voxel (A, *moved) by a cubic B-spline along each axis."""
    for axis, voxels in enumerate(moved, start=1):
        basis = torch.from_numpy(_b_spline(voxels, shifts.shape[axis])).to(shifts.device)
        shifts = torch.tensordot(shifts, basis, dims=([axis], [1])).movedim(-1, axis)
    return shifts


def _b_spline(voxels: int, nodes: int) -> NDArray[np.float32]:
    """Return the (voxels, nodes) weights of a cubic B-spline whose nodes are evenly spread, one beyond each end."""
    position = np.linspace(1, nodes - 2, voxels) if voxels > 1 else np.array([(nodes - 1) / 2])
    distance = np.abs(position[:, None] - np.arange(nodes)[None])
    near = 2 / 3 - distance**2 + distance**3 / 2
    far = np.clip(2 - distance, 0, None) ** 3 / 6
    return np.where(distance < 1, near, far).astype(np.float32)


def _neighbours(
    coordinates: Sequence[torch.Tensor], box: Sequence[int]
) -> tuple[torch.Tensor, list[torch.Tensor], list[int]]:
    """Return where coordinates lie among the voxels of a flattened box.

    Returns
    -------
    corner : (M,) int32 flat index of the neighbour with the lowest index along every axis.
    fractions : (M,) float32 for each axis, the distance from it, 0 to 1.
    strides : how far the next voxel along each axis is in the flattened box.
    """
    corner = torch.zeros((), dtype=torch.int32, device=coordinates[0].device)
    for coordinate, length in zip(coordinates, box, strict=True):
        corner = corner * length + coordinate.to(torch.int32)
    fractions = [coordinate.frac().reshape(-1) for coordinate in coordinates]
    return corner.reshape(-1), fractions, [math.prod(box[axis + 1 :]) for axis in range(len(box))]


def _linear(
    channels: torch.Tensor, corner: torch.Tensor, fractions: Sequence[torch.Tensor], strides: Sequence[int]
) -> torch.Tensor:
    """Interpolate (N, voxels) linearly along one axis after the other; returns (N, M).

    Eight gathers from slabs that stay in the cache take 30 ms for 128^3 voxels on one core; ``grid_sample``, which is
    not vectorised in 3D, takes 78 (EPYC with AVX-512, torch 2.13).
    """
    if not strides:
        return channels.index_select(1, corner)
    near = _linear(channels, corner, fractions[1:], strides[1:])
    far = _linear(channels, corner + strides[0], fractions[1:], strides[1:])
    return torch.lerp(near, far, fractions[0])


def _nearest(
    labels: torch.Tensor, corner: torch.Tensor, fractions: Sequence[torch.Tensor], strides: Sequence[int]
) -> torch.Tensor:
    """Take the nearest voxel of (N, voxels); returns (N, M)."""
    for fraction, stride in zip(fractions, strides, strict=True):
        corner = corner + (fraction + 0.5).to(torch.int32) * stride
    return labels.index_select(1, corner)
