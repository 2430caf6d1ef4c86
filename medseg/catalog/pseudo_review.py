"""What people did to pseudo-labels: taken in when the folder is read.

A person reviews by editing files: the column ``status`` of ``pseudo_labels.csv`` (accepted, rejected), or a
case's ``label.nii.gz`` itself, which is noticed by its digest and makes the case `edited`. What is accepted or
edited counts as a person's label, with full weight wherever it is not 255; what is rejected never returns.
Nonsense is refused before anything changes. There is no way back from a decision but to delete the case's
folder and make the pseudo-label anew.
"""

from __future__ import annotations

import csv
import shutil
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from medseg.catalog.datasets import Dataset
from medseg.catalog.listing import visible
from medseg.catalog.pseudo_labels import (
    LABEL,
    RECORD,
    REVIEWED,
    SUMMARY,
    WEIGHT,
    PseudoLabelRecord,
    Status,
    digest_maps,
    learnable,
    read_record,
    read_records,
    write_record,
    write_summary,
)
from medseg.errors import DatasetError, MedsegError
from medseg.geometry import reorder
from medseg.io.files import atomic_folder
from medseg.io.nifti import read_mask, write_mask
from medseg.io.scan import inspect_scan
from medseg.io.tables import edited_rows
from medseg.labels import IGNORE_INDEX, LabelMap
from medseg.text import shown
from medseg.volume import Case, Mask

WORDS: Mapping[str, Status | None] = {
    "": None, "auto": None, "left-out": None, "accepted": "accepted", "edited": "accepted", "rejected": "rejected",
}  # fmt: skip
"""What may stand in the column `status`, and what a person means by it; None: nothing."""


@dataclass(frozen=True, slots=True)
class Decision:
    """What a person wrote into the table about a case."""

    status: Status | None
    reviewer: str


def read_pseudo_labels(folder: Path, dataset: Dataset) -> tuple[tuple[Case, PseudoLabelRecord], ...]:
    """Take in what people decided and return the cases to learn from, each with its label, weights and record.

    Parameters
    ----------
    folder : what ``medseg pseudo-label`` wrote.
    dataset : that the scans belong to.

    Raises
    ------
    DatasetError
        If the folder holds nothing to learn from, or something that can't be right; the message names the case.
    """
    return learnable(folder, take_in(folder, dataset), dataset)


def take_in(folder: Path, dataset: Dataset) -> tuple[PseudoLabelRecord, ...]:
    """Bring the records up to date with what people did to the folder, and return them.

    Raises
    ------
    DatasetError
        If the table or an edited label is nonsense; nothing is changed then.
    """
    records = read_records(folder)
    cases = {case.id: case for case in dataset.cases}
    decisions = read_decisions(folder, [*cases, *(record.case for record in records)])
    changes = []
    for record in records:
        status = _new_status(folder, record, decisions.get(record.case))
        if status is not None:
            label = None if status == "rejected" else _read_label(folder, record, cases, dataset.labels)
            changes.append((record, status, label))
    updated = {record.case: record for record in records}
    for record, status, label in changes:
        decision = decisions.get(record.case)
        reviewer = decision.reviewer if decision else record.reviewer
        if label is not None:
            _write_full_weight(folder / record.case, cases[record.case], label)
        files = digest_maps(folder / record.case)
        decided = {"status": status, "reviewer": reviewer, "files": files, "adopted": False}
        updated[record.case] = record.model_copy(update=decided)
        write_record(folder, updated[record.case])  # last, so that a decision that is interrupted is taken in again
    if changes:
        write_summary(folder, updated.values())
    return tuple(updated.values())


def adopt_reviewed(
    source: Path, target: Path, statuses: Sequence[Status] = REVIEWED, cases: Container[str] | None = None
) -> None:
    """Take over to another folder what people decided, and take back what they no longer do.

    Cases that they decided on in the other folder itself are left alone.

    Parameters
    ----------
    statuses : the decisions that are taken over.
    cases : that the other folder is about, those of others are deleted there; None: all.
    """
    decided = {
        record.case: record.model_copy(update={"adopted": True})
        for record in read_records(source)
        if record.status in statuses and (cases is None or record.case in cases)
    }
    for path in visible(target) if target.is_dir() else ():
        there = read_record(target, path.name) if path.is_dir() else None
        is_of_others = there and cases is not None and there.case not in cases
        if is_of_others:
            (target / SUMMARY).unlink(missing_ok=True)  # its row would be of a case that isn't there
        if is_of_others or (there and there.adopted and there != decided.get(there.case)):
            shutil.rmtree(path)
    for record in decided.values():
        there = read_record(target, record.case)
        if there is None or there.status not in REVIEWED:
            with atomic_folder(target / record.case) as temporary:
                shutil.copytree(source / record.case, temporary, dirs_exist_ok=True)
                (temporary / RECORD).write_text(record.model_dump_json(indent=1) + "\n", encoding="utf-8")


def read_decisions(folder: Path, known: list[str]) -> dict[str, Decision]:
    """Return what stands in the table, by case; nothing if there is no table.

    Whatever a spreadsheet made of the file is understood (`edited_rows`), and so are capitals.

    Parameters
    ----------
    known : cases that a row may be about; not all need have a pseudo-label, as one may be made anew.

    Raises
    ------
    DatasetError
        If it can't be read, a column, a case or a word of it can't be right, or a case is there twice.
    """
    path = folder / SUMMARY
    if not path.is_file():
        return {}
    try:
        rows = [row for row in edited_rows(path) if any(row)]
    except (OSError, csv.Error) as error:
        raise DatasetError(f"{path}: not a readable table ({type(error).__name__}); mend it, or delete it") from None
    header = [cell.lower() for cell in rows[0]] if rows else []
    if "case" not in header or "status" not in header:
        raise DatasetError(f"{path}: the columns case and status are gone; put them back, or delete the file")
    decisions = {}
    for row in rows[1:]:
        cells = dict(zip(header, row, strict=False))
        case, word = cells.get("case", ""), cells.get("status", "").lower()
        if case not in known:
            raise DatasetError(f"{path}: there is no pseudo-label of case {case!r}; there are {shown(known)}")
        if case in decisions:
            raise DatasetError(f"{path}: case {case} is there twice; keep one of the rows")
        if word not in WORDS:
            raise DatasetError(f"{path}: case {case} has the status {word!r}; write accepted or rejected, or leave it")
        decisions[case] = Decision(WORDS[word], cells.get("reviewer", ""))
    return decisions


def _new_status(folder: Path, record: PseudoLabelRecord, decision: Decision | None) -> Status | None:
    """Return the status that a case gets now; None: it stays as it is.

    Raises
    ------
    DatasetError
        If a map is missing, or one that nobody need edit has changed.
    """
    wanted = decision.status if decision else None
    if record.status == "rejected" or wanted == "rejected":
        return None if record.status == "rejected" else "rejected"
    found = digest_maps(folder / record.case)
    gone = sorted(record.files.keys() - found.keys())
    if gone:
        raise DatasetError(
            f"pseudo-label of case {record.case}: {', '.join(gone)} is missing; put it back, reject the case in "
            f"{SUMMARY}, or delete its folder and run medseg pseudo-label again"
        )
    if found.get(LABEL) != record.files.get(LABEL):
        return "edited"
    if wanted == "accepted" and record.status not in ("accepted", "edited"):
        return "accepted"
    if found.get(WEIGHT) != record.files.get(WEIGHT):
        raise DatasetError(
            f"pseudo-label of case {record.case}: {WEIGHT} is not as it was written; edit {LABEL} instead, and delete "
            "the case's folder and run medseg pseudo-label again"
        )
    return None


def _read_label(folder: Path, record: PseudoLabelRecord, cases: Mapping[str, Case], labels: LabelMap) -> Mask:
    """Return a reviewed label on its scan's grid.

    Raises
    ------
    DatasetError
        If there is none, it can't be read, lies on another grid or holds unknown values.
    """
    where = f"pseudo-label of case {record.case}"
    if record.case not in cases:
        raise DatasetError(f"{where}: the dataset has no such case")
    if LABEL not in record.files:
        raise DatasetError(
            f"{where} can't be accepted: nothing was predicted ({record.reason}); draw the label and add it to "
            "the dataset"
        )
    source = cases[record.case].images
    try:
        grid = inspect_scan(source[0], channels_last=len(source) == 1).grid
        mask = read_mask(folder / record.case / LABEL)
        array = reorder(mask.array, mask.grid, grid)
    except MedsegError as error:
        raise DatasetError(f"{where}: {LABEL} can't be used ({error}); draw it on the scan's own grid") from None
    unknown = sorted(set(np.unique(array).tolist()) - {0, IGNORE_INDEX, *labels.values})
    if unknown:
        raise DatasetError(
            f"{where}: {LABEL} holds the values {unknown[:8]}; use {labels.describe()}, 0 for background and "
            f"{IGNORE_INDEX} for what nobody knows"
        )
    return Mask(array, grid)


def _write_full_weight(folder: Path, case: Case, label: Mask) -> None:
    full = np.where(label.array != IGNORE_INDEX, 255, 0).astype(np.uint8)
    write_mask(folder / WEIGHT, Mask(full, label.grid), case.images[0])
