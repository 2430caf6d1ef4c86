"""Tumours, and what looks like them: cysts, and fat that spares the organ's edge."""

from __future__ import annotations

import numpy as np

from medseg.phantom.body import TUMOUR, Structure
from medseg.phantom.shapes import Common, Ellipsoid, Grown, Position, Rough, Shape, Union
from medseg.phantom.waves import Array, Waves

CYST_HU = 8.0
NECROSIS_MM = 13.0
"""Tumours with a larger radius have a darker, dead centre."""


class Sites:
    """Free places inside one organ; each is given away once.

    Parameters
    ----------
    organ : where lesions may be.
    """

    def __init__(self, rng: np.random.Generator, organ: Shape) -> None:
        self.rng = rng
        self.organ = organ
        self.taken: list[tuple[Array, float]] = []

    def take(self, radius: float) -> Position | None:
        """Return a place for a ball of `radius` mm, at least two thirds of it inside; None where there is none."""
        low, high = self.organ.box
        candidates = self.rng.uniform(low, high, size=(4000, 3)).T.astype(np.float32)
        free = self.organ.level(candidates) < -0.65 * radius
        for centre, size in self.taken:
            free &= np.linalg.norm(candidates - centre, axis=0) > radius + size + 5
        if not free.any():
            return None
        chosen = candidates[:, np.argmax(free)][:, None]
        self.taken.append((chosen, radius))
        x, y, z = map(float, chosen[:, 0])
        return x, y, z


def tumour(rng: np.random.Generator, sites: Sites, radius: float, hu: float, difference: float) -> list[Structure]:
    """Draw one tumour: lobulated, uneven, ill-defined, darker (mostly) or brighter than its organ.

    Parameters
    ----------
    sites : the organ's free places.
    radius : about half its diameter, mm.
    hu : attenuation of the organ around it.
    difference : how far it departs from that, HU.
    """
    centre = sites.take(radius)
    if centre is None:
        return []
    lobes = [Ellipsoid(centre, _radii(rng, radius), _turn(rng))]
    for _ in range(2):
        x, y, z = centre + rng.normal(0, 0.4 * radius, size=3)
        lobes.append(Ellipsoid((x, y, z), _radii(rng, 0.65 * radius), _turn(rng)))
    bumpy = Rough(Union(*lobes, blend=0.5 * radius), Waves.random(rng, (9, 22), 0.09 * radius))
    shape = Common(bumpy, sites.organ)
    sign = -1 if rng.random() < 0.8 else 1
    body = hu + sign * difference
    grain = Waves.random(rng, (7, 16), 0.28 * difference)
    painted = [
        Structure(shape, hu + 0.5 * sign * difference, TUMOUR),
        Structure(Grown(shape, -1.5), body, TUMOUR, grain),
    ]
    if radius > NECROSIS_MM and sign < 0:
        painted.append(Structure(Grown(shape, -0.5 * radius), max(body - 0.7 * difference, 15), TUMOUR, grain))
    return painted


def cyst(rng: np.random.Generator, sites: Sites, radius: float, label: int) -> list[Structure]:
    """Draw a cyst: round, even, sharp, fluid; it belongs to its organ, not to the tumours."""
    centre = sites.take(radius)
    if centre is None:
        return []
    ball = Ellipsoid(centre, _radii(rng, radius, spread=0.06))
    return [Structure(Common(ball, sites.organ), CYST_HU + rng.uniform(-4, 8), label)]


def _radii(rng: np.random.Generator, radius: float, spread: float = 0.2) -> Position:
    x, y, z = radius * rng.uniform(1 - spread, 1 + spread, size=3)
    return x, y, z


def _turn(rng: np.random.Generator) -> Position:
    x, y, z = rng.uniform(-90, 90, size=3)
    return x, y, z
