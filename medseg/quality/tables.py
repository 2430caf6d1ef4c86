"""An evaluation as files and on screen: ``scores.csv``, ``summary.json`` and a table."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from medseg.io.files import atomic_file
from medseg.io.tables import write_csv
from medseg.quality.evaluate import Evaluation
from medseg.quality.metrics import State, StructureScore
from medseg.quality.summary import Metric, Statistics, mean_over_targets

if TYPE_CHECKING:
    from rich.table import Table

COLUMNS = ("dice", "iou", "hd95_mm", "nsd", "volume_ml", "true_ml", "volume_error_ml")

HEADINGS: dict[Metric, str] = {
    "dice": "Dice",
    "iou": "IoU",
    "hd95_mm": "HD95 mm",
    "nsd": "NSD",
    "volume_error_ml": "volume error ml",
}


def write_scores(scores: Iterable[StructureScore], path: Path) -> None:
    """Write one row a case and target as CSV; what could not be measured is an empty cell."""
    rows = (
        [score.case, score.target, str(score.state), *(_rounded(getattr(score, name)) for name in COLUMNS)]
        for score in scores
    )
    write_csv(path, ["case", "target", "state", *COLUMNS], rows)


def write_summary(evaluation: Evaluation, path: Path) -> None:
    """Write the summaries, the means over targets, and every problem as JSON."""
    summary = {
        "cases": len(evaluation.cases),
        "mean_dice": evaluation.mean_dice,
        "mean_iou": evaluation.mean_iou,
        "tolerance_mm": evaluation.tolerance_mm,
        "penalties": "missed and spurious structures: Dice, IoU and NSD 0, HD95 the image's diagonal; "
        "both_empty is counted and in no mean",
        "targets": [target.model_dump() for target in evaluation.targets],
        "problems": [{"case": case, "message": message} for case, message in evaluation.problems],
        "predictions_without_truth": list(evaluation.unmatched),
    }
    with atomic_file(path) as temporary:
        temporary.write_text(json.dumps(summary, indent=2, allow_nan=False) + "\n", encoding="utf-8")


def score_table(evaluation: Evaluation) -> Table:
    """Return the summaries as a table for the screen: mean ± sd a target, the states, the means."""
    from rich.table import Table  # a tenth of a second that only the screen needs

    table = Table(title=f"{len(evaluation.cases)} cases, NSD at {evaluation.tolerance_mm:g} mm")
    table.add_column("structure")
    for heading in HEADINGS.values():
        table.add_column(heading, justify="right")
    for state in State:
        table.add_column(state.value.replace("_", " "), justify="right")
    summaries = evaluation.targets
    for summary in summaries:
        cells = [_mean_sd(getattr(summary, metric), metric) for metric in HEADINGS]
        table.add_row(summary.target, *cells, *(str(summary.states[state.value]) for state in State))
    if len(summaries) > 1:
        table.add_section()
        means = [_shown(mean_over_targets(summaries, metric), metric) for metric in HEADINGS]
        table.add_row("mean", *means)
    return table


def _mean_sd(statistics: Statistics | None, metric: Metric) -> str:
    if statistics is None:
        return "-"
    return f"{_shown(statistics.mean, metric)} ± {_shown(statistics.sd, metric)}"


def _shown(value: float | None, metric: Metric) -> str:
    if value is None:
        return "-"
    return f"{value:.2f}" if metric in ("hd95_mm", "volume_error_ml") else f"{value:.3f}"


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 6)
