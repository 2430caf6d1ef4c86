"""Choose one series of each study by rules, and say of every other one why not.

The choice is made in steps; each keeps the better series of those that are left: which rule it meets, original
before derived, preferred orientation, thinnest slices, most slices. The last two go by the rules' margin, measured
from the best of all that are left, so that the order in which series are found makes no difference. Where two are
left in the end, nothing is guessed.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from medseg.catalog.series_rules import SeriesRule, SeriesRules, is_original, orientation_of
from medseg.io.dicom_series import Series

ROUNDING = 1e-6
"""Relative difference of spacings that is none."""


@dataclass(frozen=True, slots=True)
class Choice:
    """What became of a series in its study.

    Attributes
    ----------
    series : the series.
    rank : its place, 1 for the chosen one; series that are equally good share one.
    why : why it was chosen or not, in words.
    is_chosen, is_ambiguous : whether it is the one, or one of several that would do.
    """

    series: Series
    rank: int
    why: str
    is_chosen: bool = False
    is_ambiguous: bool = False


@dataclass(frozen=True, slots=True)
class _Candidate:
    """A series with the rule that it meets."""

    series: Series
    number: int
    rule: SeriesRule

    @property
    def spacing(self) -> float:
        return self.series.grid.spacing[2]

    @property
    def slices(self) -> int:
        return self.series.grid.shape[2]

    @property
    def preference(self) -> int:
        """Place of the orientation among those that the rule prefers; without a wish, axial first."""
        wanted = self.rule.orientation or ("axial",)
        orientation = orientation_of(self.series.grid)
        return wanted.index(orientation) if orientation in wanted else len(wanted)

    def __str__(self) -> str:
        return f"{self.slices} slices, {self.spacing:.3g} mm apart, {orientation_of(self.series.grid)}"


Step = Callable[[list[_Candidate]], Callable[[_Candidate], str]]
"""Given the candidates that are left, tells why one goes; "" if it stays."""


def study_of(series: Series) -> str:
    """Return what names the study of a series; the series itself where it names none."""
    return series.slices[0].study or series.identity


def choose_series(found: Iterable[Series], rules: SeriesRules) -> Iterator[Choice]:
    """Yield what becomes of each series."""
    studies: dict[str, list[Series]] = defaultdict(list)
    for series in found:
        studies[study_of(series)].append(series)
    for study in studies.values():
        yield from _choose(sorted(study, key=lambda series: series.identity), rules)


def _choose(study: list[Series], rules: SeriesRules) -> Iterator[Choice]:
    left: list[_Candidate] = []
    lost: list[tuple[Series, str]] = []
    for series in study:
        objections = [rule.objection(series) for rule in rules.rules]
        if "" in objections:
            number = objections.index("")
            left.append(_Candidate(series, number, rules.rules[number]))
        else:
            lost.append((series, "; ".join(dict.fromkeys(objections))))
    for step in _steps(rules.margin):
        why = step(left) if left else str
        going = [(one, why(one)) for one in left]
        lost += [(one.series, words) for one, words in going if words]
        left = [one for one, words in going if not words]
    for place, (series, words) in enumerate(reversed(lost), start=len(left) + 1):
        yield Choice(series, place, words)
    yield from _best(left)


def _best(left: list[_Candidate]) -> Iterator[Choice]:
    if len(left) == 1:
        yield Choice(left[0].series, 1, f"meets rule {left[0].number + 1}: {left[0]}", is_chosen=True)
        return
    listed = "; ".join(f"{number}. {one}" for number, one in enumerate(left, start=1))
    for number, one in enumerate(left, start=1):
        why = f"{len(left)} series of its study would do ({listed}), this is number {number}; make the rules narrower"
        yield Choice(one.series, 1, why, is_ambiguous=True)


def _steps(margin: float) -> tuple[Step, ...]:
    def rule(left: list[_Candidate]) -> Callable[[_Candidate], str]:
        first = min(one.number for one in left)
        return lambda one: f"another meets rule {first + 1}" if one.number > first else ""

    def original(left: list[_Candidate]) -> Callable[[_Candidate], str]:
        any_original = any(is_original(one.series) for one in left)
        return lambda one: "it is derived, another is original" if any_original and not is_original(one.series) else ""

    def orientation(left: list[_Candidate]) -> Callable[[_Candidate], str]:
        best = min(left, key=lambda one: one.preference)
        words = f"another is {orientation_of(best.series.grid)}"
        worst = best.preference
        return lambda one: f"it is {orientation_of(one.series.grid)}, {words}" if one.preference > worst else ""

    def spacing(left: list[_Candidate]) -> Callable[[_Candidate], str]:
        thinnest = min(one.spacing for one in left)
        limit, words = thinnest * (1 + margin + ROUNDING), f"mm apart, another's {thinnest:.3g}"
        return lambda one: f"its slices are {one.spacing:.3g} {words}" if one.spacing > limit else ""

    def slices(left: list[_Candidate]) -> Callable[[_Candidate], str]:
        most = max(one.slices for one in left)
        return lambda one: f"it has {one.slices} slices, another {most}" if one.slices < most * (1 - margin) else ""

    return rule, original, orientation, spacing, slices
