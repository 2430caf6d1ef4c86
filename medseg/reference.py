"""What the training cases were like, and how good predictions were: what a segmented case is compared with.

A `Reference` travels in the model folder (``model.json``) and in a batch's ``run.json``, so that checks need
neither training data nor model. It holds statistics over cases, nothing of a single one.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from pydantic import Field

from medseg.records import Record
from medseg.text import significant

FEW_CASES = 5
"""With fewer training cases than this, no range is known."""


class Range(Record):
    """The distribution of one quantity over cases."""

    cases: int = Field(ge=1, description="Number of cases")
    low: float = Field(description="Smallest value")
    p5: float = Field(description="5th percentile")
    median: float = Field(description="Median")
    p95: float = Field(description="95th percentile")
    high: float = Field(description="Largest value")

    @classmethod
    def of(cls, values: Sequence[float]) -> Range | None:
        """Return the distribution of finite values; None if there are none.

        Examples
        --------
        >>> Range.of([1.0, 2.0, 3.0]).median
        2.0
        >>> Range.of([]) is None
        True
        """
        if not len(values):
            return None
        low, p5, median, p95, high = map(significant, np.percentile(values, [0, 5, 50, 95, 100]))
        return cls(cases=len(values), low=low, p5=p5, median=median, p95=p95, high=high)


class StructureReference(Record):
    """One label over the training cases. Ranges are over the cases that have it."""

    share: float = Field(ge=0, le=1, description="Share of the training cases that have it")
    volume_ml: Range | None = Field(None, description="Volume, ml")
    components: Range | None = Field(None, description="Number of connected components without specks")
    outside_share: Range | None = Field(None, description="Share that doesn't touch the organ it lies in")
    touching: float = Field(0.0, ge=0, le=1, description="Share of them in which it touches the scan's border")
    mean: tuple[Range, ...] = Field((), description="Mean intensity inside it, one entry a channel")
    sd: tuple[Range, ...] = Field((), description="Standard deviation inside it, one entry a channel")


class Ranking(Record):
    """How well expected Dice puts cases in order, on cases that it was not fitted on."""

    cases: int = Field(description="Number of cases")
    spearman: float | None = Field(description="Rank correlation of expected and true Dice; null: no spread")
    auroc: float | None = Field(description="Area under the ROC curve for Dice below the threshold; null: one class")
    threshold: float = Field(description="Dice below which a case counts as bad")
    error: float = Field(description="Mean absolute difference of expected and true Dice")


class Calibration(Record):
    """Expected Dice of a case from its features: logit = bias + sum of weight x (feature - mean) / sd.

    Every feature is oriented so that more is better, and no weight is negative.
    """

    features: tuple[str, ...] = Field(min_length=1, description="Names of the features")
    mean: tuple[float, ...] = Field(description="Mean of each over the fitted cases")
    sd: tuple[float, ...] = Field(description="Standard deviation of each; 1 where it has none")
    weight: tuple[float, ...] = Field(description="Weight of each, 0 or more")
    bias: float = Field(description="Logit of the expected Dice of an average case")
    cases: int = Field(description="Number of out-of-fold cases it was fitted on, each also degraded")
    ranking: Ranking = Field(description="How well it ranks cases that were left out of the fit, degraded ones too")
    as_scanned: Ranking | None = Field(None, description="The same on scans as they are; null: none was fitted on")


class Reference(Record):
    """What segmented cases are compared with."""

    cases: int = Field(ge=1, description="Number of training cases")
    spacing: tuple[Range, Range, Range] = Field(description="Voxel spacing along x, y, z, mm")
    relative: tuple[bool, ...] = Field(
        description="Channels whose intensities are compared relative to the whole scan (units of its standard "
        "deviation from its mean), because their scale has no meaning (MR)"
    )
    structures: dict[str, StructureReference] = Field(description="By label")
    soft_dice: dict[str, Range] = Field(
        default_factory=dict, description="Soft Dice of each target on held-out cases; empty: there were none"
    )
    calibration: Calibration | None = Field(None, description="Expected Dice; null: no cross-validation was made")
