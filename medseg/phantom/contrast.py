"""How bright tissues are: before contrast medium, in the arterial and in the portal venous phase."""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np


@dataclass(frozen=True, slots=True)
class Contrast:
    """Attenuation of the tissues that take up contrast medium, HU; typical values of clinical CT.

    `lesion` is how much tumours differ from their organ, HU.
    """

    artery: float
    vein: float
    liver: float
    spleen: float
    cortex: float
    medulla: float
    muscle: float
    gut: float
    lesion: float


NATIVE = Contrast(42, 40, 58, 48, 34, 31, 54, 38, 26)
ARTERIAL = Contrast(290, 110, 72, 112, 180, 85, 58, 75, 38)
PORTAL = Contrast(160, 155, 108, 120, 175, 152, 62, 70, 54)


def random_contrast(rng: np.random.Generator) -> Contrast:
    """Draw a phase (portal venous is the usual one) and a patient's departure from it."""
    phase = (PORTAL, ARTERIAL, NATIVE)[rng.choice(3, p=(0.7, 0.15, 0.15))]
    changed = {field.name: getattr(phase, field.name) * rng.uniform(0.93, 1.07) for field in fields(Contrast)}
    return Contrast(**changed)
