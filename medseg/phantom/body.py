"""One body in space: structures painted over each other, in a pose, slightly bent."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from medseg.phantom.shapes import Shape
from medseg.phantom.waves import Array, Waves

AIR_HU = -1000.0

LIVER, KIDNEY, SPLEEN, TUMOUR = 1, 2, 3, 4
"""Mask values of the structures that are to be learnt."""


@dataclass(frozen=True, slots=True, eq=False)
class Structure:
    """A solid of one tissue.

    Attributes
    ----------
    shape : where it is, in the body's frame.
    hu : its mean attenuation.
    label : its mask value; 0 for what nobody labels.
    texture : departure from the mean, HU; None for an even tissue.
    """

    shape: Shape
    hu: float
    label: int = 0
    texture: Waves | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Pose:
    """From world to the body's frame: turn, scale, shift, then bend.

    Attributes
    ----------
    matrix : (3, 3), mm to mm.
    origin : (3, 1) world position of the body's origin, mm.
    bend : smooth displacement of three components, mm, evaluated in the body's frame.
    """

    matrix: Array
    origin: Array
    bend: Waves

    @classmethod
    def random(cls, rng: np.random.Generator) -> Pose:
        """Draw a patient's build and how the patient lies: a few degrees, a tenth of the size, 15 mm."""
        turn = Rotation.from_euler("xyz", rng.normal(0, (2.5, 2.5, 4.0)), degrees=True).as_matrix()
        size = rng.uniform(0.9, 1.1) * rng.uniform(0.95, 1.05, size=3)
        matrix = np.diag(1 / size) @ turn.T
        origin = rng.uniform((-12, -10, -15), (12, 10, 15))[:, None]
        bend = Waves.random(rng, (170.0, 380.0), 4.0, components=3)
        return cls(matrix.astype(np.float32), origin.astype(np.float32), bend)

    def to_body(self, world: Array) -> Array:
        """Return the positions (3, N) in the body's frame of the `world` positions (3, N), mm."""
        straight = self.matrix @ (world - self.origin)
        return straight + self.bend(straight)


@dataclass(frozen=True, slots=True, eq=False)
class Body:
    """A patient on the couch of a scanner; world is RAS+: x right, y front, z head, mm.

    Attributes
    ----------
    pose : where and how the patient lies.
    couch : structures of the scanner, which don't move with the patient.
    structures : the anatomy; later ones are painted over earlier ones.
    """

    pose: Pose
    couch: tuple[Structure, ...]
    structures: tuple[Structure, ...]

    def sample(self, world: Array) -> tuple[Array, NDArray[np.uint8]]:
        """Return attenuation (N,) in HU and label (N,) at the `world` positions (3, N), mm."""
        hu = np.full(world.shape[1], AIR_HU, dtype=np.float32)
        label = np.zeros(world.shape[1], dtype=np.uint8)
        _paint(self.couch, world, hu, label)
        _paint(self.structures, self.pose.to_body(world), hu, label)
        return hu, label


def _paint(structures: tuple[Structure, ...], points: Array, hu: Array, label: NDArray[np.uint8]) -> None:
    """Paint `structures` over what `hu` and `label` hold; each point is textured once, by its last painter."""
    low, high = points.min(axis=1), points.max(axis=1)
    painter = np.full(points.shape[1], -1, dtype=np.int16)
    for number, structure in enumerate(structures):
        box = structure.shape.box
        if (box[0] <= high).all() and (box[1] >= low).all():
            painter[structure.shape.level(points) <= 0] = number
    for number in np.unique(painter[painter >= 0]):
        structure, painted = structures[number], painter == number
        texture = 0.0 if structure.texture is None else structure.texture(points[:, painted])[0]
        hu[painted] = structure.hu + texture
        label[painted] = structure.label
