"""Pseudo-labels on disk: masks by a model for scans that nobody labelled, where people can look at them.

::

    FOLDER/
      pseudo_labels.csv          one row a scan, worst first; the column `status` may be edited
      calibration.json           how far the teachers can be believed, and what they learnt from
      <case>/label.nii.gz        label values on the scan's grid; 255: not sure enough, ignored in training
      <case>/confidence.nii.gz   probability of the winning class, 0 to 255
      <case>/uncertainty.nii.gz  entropy of the probabilities, 0 (sure) to 255 (undecided)
      <case>/weight.nii.gz       how much each voxel counts in training, 0 to 255
      <case>/record.json         what it was made from, how good it seems, and its status

A case's folder appears whole. What people did to it is taken in when the folder is read
(`medseg.catalog.pseudo_review`).
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, ValidationError

from medseg.catalog.datasets import Dataset
from medseg.catalog.listing import visible
from medseg.catalog.sources import scan_digest
from medseg.config import describe_problems
from medseg.errors import DatasetError, LabelError
from medseg.geometry import Grid
from medseg.io.files import atomic_folder, write_text
from medseg.io.nifti import write_mask
from medseg.io.tables import write_csv
from medseg.labels import IGNORE_INDEX, LabelMap
from medseg.provenance import digest_files
from medseg.records import Record
from medseg.text import shown
from medseg.volume import Case, Mask

Status = Literal["auto", "accepted", "edited", "rejected", "left-out"]

REVIEWED: tuple[Status, ...] = ("accepted", "edited", "rejected")
"""What people decided; no teacher overwrites it."""

LABEL, CONFIDENCE, UNCERTAINTY, WEIGHT = (f"{name}.nii.gz" for name in ("label", "confidence", "uncertainty", "weight"))
RECORD, SUMMARY, REPORT = "record.json", "pseudo_labels.csv", "calibration.json"

COLUMNS = ("case", "status", "reviewer", "score", "agreement", "similarity", "kept", "held_back", "reason")
"""Columns of the summary."""

logger = logging.getLogger(__name__)


class PseudoLabelRecord(Record):
    """What ``record.json`` holds. Shares and scores are 0 to 1."""

    schema_version: int = Field(1, description="Version of this file's fields")
    case: str = Field(min_length=1, description="The scan")
    status: Status = Field("auto", description="What a person decided; left-out: the scan doesn't seem to belong")
    reason: str = Field("", description="Why it was left out")
    reviewer: str = Field("", description="Who decided, as they wrote it")
    adopted: bool = Field(False, description="Whether the decision was made in the round before, and taken over")
    held_back: bool = Field(False, description="Left for a later round, because other scans seem better")
    scan: str = Field(description="SHA-256 of the scan's files")
    made_from: str = Field(description="SHA-256 of all that decides the result: scan, teachers, evidence, settings")
    teachers: tuple[str, ...] = Field(min_length=1, description="SHA-256 of each teacher's weights")
    temperature: float = Field(gt=0, description="What the teachers' logits were divided by")
    thresholds: dict[str, float] = Field(description="Least probability of a label, by class")
    score: float | None = Field(None, description="Agreement or soft Dice, whichever could be checked; null: neither")
    agreement: float | None = Field(None, description="Mean Dice of each two views; null: there was one view")
    similarity: float | None = Field(None, description="To the labelled scans, in the teachers' features")
    kept: dict[str, float] = Field(default_factory=dict, description="Share of a class's voxels that count")
    volumes_ml: dict[str, float] = Field(default_factory=dict, description="Predicted volume of each label, ml")
    files: dict[str, str] = Field(default_factory=dict, description="SHA-256 of each file; empty: nothing predicted")

    @property
    def learnt_from(self) -> bool:
        """Whether a student may learn from it now."""
        return self.status in ("accepted", "edited") or (self.status == "auto" and not self.held_back)


@dataclass(frozen=True, slots=True, eq=False)
class PseudoLabelMaps:
    """What is known of each voxel of a scan, (X, Y, Z) each.

    Attributes
    ----------
    grid : the scan's.
    label : label values; 255 is ignored.
    confidence, uncertainty, weight : uint8, 0 to 255.
    """

    grid: Grid
    label: NDArray[np.uint8] | NDArray[np.uint16]
    confidence: NDArray[np.uint8]
    uncertainty: NDArray[np.uint8]
    weight: NDArray[np.uint8]


def write_pseudo_label(
    folder: Path, case: Case, maps: PseudoLabelMaps | None, record: PseudoLabelRecord, labels: LabelMap
) -> PseudoLabelRecord:
    """Write the folder of one case, replacing what is there, and return the record with its files' digests.

    Parameters
    ----------
    folder : of all pseudo-labels.
    maps : the files get the scan's own header; None: the scan was left out before anything was predicted.

    Raises
    ------
    LabelError
        If 255 is a label: it is what pseudo-labels ignore.
    OutputError
        If it can't be written.
    """
    check_ignore_is_free(labels)
    with atomic_folder(folder / case.id) as temporary:
        if maps is not None:
            write_mask(temporary / LABEL, Mask(maps.label, maps.grid), case.images[0], labels)
            for name, array in ((CONFIDENCE, maps.confidence), (UNCERTAINTY, maps.uncertainty), (WEIGHT, maps.weight)):
                write_mask(temporary / name, Mask(array, maps.grid), case.images[0])
        record = record.model_copy(update={"files": digest_maps(temporary)})
        (temporary / RECORD).write_text(record.model_dump_json(indent=1) + "\n", encoding="utf-8")
    return record


def write_record(folder: Path, record: PseudoLabelRecord) -> None:
    """Replace the record of a case."""
    write_text(folder / record.case / RECORD, record.model_dump_json(indent=1) + "\n")


def digest_maps(folder: Path) -> dict[str, str]:
    """Return the digest of each map in a case's folder."""
    names = (LABEL, CONFIDENCE, UNCERTAINTY, WEIGHT)
    return {name: digest_files([folder / name]) for name in names if (folder / name).is_file()}


def read_record(folder: Path, case: str) -> PseudoLabelRecord | None:
    """Return the record of a case; None if it has no folder.

    Raises
    ------
    DatasetError
        If there is a folder, but its record is missing or no record of this case.
    """
    path = folder / case / RECORD
    if not path.parent.is_dir():
        return None
    again = "delete the case's folder and run medseg pseudo-label again"
    try:
        record = PseudoLabelRecord.model_validate_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DatasetError(f"pseudo-label of case {case}: {RECORD} is missing; {again}") from None
    except ValidationError as error:
        raise DatasetError(f"pseudo-label of case {case}: {RECORD}: {describe_problems(error)}; {again}") from None
    except (OSError, UnicodeDecodeError):
        raise DatasetError(f"pseudo-label of case {case}: {RECORD} can't be read; {again}") from None
    if record.case != case:
        raise DatasetError(f"pseudo-label of case {case}: its record is of case {record.case}; {again}")
    return record


def read_records(folder: Path) -> tuple[PseudoLabelRecord, ...]:
    """Return the records of all cases, by name.

    Raises
    ------
    DatasetError
        If the folder is missing or holds no pseudo-label, or a record is unsound.
    """
    if not folder.is_dir():
        raise DatasetError(f"{folder}: there is no such folder of pseudo-labels; make it with medseg pseudo-label")
    cases = [path for path in visible(folder) if path.is_dir()]
    if cases and not any((path / RECORD).is_file() for path in cases):
        raise DatasetError(f"{folder} holds something else than pseudo-labels; choose a new folder for them")
    found = [read_record(folder, path.name) for path in cases]
    records = tuple(record for record in found if record is not None)
    if not records:
        raise DatasetError(f"{folder}: no pseudo-label is there; make them with medseg pseudo-label")
    return records


def write_summary(folder: Path, records: Iterable[PseudoLabelRecord]) -> None:
    """Write the table for people, what needs their eyes first at the top."""
    rows = [
        (
            record.case,
            record.status,
            record.reviewer,
            _rounded(record.score),
            _rounded(record.agreement),
            _rounded(record.similarity),
            _rounded(min(record.kept.values(), default=None)),
            "yes" if record.held_back else "",
            record.reason,
        )
        for record in sorted(records, key=_urgency)
    ]
    write_csv(folder / SUMMARY, COLUMNS, rows)


def learnable(
    folder: Path, records: Iterable[PseudoLabelRecord], dataset: Dataset
) -> tuple[tuple[Case, PseudoLabelRecord], ...]:
    """Return the cases that a student may learn from, with mask and weights.

    Raises
    ------
    DatasetError
        If there is none, if a pseudo-label is of a case that the dataset doesn't have or holds out, or if its scan
        has changed.
    """
    known = {case.id: case for case in dataset.cases}
    held_out = {*dataset.validation, *dataset.test}
    records = tuple(records)
    strange = [record.case for record in records if record.case not in known]
    if strange:
        raise DatasetError(f"{folder} holds pseudo-labels of cases that the dataset doesn't have: {shown(strange)}")
    leaking = [record.case for record in records if record.case in held_out]
    if leaking:
        raise DatasetError(f"{folder} holds pseudo-labels of held-out cases: {shown(leaking)}; delete their folders")
    used = [record for record in records if record.learnt_from and record.case not in dataset.train]
    if not used:
        raise DatasetError(
            f"none of the {len(records)} pseudo-labels in {folder} can be learnt from: all are rejected, left out or "
            f"held back; {SUMMARY} says why"
        )
    stale = [record.case for record in used if scan_digest(known[record.case]) != record.scan]
    if stale:
        raise DatasetError(
            f"the scans of {shown(stale)} have changed since their pseudo-labels were made; delete their folders in "
            f"{folder} and run medseg pseudo-label again"
        )
    return tuple((_with_label(known[record.case], folder / record.case), record) for record in used)


def learnt_by_teachers(folder: Path) -> set[str]:
    """Return the ids of the cases that the teachers of pseudo-labels have learnt from, as far as the folder says.

    Raises
    ------
    DatasetError
        If the folder's report is missing or can't be read.
    """
    path = folder / REPORT
    try:
        return set(json.loads(path.read_text(encoding="utf-8")).get("learnt_from", ()))
    except FileNotFoundError:
        raise DatasetError(
            f"{path} is missing, which says what the teachers have learnt from; run medseg pseudo-label again"
        ) from None
    except (OSError, ValueError, AttributeError, TypeError):
        raise DatasetError(f"{path} can't be read; delete it and run medseg pseudo-label again") from None


def check_ignore_is_free(labels: LabelMap) -> None:
    """Refuse label maps that need 255 for a label; raises `LabelError`."""
    if IGNORE_INDEX in labels.values:
        raise LabelError(
            f"{IGNORE_INDEX} is a label here, but pseudo-labels need it for voxels to ignore; give the label another "
            "value"
        )


def _with_label(case: Case, folder: Path) -> Case:
    return replace(case, mask=folder / LABEL, weight=folder / WEIGHT)


def _urgency(record: PseudoLabelRecord) -> tuple[int, float, str]:
    order: tuple[Status, ...] = ("left-out", "auto", "edited", "accepted", "rejected")
    return order.index(record.status), 0.0 if record.score is None else record.score, record.case


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)
