"""A batch's results as a person should go through them: checked, and the most doubtful first.

Everything comes from the output folder alone (``cases.csv``, ``run.json``, ``cases/*/case.json``), so that a
report can be written again, anywhere, without the scans and without the model.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medseg.batch.record import MASK, CaseRecord, read_record
from medseg.batch.summary import DONE
from medseg.errors import OutputError
from medseg.io.tables import plain, write_csv
from medseg.labels import LabelMap
from medseg.quality.calibration import can_expect, case_features, expected_dice
from medseg.quality.checks import GRAVE, Finding, Flag, check_case
from medseg.reference import Reference

GRAVE_PRIORITY = 0.95
"""Priority that a grave flag gives at least: the network may be sure of a mask whose sides are swapped."""

FLAG_PENALTY = 0.9
"""Without calibration, each kind of flag multiplies the score by this."""

UNSCORED_FLAGS = frozenset({Flag.UNCERTAIN, Flag.DISAGREEMENT})
"""Flags that say again what the confidence says; they cost nothing on top of it."""


@dataclass(frozen=True, slots=True)
class ReviewedCase:
    """A segmented case.

    Attributes
    ----------
    findings : everything unusual, the gravest first.
    priority : 0 to 1, the larger the sooner a person should look.
    expected_dice : calibrated; None where the model has no calibration.
    """

    record: CaseRecord
    findings: tuple[Finding, ...]
    priority: float
    expected_dice: float | None

    @property
    def flags(self) -> tuple[Flag, ...]:
        """The kinds of findings, each once, the gravest first."""
        return tuple(dict.fromkeys(finding.flag for finding in self.findings))


@dataclass(frozen=True, slots=True)
class NotSegmented:
    """A case without a mask: its status, the reason's code, and the reason in a sentence."""

    case: str
    status: str
    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class Review:
    """A batch.

    Attributes
    ----------
    folder : the output folder.
    cases : segmented ones, the highest priority first; those of equal priority by name.
    others : failed and rejected ones.
    run : what ``run.json`` says.
    """

    folder: Path
    labels: LabelMap
    reference: Reference | None
    cases: tuple[ReviewedCase, ...]
    others: tuple[NotSegmented, ...]
    run: dict[str, Any]

    @property
    def is_calibrated(self) -> bool:
        """Whether priorities are 1 - expected Dice."""
        calibration = self.reference.calibration if self.reference else None
        return calibration is not None and can_expect(calibration)


def review_results(folder: Path) -> Review:
    """Check every case of a batch's output folder.

    Raises
    ------
    OutputError
        If the folder is not one that `medseg segment` wrote, or a later run has not ended there.
    """
    run = read_run(folder)
    try:
        labels = LabelMap.parse(run["labels"])
        reference = Reference.model_validate(run["reference"]) if run.get("reference") else None
    except (KeyError, ValueError) as error:
        raise OutputError(f"{folder / 'run.json'}: not what medseg segment writes ({type(error).__name__})") from None
    cases, others = [], []
    for row in read_rows(folder, {"case", "status", "reason", "message"}):
        case = row["case"]
        is_inside = Path(case).name == case  # a folder from elsewhere must not make us read outside of it
        record = read_record(folder / "cases" / case) if row["status"] in DONE and is_inside else None
        if record and record.case == case:
            cases.append(review_case(record, labels, reference))
        elif row["status"] in DONE:
            others.append(NotSegmented(case, "failed", "OUTPUT", f"{case}: its folder is missing or unreadable"))
        else:
            others.append(NotSegmented(case, row["status"], row["reason"], row["message"]))
    check_one_run(folder, run, [case.record for case in cases])
    ordered = sorted(cases, key=lambda case: (-case.priority, case.record.case))
    return Review(folder, labels, reference, tuple(ordered), tuple(others), run)


def write_worklist(review: Review, path: Path) -> None:
    """Write the segmented cases as CSV in the order in which a person should look at them."""
    header = ["rank", "case", "priority", "expected_dice", "flags", "findings", "mask"]
    rows = (
        [
            rank,
            case.record.case,
            round(case.priority, 4),
            None if case.expected_dice is None else round(case.expected_dice, 4),
            " ".join(map(str, case.flags)),
            " ".join(finding.sentence for finding in case.findings),
            f"cases/{case.record.case}/{MASK}",
        ]
        for rank, case in enumerate(review.cases, start=1)
    )
    write_csv(path, header, rows)


def review_case(record: CaseRecord, labels: LabelMap, reference: Reference | None) -> ReviewedCase:
    """Return what is unusual about a case, and how soon a person should look at it."""
    findings = check_case(record, labels, reference)
    expected, calibration = None, reference.calibration if reference else None
    if reference and calibration and can_expect(calibration) and record.features and record.features.uncertainty:
        expected = expected_dice(case_features(record.features, reference), calibration)
    score = expected if expected is not None else _score(record, findings)
    priority = 1 - score
    if any(finding.flag in GRAVE for finding in findings):
        priority = max(priority, GRAVE_PRIORITY)
    return ReviewedCase(record, findings, priority, expected)


def _score(record: CaseRecord, findings: tuple[Finding, ...]) -> float:
    """Return the mean confidence in the found targets, less a tenth for every kind of flag: an order, no Dice."""
    doubts = record.features.uncertainty.values() if record.features else ()
    sure = [doubt.confidence for doubt in doubts if doubt.confidence is not None] or [record.confidence]
    kinds = {finding.flag for finding in findings} - UNSCORED_FLAGS
    return float(sum(sure) / len(sure) * FLAG_PENALTY ** len(kinds))


def check_one_run(folder: Path, run: Mapping[str, Any], records: Iterable[CaseRecord]) -> None:
    """Refuse an output folder in which cases are of another run than the tables.

    A run with another model or other settings writes its cases over the earlier ones, and its tables at the end. If it
    is stopped, the folder holds results of both, under the name of the first.

    Parameters
    ----------
    run : what ``run.json`` says.
    records : of the cases that are done by ``cases.csv``.

    Raises
    ------
    OutputError
        If a case has another model than the run, or other settings.
    """
    made = [(record.inputs.model, record.inputs.settings) for record in records]
    model = run["model"].get("digest") if isinstance(run.get("model"), dict) else None
    settings = run.get("settings") or (made[0][1] if made else "")  # earlier versions did not write it
    others = sum(found != (model, settings) for found in made)
    if others:
        raise OutputError(
            f"{folder}: {others} of {len(made)} cases are of another model or other settings than run.json: a later "
            "run has not ended; repeat its command, or the one before"
        )


def read_run(folder: Path) -> dict[str, Any]:
    """Return what ``run.json`` of an output folder says; raises `OutputError` if there is none."""
    try:
        run = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise OutputError(
            f"{folder}: there is no readable run.json; give the folder that medseg segment wrote"
        ) from None
    if not isinstance(run, dict):
        raise OutputError(f"{folder / 'run.json'}: not what medseg segment writes; segment again")
    return run


def read_rows(folder: Path, columns: Collection[str], table: str = "cases.csv") -> list[dict[str, str]]:
    """Return the rows of a table of a run, without the apostrophes that keep spreadsheets from running cells.

    Raises
    ------
    OutputError
        If it can't be read, or lacks one of these columns, as after a spreadsheet wrote it with semicolons.
    """
    try:
        with (folder / table).open(encoding="utf-8-sig", newline="") as stream:
            rows = [{key: plain(cell or "") for key, cell in row.items() if key} for row in csv.DictReader(stream)]
    except (OSError, ValueError, csv.Error):
        raise OutputError(f"{folder}: there is no readable {table}; segment again") from None
    if rows and not set(columns) <= rows[0].keys():
        raise OutputError(f"{folder / table}: not what medseg segment writes; segment again")
    return rows
