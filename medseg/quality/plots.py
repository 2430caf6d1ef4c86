"""The scores of an evaluation as a picture: every case a dot, every structure a row, the worst named."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from medseg.errors import OutputError
from medseg.io.files import atomic_file
from medseg.quality.metrics import State, StructureScore
from medseg.quality.summary import Metric

if TYPE_CHECKING:
    from matplotlib.axes import Axes

AXIS_TITLES: dict[Metric, str] = {
    "dice": "Dice (1 is perfect)",
    "iou": "Intersection over union (1 is perfect)",
    "hd95_mm": "95th percentile of the surface distance, mm (0 is perfect)",
    "nsd": "Normalised surface Dice (1 is perfect)",
    "volume_error_ml": "Predicted minus true volume, ml (0 is perfect)",
}
SHARES: tuple[Metric, ...] = ("dice", "iou", "nsd")
"""Metrics from 0 to 1, of which the lowest is the worst; of the others the one furthest from 0."""
BLUE, RED, GREY = "#2f6f9f", "#c8443a", "#5b6470"
WORST_NAMED = 3
LONGEST_NAME = 32
BESIDE = ("axes fraction", "data")
"""Coordinates of a text beside a row: across in parts of the axes, down in rows."""
FORMATS = (".png", ".svg", ".pdf")


def plot_scores(scores: Sequence[StructureScore], path: Path, metric: Metric = "dice") -> None:
    """Draw the distribution of one metric, a row for each target, into a PNG, SVG or PDF file.

    Missed and spurious cases are crosses at their penalty; cases where both masks are empty are not
    drawn. The worst cases of each target are named beside its row.

    Raises
    ------
    OutputError
        If the ending is another one, or the file can't be written.
    """
    from matplotlib.figure import Figure  # half a second, and pyplot's global state is never touched

    if path.suffix.lower() not in FORMATS:
        raise OutputError(f"can't draw {path}: the ending must be one of {', '.join(FORMATS)}")
    targets = list(dict.fromkeys(score.target for score in scores))
    figure = Figure(figsize=(9.5, 1.5 + 0.62 * max(1, len(targets))), layout="constrained")
    axes = figure.add_subplot()
    for row, target in enumerate(targets):
        _draw_target(axes, row, [s for s in scores if s.target == target and s.state is not State.BOTH_EMPTY], metric)
    cases = len({score.case for score in scores})
    _dress(axes, targets, metric, f"{cases} cases; box: quartiles and median; x: missed or spurious")
    with atomic_file(path) as temporary:
        figure.savefig(temporary, dpi=150, format=path.suffix[1:].lower())


def _dress(axes: Axes, targets: Sequence[str], metric: Metric, title: str) -> None:
    axes.set_yticks(range(len(targets)), targets, parse_math=False)
    axes.set_ylim(max(1, len(targets)) - 0.5, -0.5)
    axes.set_xlabel(AXIS_TITLES[metric])
    if metric in SHARES:
        axes.set_xlim(-0.02, 1.02)
    axes.grid(axis="x", color="#e3e6ea", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(left=False)
    axes.set_title(title, fontsize=9, color=GREY, loc="left")
    axes.annotate("worst cases", (1.02, 1.0), xycoords="axes fraction", color=GREY, va="bottom", fontsize=9)


def _draw_target(axes: Axes, row: int, scores: Sequence[StructureScore], metric: Metric) -> None:
    if not scores:
        axes.annotate("in no case", (0.01, row), xycoords=BESIDE, color=GREY, va="center", fontsize=8)
        return
    values = np.array([getattr(score, metric) for score in scores], dtype=float)
    scored = np.array([score.state is State.SCORED for score in scores])
    # Dots are spread by their rank, not at random: the same scores give the same picture.
    spread = np.empty(len(values))
    spread[np.argsort(values, kind="stable")] = (np.arange(len(values)) * 0.618034) % 1.0
    heights = row + (spread - 0.5) * 0.36
    axes.boxplot(
        [values], positions=[row], orientation="horizontal", widths=0.5, showfliers=False, manage_ticks=False,
        boxprops={"color": GREY}, whiskerprops={"color": GREY}, capprops={"color": GREY},
        medianprops={"color": GREY, "linewidth": 2},
    )  # fmt: skip
    axes.scatter(values[scored], heights[scored], s=14, color=BLUE, alpha=0.55, linewidths=0, zorder=3)
    axes.scatter(values[~scored], heights[~scored], s=26, color=RED, marker="x", zorder=3)
    order = np.argsort(values if metric in SHARES else -np.abs(values), kind="stable")
    worst = [f"{_shortened(scores[number].case)}  {values[number]:.3g}" for number in order[:WORST_NAMED]]
    axes.annotate("\n".join(worst), (1.02, row), xycoords=BESIDE, color=GREY, va="center", fontsize=8, parse_math=False)


def _shortened(name: str) -> str:
    return name if len(name) <= LONGEST_NAME else f"{name[: LONGEST_NAME - 3]}..."
