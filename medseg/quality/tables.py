"""An evaluation as files and on screen: ``scores.csv``, ``summary.json`` and a table."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from medseg.io.files import write_text
from medseg.io.tables import write_csv
from medseg.quality.evaluate import Evaluation
from medseg.quality.metrics import State, StructureScore
from medseg.quality.summary import Metric, Statistics, mean_over_targets
from medseg.text import significant

if TYPE_CHECKING:
    from rich.table import Table

COLUMNS = ("dice", "iou", "hd95_mm", "nsd", "volume_ml", "true_ml", "volume_error_ml")

HEADINGS: dict[Metric, str] = {
    "dice": "Dice",
    "iou": "IoU",
    "hd95_mm": "HD95\nmm",
    "nsd": "NSD",
    "volume_error_ml": "volume\nerror ml",
}

NARROWEST_NAME = 12
"""Width of the column of names: where room is short, rich would take it away first."""


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
        "truths_not_run": list(evaluation.not_run),
    }
    write_text(path, json.dumps(summary, indent=2, allow_nan=False) + "\n")


def score_table(evaluation: Evaluation) -> Table:
    """Return the summaries as a table of 80 columns for the screen: means over the cases that count.

    States other than `scored` get a column only where they occur.
    """
    from rich.box import SIMPLE_HEAD  # rich takes a tenth of a second that only the screen needs
    from rich.table import Table
    from rich.text import Text

    summaries = evaluation.targets
    odd = [s for s in State if s is not State.SCORED and any(t.states[s.value] for t in summaries)]
    table = Table(
        box=SIMPLE_HEAD,
        padding=(0, 0 if odd else 1),
        title=f"{len(evaluation.cases)} cases, NSD at {evaluation.tolerance_mm:g} mm",
        caption="missed and spurious count as Dice 0" if set(odd) - {State.BOTH_EMPTY} else None,
    )
    table.add_column("structure", overflow="fold", min_width=NARROWEST_NAME)
    for heading in (*HEADINGS.values(), *(state.value.replace("_", "\n") for state in odd)):
        table.add_column(heading, justify="right", no_wrap=True)
    for summary in summaries:
        means = [_shown(getattr(summary, metric), metric) for metric in HEADINGS]
        table.add_row(Text(summary.target), *means, *(str(summary.states[state.value]) for state in odd))
    if len(summaries) > 1:
        table.add_section()
        overall = (mean_over_targets(summaries, metric) for metric in HEADINGS)
        table.add_row("mean", *(_number(value, metric) for value, metric in zip(overall, HEADINGS, strict=True)))
    return table


def _shown(statistics: Statistics | None, metric: Metric) -> str:
    if statistics is None:
        return "-"
    spread = f" ± {statistics.sd:.3f}" if metric == "dice" else ""
    return _number(statistics.mean, metric) + spread


def _number(value: float | None, metric: Metric) -> str:
    if value is None:
        return "-"
    return f"{value:+.2f}" if metric == "volume_error_ml" else f"{value:.2f}" if metric == "hd95_mm" else f"{value:.3f}"


def _rounded(value: float | None) -> float | None:
    return None if value is None else significant(value)
