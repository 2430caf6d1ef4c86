"""Is a network good enough to take another's place? Decided on held-out labelled scans, case by case."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Protocol

from medseg.quality.metrics import StructureScore
from medseg.records import Record

TARGET_TOLERANCE = 0.01
"""Dice by which a single structure may fall, if that is also within a standard error: with few cases, less is
chance; more, and a small structure starves for the others' sake."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """A decision and its reason."""

    passed: bool
    reason: str


@dataclass(frozen=True, slots=True)
class Rivals:
    """What a verdict calls the networks that it compares."""

    new: str = "students"
    old: str = "supervised networks"


class HeldOutScore(Record):
    """Dice of one structure of one labelled scan, by a network that had not learnt from it; null: nothing to find."""

    case: str
    target: str
    dice: float | None


class Scored(Protocol):
    """The Dice of one structure of one case; None: it is not there, and none was predicted."""

    @property
    def case(self) -> str: ...  # noqa: D102

    @property
    def target(self) -> str: ...  # noqa: D102

    @property
    def dice(self) -> float | None: ...  # noqa: D102


def held_out_scores(scores: Iterable[StructureScore]) -> tuple[HeldOutScore, ...]:
    """Return the Dice of each score, by which promotion is decided."""
    return tuple(HeldOutScore(case=score.case, target=score.target, dice=score.dice) for score in scores)


def by_case(scores: Iterable[Scored]) -> dict[str, float]:
    """Return the mean Dice of each case over the structures that are there or predicted."""
    found: dict[str, list[float]] = {}
    for score in scores:
        if score.dice is not None:
            found.setdefault(score.case, []).append(score.dice)
    return {case: fmean(values) for case, values in found.items()}


def comparable(*sides: Iterable[Scored]) -> tuple[dict[str, float], ...]:
    """Return each side's mean Dice by case, over the same structures: those that are there, or that a side predicts.

    A structure that is not there and that one side invents, with a Dice of 0, is worth 1 to a side that doesn't.
    """
    dice = [{(score.case, score.target): score.dice for score in side} for side in sides]
    common = set.intersection(*(set(scores) for scores in dice))
    found = sorted(key for key in common if any(scores[key] is not None for scores in dice))
    return tuple(by_case(_worth(case, target, scores[case, target]) for case, target in found) for scores in dice)


def _worth(case: str, target: str, dice: float | None) -> HeldOutScore:
    return HeldOutScore(case=case, target=target, dice=1.0 if dice is None else dice)


def paired_difference(one: Mapping[str, float], other: Mapping[str, float]) -> tuple[float, float]:
    """Return the mean of one - other over the cases of both, and its standard error (0 for a single case)."""
    differences = [one[case] - other[case] for case in sorted(one.keys() & other.keys())]
    error = stdev(differences) / math.sqrt(len(differences)) if len(differences) > 1 else 0.0
    return fmean(differences), error


def compare(new: Sequence[HeldOutScore], old: Sequence[HeldOutScore], rivals: Rivals = Rivals()) -> Verdict:
    """Return whether new networks are not worse than old ones on the same held-out scans.

    They pass if the mean paired difference of the cases' Dice is not below 0, and no structure's is below both
    -`TARGET_TOLERANCE` and minus its standard error.
    """
    ours, theirs = comparable(new, old)
    if not ours:
        return Verdict(False, "no labelled scan was held out from both")
    gain, error = paired_difference(ours, theirs)
    measured = f"held-out Dice {gain:+.4f} ± {error:.4f} over {len(ours)} labelled cases"
    if gain < 0:
        return Verdict(False, f"{rivals.new} are worse than {rivals.old}: {measured}")
    for target in sorted({score.target for score in old}):
        one, other = comparable(*([score for score in side if score.target == target] for side in (new, old)))
        if not one:
            continue
        loss, error = paired_difference(one, other)
        if loss < -max(TARGET_TOLERANCE, error):
            return Verdict(
                False, f"{rivals.new} lose {target}: Dice {loss:+.4f} ± {error:.4f}, though {measured} in all"
            )
    return Verdict(True, f"{rivals.new} are not worse than {rivals.old}: {measured}")


def fell(now: Sequence[HeldOutScore], before: Sequence[HeldOutScore]) -> Verdict:
    """Return whether held-out Dice fell by more than a standard error of the paired difference."""
    change, error = paired_difference(*comparable(now, before))
    reason = f"held-out Dice changed by {change:+.4f} ± {error:.4f}"
    return Verdict(change < 0 and -change > error, reason)
