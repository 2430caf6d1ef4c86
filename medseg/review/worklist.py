"""``worklist.csv``: the cases as a table, and the verdicts that people enter there with a spreadsheet.

SlicerCaseIterator reads the columns ``path``, ``image`` and ``mask`` (joined, and relative to the table). The
columns ``status``, ``reviewer``, ``decided`` and ``comment`` are empty, for reviewers who have no Slicer script.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from pathlib import Path

from medseg.io.tables import edited_rows, write_csv
from medseg.review.folder import Manifest
from medseg.review.refusal import Refusal, ReviewError
from medseg.text import printable

HEADER = (
    "path", "image", "mask", "case", "priority", "expected_dice", "flags", "findings",
    "status", "reviewer", "decided", "comment",
)  # fmt: skip

VERDICTS = {
    "accepted": "accepted", "accept": "accepted", "corrected": "corrected", "correct": "corrected",
    "rejected": "rejected", "reject": "rejected", "flagged": "flagged", "flag": "flagged",
}  # fmt: skip
"""What may stand in the column `status`, and the verdict that it means."""

SPREADSHEET_EPOCH = date(1899, 12, 30)
"""Day 0 of the numbers that Excel and LibreOffice make of dates."""


@dataclass(frozen=True, slots=True)
class Row:
    """A verdict that somebody entered; `line` is where."""

    line: int
    case: str
    status: str
    reviewer: str
    decided: str
    comment: str


@dataclass(frozen=True, slots=True)
class BadRow:
    """A line that can't be understood, and why."""

    case: str
    message: str


def write_worklist(path: Path, manifest: Manifest, entered: Mapping[str, Sequence[Row]]) -> None:
    """Write the cases in the order in which they should be looked at, a line for each verdict entered so far."""
    rows = (
        [
            ".",
            case.shown,
            case.mask,
            case.case,
            round(case.priority, 4),
            None if case.expected_dice is None else round(case.expected_dice, 4),
            " ".join(case.flags),
            " ".join(case.findings),
            *_cells(verdict),
        ]
        for case in manifest.cases
        for verdict in entered.get(case.case, (None,))
    )
    write_csv(path, HEADER, rows)


def entered_verdicts(path: Path) -> dict[str, tuple[Row, ...]]:
    """Return the verdicts in a worklist that is to be written anew, by case; none if there is no worklist.

    Several reviewers may each have a line for a case.

    Raises
    ------
    ReviewError
        `WORKLIST` if entries can't be understood: they would be lost.
    """
    if not path.is_file():
        return {}
    rows, problems = read_worklist(path)
    if problems:
        raise ReviewError(Refusal.WORKLIST, f"{problems[0].message}; repair it before the worklist is written anew")
    by_case: dict[str, tuple[Row, ...]] = {}
    for row in rows:
        by_case[row.case] = (*by_case.get(row.case, ()), row)
    return by_case


def read_worklist(path: Path) -> tuple[list[Row], list[BadRow]]:
    """Return the verdicts that a worklist holds, whatever a spreadsheet has made of the file.

    Columns may come in any order, others may be there, and all but ``case`` may be missing. Rows without a status say
    nothing.

    Raises
    ------
    ReviewError
        `WORKLIST` if it is no table, or has verdicts but no cases.
    """
    try:
        lines = edited_rows(path)
    except (OSError, csv.Error) as error:
        raise ReviewError(Refusal.WORKLIST, f"{path.name}: not a readable table ({type(error).__name__})") from None
    header = [cell.casefold() for cell in lines[0]] if lines else []
    if "status" not in header:
        return [], []
    rows: list[Row] = []
    problems: list[BadRow] = []
    for number, cells in enumerate(lines[1:], start=2):
        named = dict(zip(header, cells, strict=False))
        if not named.get("status"):
            continue
        if not named.get("case"):
            raise ReviewError(Refusal.WORKLIST, f"{path.name}, line {number}: a status without a case; restore it")
        try:
            rows.append(_row(number, named))
        except ValueError as error:
            problems.append(BadRow(named["case"], f"{path.name}, line {number}: {error}"))
    return rows, problems


def _cells(row: Row | None) -> tuple[str, ...]:
    return (row.status, row.reviewer, row.decided, row.comment) if row else ("",) * 4


def _row(number: int, cells: dict[str, str]) -> Row:
    status = VERDICTS.get(cells["status"].casefold())
    if status is None:
        raise ValueError(
            f"{printable(cells['status'])!r} is no status; write {', '.join(sorted(set(VERDICTS.values())))}"
        )
    decided = _moment(cells.get("decided", ""))
    return Row(number, cells["case"], status, cells.get("reviewer", ""), decided, cells.get("comment", ""))


def _moment(text: str) -> str:
    """Return a date or time as ISO 8601; spreadsheets show dates as days since 1899, or with dots.

    Examples
    --------
    >>> _moment("46000"), _moment("9.12.2025"), _moment("2025-12-09")
    ('2025-12-09', '2025-12-09', '2025-12-09')
    """
    if not text:
        return ""
    try:
        if re.fullmatch(r"[0-9]{5}([.,][0-9]+)?", text):
            return (SPREADSHEET_EPOCH + timedelta(days=int(text[:5]))).isoformat()
        if dotted := re.fullmatch(r"(\d{1,2})\.(\d{1,2})\.(\d{4})", text):
            return date(*map(int, dotted.groups()[::-1])).isoformat()
        moment = datetime.fromisoformat(text.replace("Z", "+00:00")) if len(text) > 10 else date.fromisoformat(text)
        return moment.isoformat()
    except ValueError:
        raise ValueError(f"{printable(text)!r} is no date; write it as 2025-12-09") from None
