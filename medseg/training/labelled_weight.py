"""Choose by cross-validation how much the labelled scans weigh against the unlabelled ones, or that they alone count.

Each candidate is trained on each fold's labelled cases (and, below 1, the unlabelled scans) with a share
of the steps, and scored on the cases left out. Chosen is the largest weight that is not worse than the
best one by more than a standard error of their paired difference: the more supervised of equals. Weight 1
is training without unlabelled scans, so scans that don't help are left alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from medseg.catalog.splits import patient_of
from medseg.config import ExperimentConfig
from medseg.io.files import atomic_file
from medseg.training.promotion import paired_difference
from medseg.volume import Case

CANDIDATES = (1.0, 0.8, 0.5, 0.3)
"""Weights that are tried, the most supervised first."""

MOST_FOLDS = 4
"""Folds of the cross-validation; as many as patients where there are fewer."""

FEWEST_PATIENTS = 4
"""Below this many labelled patients a cross-validation says too little."""

STEPS_SHARE = 0.25
"""Share of the steps that a candidate is trained for."""

FALLBACK = 0.5
"""Weight where there is no cross-validation: both losses count the same."""


class Trial(BaseModel):
    """One candidate: the Dice of every labelled case when it was held out."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    weight: float
    dice: dict[str, float] = Field(description="Mean Dice over the case's structures, by case id")

    @property
    def mean(self) -> float:
        """Mean Dice over the cases."""
        return fmean(self.dice.values())


class Choice(BaseModel):
    """The chosen weight, why, and what it was chosen from."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    weight: float
    reason: str
    trials: tuple[Trial, ...] = ()
    settings: str = Field("", description="Digest of what the choice follows from")


def folds_for(labelled: Sequence[Case]) -> int:
    """Return the number of folds; 0 where there are too few patients."""
    patients = len({patient_of(case) for case in labelled})
    return 0 if patients < FEWEST_PATIENTS else min(MOST_FOLDS, patients)


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
        if lead <= error:
            break
    else:
        trial = best
    if trial is best:
        reason = f"best out-of-fold Dice, {best.mean:.4f}, over {len(best.dice)} labelled cases"
    else:
        reason = (
            f"out-of-fold Dice {trial.mean:.4f} is within a standard error ({error:.4f}) of the best, "
            f"{best.mean:.4f} with {best.weight:g}, over {len(best.dice)} labelled cases"
        )
    return Choice(weight=trial.weight, reason=reason, trials=tuple(trials))


def without_trials(labelled: Sequence[Case]) -> Choice:
    """Return the fallback for too few labelled cases."""
    return Choice(
        weight=FALLBACK,
        reason=f"{len(labelled)} labelled cases are too few to cross-validate ({FEWEST_PATIENTS} patients are needed)",
    )


def trial_config(config: ExperimentConfig, weight: float) -> ExperimentConfig:
    """Return the experiment with this weight and the steps of a trial."""
    return shortened(with_weight(config, weight))


def shortened(config: ExperimentConfig) -> ExperimentConfig:
    """Return the experiment with the steps of a trial, whose folds decide nothing while it trains."""
    steps = max(1, round(config.training.steps * STEPS_SHARE))
    training = config.training.model_copy(update={"steps": steps, "validate_every": 0, "patience": 0})
    return config.model_copy(update={"training": training})


def with_weight(config: ExperimentConfig, weight: float) -> ExperimentConfig:
    """Return the experiment with this labelled weight."""
    return config.model_copy(update={"unlabelled": config.unlabelled.model_copy(update={"labelled_weight": weight})})


def save_choice(choice: Choice, path: Path) -> None:
    """Write a choice as JSON."""
    with atomic_file(path) as temporary:
        temporary.write_text(choice.model_dump_json(indent=2) + "\n", encoding="utf-8")


def load_choice(path: Path, settings: str) -> Choice | None:
    """Return the choice that an earlier sitting of the same run made; None if there is none."""
    try:
        choice = Choice.model_validate_json(path.read_text(encoding="utf-8"))
    except (OSError, ValidationError):
        return None
    return choice if choice.settings == settings else None
