"""``report.html``: a batch's results on one page that opens anywhere, without a network.

Without scripts it is still readable (`medseg.quality.page`): the most doubtful case comes first.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any
from urllib.parse import quote

from markupsafe import Markup

from medseg.batch.record import PICTURE
from medseg.errors import ConfigError
from medseg.io.files import write_text
from medseg.labels import Label
from medseg.quality.calibration import BAD_DICE
from medseg.quality.checks import MEANINGS, Finding, Flag, millilitres
from medseg.quality.page import render_page
from medseg.quality.pictures import Pictures, embed_pictures
from medseg.quality.range_plot import Dot, case_bar, volume_plot
from medseg.quality.review import Review, ReviewedCase, review_results, write_worklist
from medseg.quality.viewer import VIEW, write_niivue

REPORT = "report.html"
WORKLIST = "worklist.csv"

FAIR_DICE = 0.85
"""Expected Dice (or score) from which a case is shown as good; below `BAD_DICE` as bad."""

MOST_STRUCTURES = 40
"""Structures that a case lists: those with findings, then the largest."""


@dataclass(frozen=True, slots=True)
class StructureRow:
    """One structure of a case, as the page shows it."""

    name: str
    colour: str
    volume: str
    bar: Markup
    pieces: str
    soft_dice: str
    flags: tuple[Flag, ...]


@dataclass(frozen=True, slots=True)
class CaseRow:
    """One case, as the page shows it."""

    anchor: str
    rank: int
    case: ReviewedCase
    level: str
    pictures: Pictures
    structures: tuple[StructureRow, ...]
    more: int
    volumes: tuple[float, ...]


def write_report(folder: Path, viewer: str = "") -> Review:
    """Check a batch's results and write ``report.html`` and ``worklist.csv`` into its output folder.

    Parameters
    ----------
    viewer : address of a `medseg serve`, which each case then links to, in place of the page that it has of its own
        (`medseg.quality.viewer`).

    Raises
    ------
    ConfigError
        If `viewer` is no address of a web server.
    OutputError
        If the folder is not one that `medseg segment` wrote, or can't be written to.
    """
    if viewer and not viewer.startswith(("http://", "https://")):
        raise ConfigError(f"{viewer!r} is no address of a server; write it as http://127.0.0.1:8000/key/...")
    review = review_results(folder)
    write_worklist(review, folder / WORKLIST)
    looks = _looks(review, viewer.rstrip("/"))
    write_text(folder / REPORT, render(review, looks))
    return review


def render(review: Review, looks: Mapping[str, str]) -> str:
    """Return the page.

    Parameters
    ----------
    looks : addresses of the cases' viewers, by case; a case without one has no link.
    """
    pictures = embed_pictures(review.folder / "cases" / case.record.case / PICTURE for case in review.cases)
    rows = [
        _case_row(rank, case, picture, review)
        for rank, (case, picture) in enumerate(zip(review.cases, pictures, strict=True), start=1)
    ]
    return render_page(
        "report.html",
        rows=rows,
        others=review.others,
        run=review.run,
        model=_mapping(review.run.get("model")),
        reference=review.reference,
        is_calibrated=review.is_calibrated,
        tiles=_tiles(review),
        plots=_plots(review, rows),
        labels=review.labels.labels,
        counts=Counter(flag for case in review.cases for flag in case.flags),
        meanings=MEANINGS,
        picture_name=PICTURE,
        looks=looks,
    )


def _looks(review: Review, viewer: str) -> dict[str, str]:
    """Return where each case can be looked at: a server's page or its own; without cases that have neither."""
    places = {case.record.case: quote(case.record.case, safe="") for case in review.cases}
    if viewer:
        return {case: f"{viewer}/view/{place}" for case, place in places.items()}
    own = {
        case: f"cases/{place}/{VIEW}"
        for case, place in places.items()
        if (review.folder / "cases" / case / VIEW).is_file()
    }
    return own if own and write_niivue(review.folder) else {}


def _case_row(rank: int, case: ReviewedCase, pictures: Pictures, review: Review) -> CaseRow:
    volumes = case.record.volumes_ml
    flagged: dict[str, list[Finding]] = {}
    for finding in case.findings:
        flagged.setdefault(finding.structure, []).append(finding)
    order = sorted(review.labels.labels, key=lambda label: (label.name not in flagged, -volumes.get(label.name, 0.0)))
    shown = [label for label in order if volumes.get(label.name) or label.name in flagged]
    structures = (_structure_row(label, case, review, flagged.get(label.name, ())) for label in shown[:MOST_STRUCTURES])
    return CaseRow(
        anchor=f"case-{rank}",
        rank=rank,
        case=case,
        level=_level(1 - case.priority),
        pictures=pictures,
        structures=tuple(structures),
        more=max(0, len(shown) - MOST_STRUCTURES),
        volumes=tuple(volumes.get(label.name, 0.0) for label in review.labels.labels),
    )


def _structure_row(label: Label, case: ReviewedCase, review: Review, findings: Sequence[Finding]) -> StructureRow:
    volume = case.record.volumes_ml.get(label.name, 0.0)
    known = review.reference.structures.get(label.name) if review.reference else None
    features = case.record.features
    found = features.structures.get(label.name) if features else None
    doubt = features.uncertainty.get(label.name) if features else None
    colour = _css(label)
    return StructureRow(
        name=label.name,
        colour=colour,
        volume=millilitres(volume) if volume else "not found",
        bar=case_bar(volume, colour, known.volume_ml) if known and known.volume_ml and volume else Markup(""),
        pieces=str(found.components) if found else "",
        soft_dice=f"{doubt.soft_dice:.2f}" if doubt and doubt.soft_dice is not None else "",
        flags=tuple(dict.fromkeys(finding.flag for finding in findings)),
    )


def _tiles(review: Review) -> list[tuple[str, str, str]]:
    """Return the summary: number, what it counts, and a remark."""
    flagged = sum(bool(case.flags) for case in review.cases)
    tiles = [
        (str(len(review.cases)), "segmented", ""),
        (str(flagged), "with flags", f"{flagged / len(review.cases):.0%} of them" if review.cases else ""),
        (str(len(review.others)), "not segmented", "listed at the end" if review.others else ""),
    ]
    expected = [case.expected_dice for case in review.cases if case.expected_dice is not None]
    if expected:
        bad = sum(dice < BAD_DICE for dice in expected)
        tiles.append((f"{median(expected):.2f}", "median expected Dice", f"{bad} below {BAD_DICE:g}"))
    return tiles


def _plots(review: Review, rows: Sequence[CaseRow]) -> list[tuple[Label, str, Markup, str]]:
    """Return for each label that occurs: the label, its colour, its plot, and the training range in words."""
    plots = []
    for number, label in enumerate(review.labels.labels):
        dots = [Dot(row.case.record.case, row.anchor, row.volumes[number]) for row in rows if row.volumes[number] > 0]
        known = review.reference.structures.get(label.name) if review.reference else None
        usual = known.volume_ml if known else None
        if dots:
            words = f"training {millilitres(usual.low)} to {millilitres(usual.high)}" if usual else "no training range"
            plots.append((label, _css(label), volume_plot(label.name, _css(label), dots, usual), words))
    return plots


def _level(score: float) -> str:
    return "bad" if score < BAD_DICE else "fair" if score < FAIR_DICE else "good"


def _css(label: Label) -> str:
    return "#{:02x}{:02x}{:02x}".format(*label.colour)


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}
