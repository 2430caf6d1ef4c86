"""Held-out scans: how they are kept to measure by, and what they say of a model.

That is its scores, the clean-up that helps, and the Dice to expect of a case.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from medseg.config import ExperimentConfig
from medseg.networks.model import Model
from medseg.postprocessing import choose_rules
from medseg.quality.calibration import HeldOut, fit_calibration, observe
from medseg.quality.expectations import with_held_out
from medseg.quality.metrics import StructureScore
from medseg.quality.summary import mean_over_targets, summarise
from medseg.training.validation import Comparison
from medseg.volume import Case

MEASURING = {"validate_every": 0, "patience": 0}
"""Fields of a training whose held-out cases measure the network, and decide nothing while it trains."""

logger = logging.getLogger(__name__)


def of_fold(
    config: ExperimentConfig, train: Sequence[Case], held_out: Sequence[Case], steps_share: float
) -> ExperimentConfig:
    """Return the experiment of a fold: trained for a share of the steps, and measured on the held-out cases."""
    lists = {"train": [case.id for case in train], "validation": [case.id for case in held_out]}
    steps = max(1, round(config.training.steps * steps_share))
    return config.with_changes(dataset=lists, training={"steps": steps, **MEASURING})


class MaskPairs(Sequence[Any]):
    """Predictions with their truths, which are unpacked when their turn comes."""

    def __init__(self, comparisons: Sequence[Comparison]) -> None:
        self.comparisons = comparisons

    def __len__(self) -> int:
        return len(self.comparisons)

    def __getitem__(self, number: Any) -> Any:
        return self.comparisons[number].masks


def validated(model: Model, comparisons: Sequence[Comparison], scores: Sequence[StructureScore]) -> Model:
    """Return a model with its scores on validation cases, and how sure it was of them; they decide nothing."""
    reference = model.reference
    if reference is not None:
        reference = with_held_out(reference, [case.features for case in comparisons], None)
    return replace(model, reference=reference, scores=dice_by_target(scores))


def cross_validated(model: Model, comparisons: Sequence[Comparison], scores: Sequence[StructureScore]) -> Model:
    """Return a model with its scores out of fold, which also choose the post-processing and fit the Dice to expect.

    Parameters
    ----------
    comparisons, scores : of every training case, by a network that had not learnt from it.
    """
    choice = choose_rules(MaskPairs(comparisons), model.labels)
    for trial in choice.trials:
        logger.info(trial.describe())
    model = replace(validated(model, comparisons, scores), postprocessing=choice.rules)
    if model.reference is None:
        return model
    calibration = fit_calibration(observe(_held_out(comparisons, scores), model.reference))
    return replace(model, reference=model.reference.model_copy(update={"calibration": calibration}))


def _held_out(comparisons: Sequence[Comparison], scores: Sequence[StructureScore]) -> list[HeldOut]:
    """Return what an expected Dice is fitted on: the cases, and their degraded copies."""
    found: list[HeldOut] = []
    for case in comparisons:
        found.append(HeldOut(case.case_id, case.features, [s for s in scores if s.case == case.case_id]))
        found += case.degraded
    return found


def dice_by_target(scores: Sequence[StructureScore]) -> dict[str, float | None]:
    """Return the mean Dice of each target over the held-out cases, and their mean."""
    targets = summarise(scores)
    means: dict[str, float | None] = {target.target: target.dice.mean if target.dice else None for target in targets}
    return {**means, "mean": mean_over_targets(targets, "dice")} if targets else {}
