"""Label unlabelled scans with teachers, and say how far each voxel can be believed.

Work is resumed scan by scan: a record names the digests of all that its pseudo-label follows from, and what is
unchanged is not done again. What people decided stays (`medseg.catalog.pseudo_review`).
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from pydantic import Field

from medseg.batch.places import check_can_be_made
from medseg.catalog.datasets import Dataset
from medseg.catalog.listing import visible
from medseg.catalog.pseudo_labels import (
    REPORT,
    REVIEWED,
    PseudoLabelMaps,
    PseudoLabelRecord,
    check_ignore_is_free,
    digest_maps,
    write_pseudo_label,
    write_record,
    write_summary,
)
from medseg.catalog.pseudo_review import take_in
from medseg.catalog.sources import scan_digest
from medseg.catalog.splits import check_unlabelled, without_patients
from medseg.config import PseudoLabelConfig
from medseg.errors import ConfigError, DatasetError, ScanError
from medseg.inference.forward import streamed_axis
from medseg.io.files import write_text
from medseg.io.scan import read_case
from medseg.labels import LabelMap
from medseg.preprocessing.likeness import describe_appearance, strange_appearance
from medseg.preprocessing.prepare import Prepared, prepare_image
from medseg.provenance import digest_files, digest_json
from medseg.pseudo.belonging import strange_prediction
from medseg.pseudo.calibration import Calibration
from medseg.pseudo.evidence import Evidence, Progress, applied, gather_evidence
from medseg.pseudo.forward import TeachersForward, stream
from medseg.pseudo.maps import MapRestorer, ScanMaps, restore_maps
from medseg.pseudo.probability import decision_names
from medseg.pseudo.prototypes import scan_similarity
from medseg.pseudo.reliability import Gates, judge
from medseg.pseudo.teachers import Teachers
from medseg.records import Record
from medseg.volume import Case

VERSION = 2
"""Raised with every change of code that changes a pseudo-label."""

logger = logging.getLogger(__name__)


class CalibrationReport(Record):
    """What ``calibration.json`` holds: how far the teachers can be believed."""

    teachers: int = Field(description="Number of networks")
    learnt_from: tuple[str, ...] = Field(
        description="Labelled scans that any of them learnt from, also by way of other models"
    )
    held_out_cases: int = Field(description="Labelled scans that the following was measured on; 0: nothing was")
    temperature: float = Field(description="What logits are divided by")
    ece_before: float | None = Field(description="Expected calibration error without the temperature")
    ece_after: float | None = Field(description="The same with it")
    thresholds: dict[str, float] = Field(description="Least probability of a label, by class")
    gated: dict[str, bool] = Field(description="Whether features may speak against a class")
    score: str = Field(description="What scans are ranked by: agreement or soft_dice; empty: nothing that is known to")
    spearman: float | None = Field(description="Rank correlation of the score with the true Dice; null: not known")


@dataclass(frozen=True, slots=True)
class Labelling:
    """What came of labelling scans.

    Attributes
    ----------
    made : number of scans that were looked at now; the others were done already, or decided by people.
    """

    folder: Path
    records: tuple[PseudoLabelRecord, ...]
    made: int

    def count(self, status: str) -> int:
        """Return how many records have a status."""
        return sum(record.status == status for record in self.records)


class Labeller:
    """Teachers that label scans.

    Parameters
    ----------
    progress : told what is done, how many are, of how many.

    Raises
    ------
    ConfigError
        As `check_similarity`.
    """

    def __init__(
        self,
        teachers: Teachers,
        config: PseudoLabelConfig,
        device: torch.device,
        progress: Progress | None = None,
    ) -> None:
        check_ignore_is_free(teachers.labels)
        check_similarity(config, teachers.labels, teachers.plan.network.name)
        self.teachers, self.config, self.device = teachers, config, device
        self.tell: Progress = progress or (lambda *_: None)

    @cached_property
    def evidence(self) -> Evidence:
        """What the labelled scans say; gathered when it is first needed."""
        evidence = gather_evidence(self.teachers, self.config, self.device, self.tell)
        if self.config.prototype_gate and evidence.prototypes is None:
            logger.warning("the networks don't show their features: no prototype gate")
        return evidence

    def label(self, dataset: Dataset, folder: Path, *, share: float = 1.0, alone: int | None = None) -> Labelling:
        """Write a pseudo-label for every unlabelled scan of a dataset, or go on with what was begun.

        Parameters
        ----------
        share : of the scans, the best by their score, that are learnt from in this round; the others are held back.
        alone : number of the one teacher to ask, with nothing known of its held-out cases; None: all of them.

        Raises
        ------
        DatasetError
            If there is no unlabelled scan, if one is a copy of a labelled or held-out scan or of a held-out patient,
            or if people left nonsense in the folder.
        OutputError
            If the folder can't be written.
        """
        scans = unlabelled_scans(dataset)
        kept = {record.case: record for record in _begun(folder, dataset)}
        basis = self._basis(alone)
        wanted = {case.id: digest_json([basis, scan_digest(case)]) for case in scans}
        pending = [case for case in scans if not _is_done(folder, kept.get(case.id), wanted[case.id])]
        if pending or not (folder / REPORT).is_file():
            check_can_be_made(folder)
            desk = _Desk(self.evidence if alone is None else self.evidence.without(alone), self.config, self.device)
            desk.report(folder)
            for number, case in enumerate(pending, start=1):
                kept[case.id] = desk.label(case, folder, wanted[case.id])
                self.tell("unlabelled scans", number, len(pending))
        records = hold_back(folder, [kept[case.id] for case in scans], share)
        write_summary(folder, records)
        return Labelling(folder, records, len(pending))

    def _basis(self, alone: int | None) -> str:
        """Name all that decides a pseudo-label, but the scan."""
        ignored = {"first_share", "rounds", "folds", "gate_steps"}
        return digest_json(
            {
                "version": VERSION,
                "teachers": self.teachers.digests,
                "plan": self.teachers.plan.model_dump(mode="json", exclude={"reasons"}),
                "inference": self.teachers.inference.model_dump(mode="json"),
                "alone": alone,
                "labelled": {case.id: _labelled_digest(case) for case in self.teachers.labelled},
                "config": self.config.model_dump(mode="json", exclude=ignored),
            }
        )


class _Desk:
    """Where one scan after another is labelled, with the same evidence."""

    def __init__(self, evidence: Evidence, config: PseudoLabelConfig, device: torch.device) -> None:
        self.evidence, self.config, self.teachers = evidence, config, evidence.teachers
        self.labels = evidence.teachers.labels
        self.calibration: Calibration = evidence.calibration(config)
        self.doubtable = tuple(evidence.prototypes is not None and ok for ok in evidence.doubtable(config))
        self.parts, self.expected = evidence.parts(), evidence.expected()
        self.ranked_by, self.spearman = evidence.ranking()
        self.appearances = [case.appearance for case in evidence.cases]
        inference = applied(self.teachers, config)
        self.forward = TeachersForward(self.teachers, inference, device, evidence.prototypes)

    def report(self, folder: Path) -> None:
        """Write what the teachers' answers are worth."""
        names, calibration = decision_names(self.labels), self.calibration
        report = CalibrationReport(
            teachers=len(self.teachers.members),
            learnt_from=self.teachers.learnt_from,
            held_out_cases=calibration.cases,
            temperature=calibration.temperature,
            ece_before=calibration.ece_before,
            ece_after=calibration.ece_after,
            thresholds=dict(zip(names, calibration.thresholds, strict=True)),
            gated=dict(zip(names, self.doubtable, strict=True)),
            score=self.ranked_by,
            spearman=self.spearman,
        )
        write_text(folder / REPORT, report.model_dump_json(indent=1) + "\n")

    def label(self, case: Case, folder: Path, made_from: str) -> PseudoLabelRecord:
        """Label one scan, or leave it out, and write its folder."""
        names = decision_names(self.labels)
        record = PseudoLabelRecord(
            case=case.id,
            scan=scan_digest(case),
            made_from=made_from,
            teachers=self.teachers.digests,
            temperature=self.calibration.temperature,
            thresholds=dict(zip(names, self.calibration.thresholds, strict=True)),
        )
        try:
            volume, _ = read_case(replace(case, mask=None))
            prepared = prepare_image(volume, self.teachers.plan)
        except ScanError as error:
            return self._leave_out(folder, case, record, str(error))
        strange = strange_appearance(describe_appearance(prepared), self.appearances) if self.config.leave_out else ""
        if strange:
            return self._leave_out(folder, case, record, strange)
        maps, found = self._look(prepared)
        record = record.model_copy(update=found)
        if self.config.leave_out and found["reason"]:
            record = record.model_copy(update={"status": "left-out"})
        return write_pseudo_label(folder, case, maps, record, self.labels)

    def _leave_out(self, folder: Path, case: Case, record: PseudoLabelRecord, reason: str) -> PseudoLabelRecord:
        record = record.model_copy(update={"status": "left-out", "reason": reason})
        return write_pseudo_label(folder, case, None, record, self.labels)

    def _look(self, prepared: Prepared) -> tuple[PseudoLabelMaps, dict[str, object]]:
        """Return the pseudo-label of a scan and what its record says of it."""
        restorer = MapRestorer(prepared, self.labels, streamed_axis(prepared, self.teachers.plan))
        slabs, count = stream(self.forward, prepared), len(self.teachers.members)
        maps = restore_maps(slabs, restorer, count, self.calibration.temperature, self.config.prototype_share)
        look = self.forward.finish()
        grid = prepared.source_grid
        pairs = list(zip(look.features, self.evidence.features, strict=False))
        similarity = float(np.mean([scan_similarity(*pair) for pair in pairs])) if pairs else None
        weight = similarity if self.config.similarity_weight and similarity is not None else 1.0
        gates = Gates(self.calibration.thresholds, self.doubtable, self.parts, weight)
        judged = judge(maps, grid, self.labels, gates, self.config)
        volumes = self._volumes_ml(maps, grid.voxel_ml)
        scores = {"agreement": look.agreement, "soft_dice": maps.soft_dice}
        return judged.maps, {
            "score": scores.get(self.ranked_by),
            "agreement": look.agreement,
            "similarity": similarity,
            "kept": judged.kept,
            "volumes_ml": volumes,
            "reason": strange_prediction(volumes, look.agreement, self.expected),
        }

    def _volumes_ml(self, maps: ScanMaps, voxel_ml: float) -> dict[str, float]:
        counts = np.bincount(maps.decided.ravel(), minlength=len(self.labels.targets) + 1)
        by_value = dict(zip(self.labels.painted.tolist(), counts.tolist(), strict=True))
        return {label.name: round(by_value.get(label.value, 0) * voxel_ml, 4) for label in self.labels.labels}


def check_similarity(config: PseudoLabelConfig, labels: LabelMap, network: str) -> None:
    """Refuse a share of similarity that labels or network don't allow.

    Raises
    ------
    ConfigError
        If similarity to class prototypes is to decide between overlapping regions, which are no classes, or if the
        network shows no features.
    """
    if config.prototype_share and labels.regions:
        raise ConfigError(
            "regions overlap, so no prototype of a class stands for one: leave out pseudo.prototype_share"
        )
    if config.prototype_share and network != "unet":
        raise ConfigError(
            f"{network} shows no features to compare; use network.name=unet or leave out pseudo.prototype_share"
        )


def unlabelled_scans(dataset: Dataset) -> tuple[Case, ...]:
    """Return the unlabelled scans of a dataset, without masks that may lie there.

    Raises
    ------
    DatasetError
        If there is none, or if one is a copy of a labelled or held-out scan, or of a held-out patient.
    """
    scans = tuple(replace(case, mask=None) for case in dataset.unlabelled)
    if not scans:
        raise DatasetError(
            f"{dataset.name} has no unlabelled scan: all {len(dataset.cases)} train or are held out; put more scans "
            "beside them, or name the labelled ones in dataset.train"
        )
    check_unlabelled(scans, dataset.labelled, dataset.set_apart)
    return scans


def of_others(dataset: Dataset, held_out: Iterable[Case]) -> Dataset:
    """Return a dataset without the unlabelled scans of patients of whom something is held out."""
    unlabelled = dataset.unlabelled
    gone = {case.id for case in unlabelled} - {case.id for case in without_patients(unlabelled, held_out)}
    return replace(dataset, cases=tuple(case for case in dataset.cases if case.id not in gone))


def hold_back(folder: Path, records: Sequence[PseudoLabelRecord], share: float) -> tuple[PseudoLabelRecord, ...]:
    """Mark all but the best share of the scans as held back (ST++: easy scans first), and return the records.

    Where no score is known to rank scans, none is held back.
    """
    ranked = sorted(
        (record for record in records if record.status == "auto" and record.score is not None),
        key=lambda record: -(record.score or 0.0),
    )
    waiting = {record.case for record in ranked[math.ceil(share * len(ranked)) :]}
    updated = []
    for record in records:
        is_waiting = record.case in waiting
        if record.held_back != is_waiting:
            record = record.model_copy(update={"held_back": is_waiting})
            write_record(folder, record)
        updated.append(record)
    return tuple(updated)


def _begun(folder: Path, dataset: Dataset) -> Iterable[PseudoLabelRecord]:
    """Return the records of an earlier sitting, with what people decided since."""
    has_records = folder.is_dir() and any(path.is_dir() for path in visible(folder))
    return take_in(folder, dataset) if has_records else ()


def _is_done(folder: Path, record: PseudoLabelRecord | None, made_from: str) -> bool:
    if record is None:
        return False
    if record.status in REVIEWED:
        return True
    return record.made_from == made_from and digest_maps(folder / record.case) == record.files


def _labelled_digest(case: Case) -> str:
    """Return the digest of a labelled case's scan and mask."""
    return digest_json([scan_digest(case), digest_files([case.mask]) if case.mask else None])
