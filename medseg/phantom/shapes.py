"""Solid shapes as level functions of space: negative inside, about the distance (mm) to the surface.

Points are ``(3, N)`` float32, mm, in the body's own frame (x to the patient's right, y to the front,
z to the head). Every shape knows a box around itself, so that a block of voxels asks only the shapes
that it can touch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from medseg.phantom.waves import Array, Waves

Position = tuple[float, float, float]

EVERYWHERE = np.array([[-np.inf] * 3, [np.inf] * 3])


class Shape(Protocol):
    """What all solids answer."""

    @property
    def box(self) -> NDArray[np.float64]:
        """(2, 3) lower and upper corner (mm) of a box around the shape."""

    def level(self, points: Array) -> Array:
        """Return the level (N,) at `points` (3, N): negative inside, zero on the surface, mm."""


class Ellipsoid:
    """An ellipsoid, or an elliptic column where a radius is infinite.

    Parameters
    ----------
    centre : mm.
    radii : half axes, mm; infinite for a column along that axis.
    degrees : rotation about the x, y and z axes through the centre.
    """

    def __init__(self, centre: Position, radii: Position, degrees: Position = (0, 0, 0)) -> None:
        rotation = Rotation.from_euler("xyz", degrees, degrees=True).as_matrix()
        self.centre = np.array(centre, dtype=np.float32)[:, None]
        self.matrix = (np.diag(1 / np.array(radii)) @ rotation.T).astype(np.float32)
        reach = np.sqrt(((np.where(rotation == 0, 0, rotation) * np.minimum(radii, 1e6)) ** 2).sum(axis=1))
        self.box = np.array([np.array(centre) - reach, np.array(centre) + reach])

    def level(self, points: Array) -> Array:
        """Return the first-order distance: f·|q| / |grad f| with f = |q| - 1 in the unit sphere's frame."""
        unit = self.matrix @ (points - self.centre)
        norm = np.sqrt(np.einsum("in,in->n", unit, unit)) + np.float32(1e-6)
        gradient = self.matrix.T @ unit
        slope = np.sqrt(np.einsum("in,in->n", gradient, gradient)) + np.float32(1e-6)
        return np.asarray((norm - 1) * norm / slope, dtype=np.float32)


class Tube:
    """A chain of straight pieces of one radius, with round ends.

    Parameters
    ----------
    path : positions along the axis, mm, at least two.
    radius : mm.
    """

    def __init__(self, path: Sequence[Position], radius: float) -> None:
        self.path = np.array(path, dtype=np.float32)
        self.radius = radius
        self.box = np.array([self.path.min(axis=0) - radius, self.path.max(axis=0) + radius], dtype=np.float64)

    def level(self, points: Array) -> Array:
        """Return the distance to the nearest piece, less the radius."""
        nearest = np.full(points.shape[1], np.inf, dtype=np.float32)
        for start, end in zip(self.path[:-1], self.path[1:], strict=True):
            axis, offset = end - start, points - start[:, None]
            along = np.clip(axis @ offset / (axis @ axis), 0, 1)
            offset = offset - axis[:, None] * along
            np.minimum(nearest, np.einsum("in,in->n", offset, offset), out=nearest)
        return np.asarray(np.sqrt(nearest) - self.radius, dtype=np.float32)


@dataclass(frozen=True, slots=True, eq=False)
class Above:
    """The half space beyond `height` (mm) along an axis (0 right, 1 front, 2 head)."""

    height: float
    axis: int = 2

    @property
    def box(self) -> NDArray[np.float64]:
        """The half space's open box."""
        box = EVERYWHERE.copy()
        box[0, self.axis] = self.height
        return box

    def level(self, points: Array) -> Array:
        """Return the signed distance to the plane."""
        return np.asarray(self.height - points[self.axis], dtype=np.float32)


@dataclass(frozen=True, slots=True, eq=False)
class Grown:
    """A shape whose surface is moved outwards by `mm` (inwards where negative)."""

    shape: Shape
    mm: float

    @property
    def box(self) -> NDArray[np.float64]:
        """The shape's box, moved alike (levels are only about distances: with a margin of a tenth)."""
        return self.shape.box + np.array([[-1.1], [1.1]]) * max(self.mm, 0)

    def level(self, points: Array) -> Array:
        """Return the shape's level, less the growth."""
        return self.shape.level(points) - np.float32(self.mm)


@dataclass(frozen=True, slots=True, eq=False)
class Rough:
    """A shape with a bumpy surface: `waves` (one component, mm) moves it in and out."""

    shape: Shape
    waves: Waves

    @property
    def box(self) -> NDArray[np.float64]:
        """The shape's box, moved by the highest bump."""
        return self.shape.box + np.array([[-1.0], [1.0]]) * float(np.abs(self.waves.amplitudes).sum())

    def level(self, points: Array) -> Array:
        """Return the shape's level plus the field."""
        return self.shape.level(points) + self.waves(points)[0]


class Union:
    """Several shapes as one, their seams rounded over about `blend` mm (polynomial smooth minimum)."""

    def __init__(self, *shapes: Shape, blend: float = 0.0) -> None:
        self.shapes = shapes
        self.blend = blend
        boxes = np.stack([shape.box for shape in shapes])
        self.box = np.array([boxes[:, 0].min(axis=0) - blend, boxes[:, 1].max(axis=0) + blend])

    def level(self, points: Array) -> Array:
        """Return the smooth minimum of the levels."""
        result = self.shapes[0].level(points)
        for shape in self.shapes[1:]:
            other = shape.level(points)
            near = np.maximum(self.blend - np.abs(result - other), 0) if self.blend else np.float32(0)
            result = np.minimum(result, other) - near * near / np.float32(4 * max(self.blend, 1e-6))
        return np.asarray(result, dtype=np.float32)


class Common:
    """What lies in all of the shapes."""

    def __init__(self, *shapes: Shape) -> None:
        self.shapes = shapes
        boxes = np.stack([shape.box for shape in shapes])
        self.box = np.array([boxes[:, 0].max(axis=0), boxes[:, 1].min(axis=0)])

    def level(self, points: Array) -> Array:
        """Return the largest level."""
        result = self.shapes[0].level(points)
        for shape in self.shapes[1:]:
            np.maximum(result, shape.level(points), out=result)
        return result


class Without:
    """A shape with others cut out of it."""

    def __init__(self, shape: Shape, *cut: Shape) -> None:
        self.shape = shape
        self.cut = cut
        self.box = shape.box

    def level(self, points: Array) -> Array:
        """Return the level of the shape where nothing is cut, of the cut's surface elsewhere."""
        result = self.shape.level(points)
        for shape in self.cut:
            np.maximum(result, -shape.level(points), out=result)
        return result
