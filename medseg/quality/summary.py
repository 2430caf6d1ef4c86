"""What many scores say together: one summary a target, and the means over targets."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal, get_args

import numpy as np
from pydantic import Field

from medseg.quality.metrics import State, StructureScore
from medseg.records import Record

Metric = Literal["dice", "iou", "hd95_mm", "nsd", "volume_error_ml"]
METRICS: tuple[Metric, ...] = get_args(Metric)


class Statistics(Record):
    """The distribution of one metric over cases."""

    mean: float = Field(description="Mean")
    sd: float = Field(description="Standard deviation, n - 1; 0 for a single case")
    p5: float = Field(description="5th percentile")
    p25: float = Field(description="25th percentile")
    median: float = Field(description="Median")
    p75: float = Field(description="75th percentile")
    p95: float = Field(description="95th percentile")


class TargetSummary(Record):
    """One target over all cases. Penalties of missed and spurious cases are in every statistic."""

    target: str = Field(description="Label or region")
    states: dict[str, int] = Field(description="Number of cases in each state")
    dice: Statistics | None = Field(description="Dice; null if every case is both_empty")
    iou: Statistics | None = Field(description="Intersection over union")
    hd95_mm: Statistics | None = Field(description="95th percentile of the surface distance, mm")
    nsd: Statistics | None = Field(description="Normalised surface Dice at the tolerance")
    volume_error_ml: Statistics | None = Field(description="Predicted minus true volume, ml")

    @property
    def cases(self) -> int:
        """Number of cases that count: all but both_empty."""
        return sum(count for state, count in self.states.items() if state != State.BOTH_EMPTY.value)


def summarise(scores: Iterable[StructureScore]) -> tuple[TargetSummary, ...]:
    """Return one summary a target, in the order in which the targets first appear."""
    by_target: dict[str, list[StructureScore]] = {}
    for score in scores:
        by_target.setdefault(score.target, []).append(score)
    return tuple(_summarise_target(target, rows) for target, rows in by_target.items())


def mean_over_targets(summaries: Sequence[TargetSummary], metric: Metric) -> float | None:
    """Return the mean over targets of the means over cases: every target weighs the same.

    None if no target has a case that counts.
    """
    statistics = [getattr(summary, metric) for summary in summaries]
    means = [s.mean for s in statistics if s is not None]
    return float(np.mean(means)) if means else None


def _summarise_target(target: str, rows: Sequence[StructureScore]) -> TargetSummary:
    counted = [row for row in rows if row.state is not State.BOTH_EMPTY]
    statistics = {metric: _statistics([getattr(row, metric) for row in counted]) for metric in METRICS}
    states = {state.value: sum(row.state is state for row in rows) for state in State}
    return TargetSummary(target=target, states=states, **statistics)


def _statistics(values: Sequence[float]) -> Statistics | None:
    if not values:
        return None
    p5, p25, median, p75, p95 = np.percentile(values, [5, 25, 50, 75, 95]).tolist()
    sd = float(np.std(values, ddof=1)) if len(values) > 1 else 0.0
    return Statistics(mean=float(np.mean(values)), sd=sd, p5=p5, p25=p25, median=median, p75=p75, p95=p95)
