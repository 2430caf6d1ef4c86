"""Can what teachers found in a scan be right? Where it can't, the scan doesn't belong and is left out, with a reason.

Nothing found where every labelled scan has something, volumes far from any that people drew, or teachers that disagree.
What a scan looks like was judged before (`medseg.preprocessing.likeness`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from medseg.quality.checks import millilitres
from medseg.text import shown

FACTOR_VOLUME = 4.0
"""Ratio to the largest and smallest volume that people drew beyond which a prediction is wrong; between healthy
adults organs differ by a factor of about 2."""

LEAST_AGREEMENT = 0.5
"""Mean Dice of each two views below which the teachers don't know the scan."""


@dataclass(frozen=True, slots=True)
class Expected:
    """What people drew.

    Attributes
    ----------
    volumes_ml : smallest and largest volume of each label.
    always : labels that every labelled case has.
    """

    volumes_ml: Mapping[str, tuple[float, float]]
    always: tuple[str, ...]


def expect(volumes: Sequence[Mapping[str, float]]) -> Expected:
    """Return what to expect from the volumes (ml) of the labels in each labelled case."""
    names = sorted({name for case in volumes for name in case})
    known = {name: [case[name] for case in volumes if case.get(name)] for name in names}
    return Expected(
        volumes_ml={name: (min(found), max(found)) for name, found in known.items() if found},
        always=tuple(name for name in names if len(known[name]) == len(volumes)),
    )


def strange_prediction(volumes_ml: Mapping[str, float], agreement: float | None, expected: Expected) -> str:
    """Return why what teachers found can't be right, in words; "" if it can."""
    missing = [name for name in expected.always if not volumes_ml.get(name)]
    if missing and len(missing) == len(expected.always):
        return f"nothing was found of {shown(missing)}, which every labelled scan has: another organ?"
    for name in expected.always:
        volume, (low, high) = volumes_ml.get(name, 0.0), expected.volumes_ml[name]
        if not low / FACTOR_VOLUME <= volume <= high * FACTOR_VOLUME:
            drawn = f"{millilitres(low)} to {millilitres(high)}"
            return f"{millilitres(volume)} of {name} were found, people drew {drawn}: another organ?"
    if agreement is not None and agreement < LEAST_AGREEMENT:
        return f"the teachers disagree (mean Dice of each two views {agreement:.2f})"
    return ""
