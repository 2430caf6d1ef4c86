"""Everything of the abdomen that nobody labels: wall, bones, lungs' bases, bowel, stomach, great vessels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medseg.phantom.body import Structure
from medseg.phantom.contrast import Contrast
from medseg.phantom.shapes import Above, Common, Ellipsoid, Grown, Rough, Shape, Tube, Union, Without
from medseg.phantom.waves import Array, Waves

INF = float("inf")
FAT_HU, GAS_HU, LUNG_HU, FLUID_HU = -102.0, -960.0, -840.0, 12.0

WALL = Ellipsoid((0, 0, 0), (150, 106, INF))
"""Outer surface of the muscles of the trunk."""

CAVITY = Ellipsoid((0, 2, 0), (138, 94, INF))
"""Inner surface of the trunk's wall."""

VERTEBRA_MM, DISC_MM = 36.0, 9.0
SPINE_AXIS = (0.0, -52.0)
RIB_MM, RIB_FALL = 27.0, 62.0
"""Distance of one rib from the next, and how far a rib falls on its way to the front, mm."""


@dataclass(frozen=True, slots=True)
class Spine:
    """Vertebral bodies with discs between them, or only their spongy inside."""

    inset: float = 0.0
    box = np.array([[-25.0, -71.0, -np.inf], [25.0, -33.0, np.inf]])

    def level(self, points: Array) -> Array:
        """Return the level of a waisted elliptic cylinder, cut at each disc."""
        along = np.abs((points[2] % VERTEBRA_MM) - VERTEBRA_MM / 2)
        waist = np.float32(1.5) * np.cos(along * np.float32(2 * np.pi / VERTEBRA_MM))
        across = np.hypot((points[0] - SPINE_AXIS[0]) / 22, (points[1] - SPINE_AXIS[1]) / 16)
        side = (across - 1) * 16 + waist
        return np.asarray(np.maximum(side, along - (VERTEBRA_MM - DISC_MM) / 2) + self.inset, dtype=np.float32)


@dataclass(frozen=True, slots=True, eq=False)
class Processes:
    """A column that only the middle half of each vertebra has."""

    column: Shape

    @property
    def box(self) -> NDArray[np.float64]:
        """The column's box."""
        return self.column.box

    def level(self, points: Array) -> Array:
        """Return the column's level, cut between the vertebrae."""
        along = np.abs((points[2] % VERTEBRA_MM) - VERTEBRA_MM / 2)
        return np.asarray(np.maximum(self.column.level(points), along - VERTEBRA_MM / 4), dtype=np.float32)


@dataclass(frozen=True, slots=True)
class Ribs:
    """Ribs in the wall, falling towards the front; the arch of cartilage ends them below."""

    inset: float = 0.0
    box = np.array([[-151.0, -107.0, -np.inf], [151.0, 107.0, np.inf]])

    def level(self, points: Array) -> Array:
        """Return the level of flat bows that follow the wall."""
        x, y, z = points
        depth = np.hypot(x / 144, y / 100)
        forward = (y / 100 + 1) / 2
        bow = ((z + RIB_FALL * forward) % RIB_MM) - RIB_MM / 2
        thickness = np.hypot((depth - 1) * 118 / 4.5, bow / 6.5)
        level = (thickness - 1) * 4.5
        lowest = -35 + 75 * np.clip(forward - 0.25, 0, 1)
        return np.asarray(np.maximum(level, lowest - z) + self.inset, dtype=np.float32)


@dataclass(frozen=True, slots=True, eq=False)
class Torso:
    """The trunk around the organs.

    Attributes
    ----------
    structures : in painting order; the labelled organs come after them.
    abdomen : the space below the diaphragm.
    stomach : its outer surface, which the spleen leans on.
    """

    structures: tuple[Structure, ...]
    abdomen: Shape
    stomach: Shape


def draw_torso(rng: np.random.Generator, contrast: Contrast) -> Torso:
    """Draw the trunk: fat of 6 to 30 mm under the skin, and a diaphragm somewhere in its breath."""
    fat, breath = rng.uniform(6, 30), rng.uniform(-10, 10)
    skin = Ellipsoid((0, 0.25 * fat, 0), (152 + fat, 108 + 0.8 * fat, INF))
    abdomen = Common(CAVITY, _below_diaphragm(breath))
    x, y, z = rng.normal((-54, 26, 34), 4)
    stomach = Common(Ellipsoid((x, y, z), (37, 38, 46), (20, 20, 0)), Grown(abdomen, -3))
    stippled = Waves.random(rng, (10, 30), 9)
    wall = (
        Structure(skin, 5),
        Structure(Grown(skin, -2.5), FAT_HU, 0, Waves.random(rng, (12, 40), 6)),
        Structure(WALL, contrast.muscle, 0, stippled),
        Structure(CAVITY, LUNG_HU, 0, Waves.random(rng, (12, 30), 35)),
        *_chest(contrast),
        Structure(Common(Grown(abdomen, 3), CAVITY), contrast.muscle),  # the diaphragm
        Structure(abdomen, FAT_HU, 0, Waves.random(rng, (8, 30), 7)),
    )
    content = (*_back(contrast, stippled), *_bones(), *_bowel(rng, contrast))
    pancreas = Tube([(22, 12, -8), (5, 14, 4), (-30, 8, 14), (-72, -6, 26)], 9)
    rest = (Structure(Rough(pancreas, Waves.random(rng, (12, 25), 1.5)), contrast.gut * 1.25),)
    return Torso((*wall, *content, *_stomach(stomach, contrast), *rest, *_vessels(contrast)), abdomen, stomach)


def _below_diaphragm(breath: float) -> Shape:
    right = Ellipsoid((62, 4, -8 + breath), (77, 91, 98))
    left = Ellipsoid((-62, 2, -8 + breath), (78, 91, 88))
    return Union(right, left, Without(CAVITY, Above(-8 + breath)), blend=10)


def _chest(contrast: Contrast) -> tuple[Structure, ...]:
    above = Above(20)
    return (
        Structure(Common(Ellipsoid((0, -32, 0), (30, 30, INF)), above), FAT_HU),
        Structure(Common(Ellipsoid((-20, 34, 112), (70, 52, 50), (0, -12, 0)), CAVITY), contrast.muscle),
        Structure(Common(Ellipsoid((-24, 32, 114), (56, 38, 37), (0, -12, 0)), CAVITY), contrast.vein),
    )


def _back(contrast: Contrast, texture: Waves) -> tuple[Structure, ...]:
    muscles: list[Structure] = []
    for side in (-1, 1):
        erector = Common(Ellipsoid((side * 36, -84, 0), (31, 19, INF)), WALL)
        psoas = Ellipsoid((side * 38, -46, -120), (20, 19, 125), (0, -side * 6, 0))
        crus = Ellipsoid((side * 16, -34, 10), (7, 8, 70), (-8, side * 5, 0))
        muscles += [Structure(shape, contrast.muscle, 0, texture) for shape in (erector, psoas, crus)]
    return tuple(muscles)


def _bones() -> tuple[Structure, ...]:
    x, y = SPINE_AXIS
    arch = Without(Ellipsoid((x, y - 24, 0), (19, 15, INF)), Spine())
    spinous = Ellipsoid((x, y - 44, 0), (4, 18, INF))
    transverse = [Ellipsoid((side * 30, y - 17, 0), (17, 5, INF), (0, 0, -side * 12)) for side in (-1, 1)]
    return (
        Structure(Ellipsoid((x, y, 0), (21, 15, INF)), 85),  # the discs
        Structure(Spine(), 480),
        Structure(Spine(inset=3), 190),
        Structure(Processes(Union(spinous, *transverse)), 380),
        Structure(arch, 420),
        Structure(Ellipsoid((x, y - 23, 0), (10, 8, INF)), 28),  # the canal
        Structure(Ribs(), 430),
        Structure(Ribs(inset=2.5), 210),
    )


def _stomach(outer: Shape, contrast: Contrast) -> tuple[Structure, ...]:
    inner = Grown(outer, -5)
    antrum = Tube([(-35, 45, 15), (0, 48, -2), (24, 30, -8)], 12)
    return (
        Structure(Union(outer, antrum, blend=8), contrast.gut),
        Structure(inner, FLUID_HU + 8),
        Structure(Common(inner, Above(44, axis=1)), GAS_HU),
    )


def _bowel(rng: np.random.Generator, contrast: Contrast) -> tuple[Structure, ...]:
    stool = Waves.random(rng, (8, 25), 45)
    colon: list[tuple[Shape, float, Waves | None]] = [
        (Tube([(108, 6, -150), (112, 0, -80), (104, 8, -48)], 20), 20.0, stool),
        (Tube([(104, 30, -50), (45, 66, -72), (-40, 68, -62), (-106, 20, -8)], 17), GAS_HU, None),
        (Tube([(-110, -4, -150), (-116, -14, -60), (-108, 4, -8)], 15), 10.0, stool),
    ]
    loops: list[tuple[Shape, float, Waves | None]] = [
        (Ellipsoid(tuple(centre), tuple(radii), tuple(turn)), filling, None)
        for centre, radii, turn, filling in zip(
            rng.uniform((-84, -18, -150), (84, 70, -38), size=(38, 3)),
            rng.uniform((11, 11, 14), (16, 16, 30), size=(38, 3)),
            rng.uniform(-90, 90, size=(38, 3)),
            rng.choice((18.0, 30.0, 180.0, GAS_HU), p=(0.45, 0.35, 0.1, 0.1), size=38),
            strict=True,
        )
    ]
    painted: list[Structure] = []
    for shape, filling, texture in (*loops, *colon):
        wall = Common(shape, Grown(CAVITY, -3))
        painted += [Structure(wall, contrast.gut), Structure(Grown(wall, -3), filling, 0, texture)]
    return tuple(painted)


def _vessels(contrast: Contrast) -> tuple[Structure, ...]:
    aorta = Tube([(-9, -24, 160), (-8, -23, 40), (-4, -24, -160)], 10.5)
    cava = Tube([(22, -18, 88), (24, -20, 20), (20, -24, -160)], 11.5)
    mesenteric = Tube([(-5, -14, 18), (-3, 4, 0), (4, 16, -60), (15, 25, -110)], 4.5)
    portal = Tube([(-6, 4, -10), (12, 2, 6), (34, 4, 18)], 7)
    return (
        Structure(portal, contrast.vein),
        Structure(aorta, contrast.artery),
        Structure(mesenteric, contrast.artery),
        Structure(cava, contrast.vein),
    )
