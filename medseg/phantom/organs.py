"""The labelled organs with their vessels, lesions and neighbours, and the whole body around them."""

from __future__ import annotations

import numpy as np

from medseg.phantom.body import AIR_HU, KIDNEY, LIVER, SPLEEN, Body, Pose, Structure
from medseg.phantom.contrast import Contrast, random_contrast
from medseg.phantom.lesions import Sites, cyst, tumour
from medseg.phantom.shapes import Common, Ellipsoid, Grown, Position, Rough, Shape, Tube, Union, Without
from medseg.phantom.torso import FAT_HU, FLUID_HU, INF, Torso, draw_torso
from medseg.phantom.waves import Waves

COUCH = (
    Structure(Ellipsoid((0, 66, 0), (285, 216, INF)), -60),
    Structure(Ellipsoid((0, 72, 0), (281, 214, INF)), AIR_HU),
)
"""A curved board and the air above it."""


def draw_body(seed: int | tuple[int, ...]) -> Body:
    """Draw a patient; the same seed always gives the same one."""
    rng = np.random.default_rng(seed)
    pose, contrast = Pose.random(rng), random_contrast(rng)
    torso = draw_torso(rng, contrast)
    kidneys = {side: _kidney_shape(rng, side) for side in (-1, 1)}
    capsules = {side: Grown(shape, 7) for side, shape in kidneys.items()}
    liver = _liver_shape(rng, torso, capsules[1])
    spleen = _spleen_shape(rng, torso, capsules[-1])
    organs = [
        *_spleen(rng, spleen, contrast),
        *_liver(rng, liver, contrast),
        *(Structure(Common(shape, torso.abdomen), FAT_HU) for shape in capsules.values()),
        *_kidneys(rng, kidneys, contrast),
    ]
    return Body(pose, COUCH, (*torso.structures, *organs))


def _near(rng: np.random.Generator, position: Position, spread: float = 4.0) -> Position:
    x, y, z = rng.normal(position, spread)
    return x, y, z


def _sized(rng: np.random.Generator, radii: Position) -> Position:
    x, y, z = np.array(radii) * rng.uniform(0.93, 1.07) * rng.uniform(0.95, 1.05, size=3)
    return x, y, z


def _liver_shape(rng: np.random.Generator, torso: Torso, capsule: Shape) -> Shape:
    right = Ellipsoid(_near(rng, (74, 4, 26)), _sized(rng, (74, 80, 72)), (0, 12, 0))
    tip = Ellipsoid(_near(rng, (96, 2, -22)), _sized(rng, (38, 58, 52)), (0, 0, 0))
    left = Ellipsoid(_near(rng, (2, 48, 48)), _sized(rng, (72, 34, 30)), (0, -8, 0))
    hilum = Ellipsoid(_near(rng, (20, 2, 0)), (32, 30, 26))
    whole = Common(Union(right, tip, left, blend=14), Grown(torso.abdomen, -3))
    return Rough(Without(whole, hilum, capsule, _gallbladder(1.5)), Waves.random(rng, (40, 90), 1.2))


def _gallbladder(growth: float) -> Shape:
    return Grown(Ellipsoid((46, 44, -22), (13, 17, 28), (35, 0, 0)), growth)


def _spleen_shape(rng: np.random.Generator, torso: Torso, capsule: Shape) -> Shape:
    whole = Ellipsoid(_near(rng, (-102, -34, 42), 3), _sized(rng, (34, 46, 48)), (25, 15, 0))
    return Without(Common(whole, Grown(torso.abdomen, -3)), Grown(torso.stomach, 4), capsule)


def _kidney_shape(rng: np.random.Generator, side: int) -> Shape:
    centre = _near(rng, (side * 63, -50, -22 if side > 0 else -8), 3)
    bean = Ellipsoid(centre, _sized(rng, (27, 24, 52)), (-8, -side * 10, 0))
    x, y, z = centre
    notch = Ellipsoid((x - side * 27, y + 5, z), (13, 11, 17))
    return Without(bean, notch)


def _liver(rng: np.random.Generator, shape: Shape, contrast: Contrast) -> list[Structure]:
    painted = [
        Structure(_gallbladder(0), FLUID_HU),
        Structure(shape, contrast.liver, LIVER, Waves.random(rng, (10, 30), 3)),
    ]
    painted += [Structure(Common(branch, shape), contrast.vein, LIVER) for branch in _branches(rng)]
    if rng.random() < 0.5:  # fat that is spared or deposited beside the falciform ligament, as it often is
        wedge = Ellipsoid(_near(rng, (18, 62, 42)), (9, 22, 20))
        painted.append(Structure(Common(wedge, shape), contrast.liver - 0.7 * contrast.lesion, LIVER))
    sites = Sites(rng, shape)
    for _ in range(rng.integers(1, 4)):
        painted += tumour(rng, sites, rng.uniform(12, 23), contrast.liver, _difference(rng, contrast))
    for _ in range(rng.integers(0, 3)):
        painted += cyst(rng, sites, rng.uniform(5, 13), LIVER)
    return painted


def _branches(rng: np.random.Generator) -> list[Shape]:
    gate, cava = (30.0, 6.0, 16.0), (24.0, -14.0, 74.0)
    portal = ((80, -18, 22), (76, 34, 18), (4, 44, 40), (102, 8, -14))
    hepatic = ((84, -22, 46), (62, 40, 44), (14, 34, 54))
    branches: list[Shape] = [Tube([gate, _near(rng, end)], 4.6) for end in portal]
    return branches + [Tube([cava, _near(rng, end)], 4.2) for end in hepatic]


def _spleen(rng: np.random.Generator, shape: Shape, contrast: Contrast) -> list[Structure]:
    return [Structure(shape, contrast.spleen, SPLEEN, Waves.random(rng, (12, 30), 3))]


def _kidneys(rng: np.random.Generator, shapes: dict[int, Shape], contrast: Contrast) -> list[Structure]:
    painted: list[Structure] = []
    diseased = rng.choice((-1, 1, 0), p=(0.35, 0.35, 0.3))
    for side, shape in shapes.items():
        x, y, z = ((shape.box[0] + shape.box[1]) / 2).tolist()
        sinus = Ellipsoid((x - side * 12, y + 2, z), (15, 9, 22))
        painted += [
            Structure(shape, contrast.cortex, KIDNEY),
            Structure(Grown(shape, -7), contrast.medulla, KIDNEY, Waves.random(rng, (10, 22), 0.08 * contrast.medulla)),
            Structure(Common(sinus, shape), FAT_HU + 25),
            Structure(Tube([(x - side * 26, y + 4, z - 4), (side * 16, -20, z + 10)], 4.5), contrast.vein),
        ]
        sites = Sites(rng, Without(shape, Grown(sinus, 1)))
        if side == diseased:
            painted += tumour(rng, sites, rng.uniform(11, 15), contrast.medulla, 1.4 * _difference(rng, contrast))
        if rng.random() < 0.4:
            painted += cyst(rng, sites, rng.uniform(5, 9), KIDNEY)
    return painted


def _difference(rng: np.random.Generator, contrast: Contrast) -> float:
    return contrast.lesion * rng.uniform(0.8, 1.25)
