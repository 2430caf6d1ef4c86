"""Choose by cross-validation how much the labelled scans weigh against the unlabelled ones, or that they alone count.

The labelled patients are parted in two. Each candidate is trained on either half (and, below 1, the unlabelled scans)
and scored on the other. Chosen is the largest weight that is not worse than the best one by more than a standard error
of their paired difference: the more supervised of equals. Weight 1 is training without unlabelled scans, so scans that
don't help are left alone.

Trials have all the steps of the training that they decide about, because unlabelled scans pay late: hippocampi gain
1.6 points of Dice after 1,500 steps and lose 1.0 after 400 (docs/unlabelled.md), so shorter trials would always answer
1. Two candidates on two halves cost four trainings, as four folds of four weights with a quarter of the steps would.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

from pydantic import Field

from medseg.catalog.splits import patient_of
from medseg.io.files import write_text
from medseg.records import Record, find_record
from medseg.training.promotion import paired_difference
from medseg.volume import Case

CANDIDATES = (1.0, 0.5)
"""Weights that are tried, the most supervised first; 0.5 is what unlabelled scans were measured with."""

PARTS = 2
"""Parts of the labelled patients, of which each is held out once."""

FEWEST_PATIENTS = 4
"""Below this many labelled patients a cross-validation says too little."""

FALLBACK = 0.5
"""Weight where there is no cross-validation: both losses count the same."""


class Trial(Record):
    """One candidate: the Dice of every labelled case when it was held out."""

    weight: float
    dice: dict[str, float] = Field(description="Mean Dice over the case's structures, by case id")

    @property
    def mean(self) -> float:
        """Mean Dice over the cases."""
        return fmean(self.dice.values())


class Choice(Record):
    """The chosen weight, why, and what it was chosen from."""

    weight: float
    reason: str
    trials: tuple[Trial, ...] = ()
    settings: str = Field("", description="Digest of what the choice follows from")


def enough_patients(labelled: Sequence[Case]) -> bool:
    """Whether a cross-validation over these cases says something."""
    return count_patients(labelled) >= FEWEST_PATIENTS


def count_patients(cases: Sequence[Case]) -> int:
    """Return the number of patients whose cases these are."""
    return len({patient_of(case) for case in cases})


def choose_weight(trials: Sequence[Trial]) -> Choice:
    """Return the largest weight that is as good as the best.

    Examples
    --------
    >>> even = {"a": 0.80, "b": 0.70, "c": 0.75}
    >>> better = {"a": 0.85, "b": 0.76, "c": 0.79}
    >>> choose_weight([Trial(weight=1.0, dice=even), Trial(weight=0.5, dice=better)]).weight
    0.5
    """
    best = max(trials, key=lambda trial: trial.mean)
    for trial in sorted(trials, key=lambda trial: -trial.weight):
        lead, error = paired_difference(best.dice, trial.dice)
        if lead <= error:  # as for the best one itself
            break
    if trial is best:
        reason = f"best out-of-fold Dice, {best.mean:.4f}, over {len(best.dice)} labelled cases"
    else:
        reason = (
            f"out-of-fold Dice {trial.mean:.4f} is within a standard error ({error:.4f}) of the best, "
            f"{best.mean:.4f} with {best.weight:g}, over {len(best.dice)} labelled cases"
        )
    return Choice(weight=trial.weight, reason=reason, trials=tuple(trials))


def without_trials(labelled: Sequence[Case], *, pseudo_labels: bool) -> Choice:
    """Return the fallback where nothing can be tried: with too few labelled cases, or ones that teachers knew."""
    if pseudo_labels:
        reason = (
            "the labelled cases can't judge pseudo-labels whose teachers have learnt from them; "
            "pipelines/self_training.py holds cases out from teachers and students alike"
        )
    else:
        reason = (
            f"too few patients have labelled cases to cross-validate: {count_patients(labelled)}, and "
            f"{FEWEST_PATIENTS} are needed"
        )
    return Choice(weight=FALLBACK, reason=reason)


def save_choice(choice: Choice, path: Path) -> None:
    """Write a choice as JSON."""
    write_text(path, choice.model_dump_json(indent=2) + "\n")


def load_choice(path: Path, settings: str) -> Choice | None:
    """Return the choice that an earlier sitting of the same run made; None if there is none."""
    choice = find_record(path, Choice)
    return choice if choice and choice.settings == settings else None
