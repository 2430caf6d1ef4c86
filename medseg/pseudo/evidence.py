"""What labelled scans say of the teachers and of scans to come, gathered before any unlabelled scan is looked at."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from medseg.config import InferenceConfig, PseudoLabelConfig
from medseg.errors import DatasetError
from medseg.inference.forward import EnsembleForward, FeatureRecorder
from medseg.io.scan import read_case
from medseg.labels import IGNORE_INDEX
from medseg.preprocessing.likeness import Appearance, describe_appearance
from medseg.preprocessing.prepare import prepare_image, prepare_mask
from medseg.pseudo.belonging import Expected, expect
from medseg.pseudo.calibration import Calibration, calibrate
from medseg.pseudo.exam import Exam, LabelledScan, examine, surroundings
from medseg.pseudo.forward import TeachersForward, windows_of, with_slice_axis
from medseg.pseudo.probability import true_decisions
from medseg.pseudo.prototypes import PrototypeSums
from medseg.pseudo.reliability import PartRange, part_ranges, part_volumes
from medseg.pseudo.teachers import Teacher, Teachers
from medseg.quality.calibration import spearman
from medseg.volume import Case

RANKED = 0.3
"""Rank correlation with the true Dice below which a score of scans is not used."""

FEWEST_RANKED = 5
"""Held-out scans below which no rank correlation is believed."""

Progress = Callable[[str, int, int], None]
"""Told what is done, how many are, and of how many."""


@dataclass(frozen=True, slots=True)
class CaseEvidence:
    """A labelled case without its teachers.

    Attributes
    ----------
    volumes_ml : of each label, by name.
    parts_ml : of each label's connected parts, by value.
    """

    case: str
    appearance: Appearance
    volumes_ml: dict[str, float]
    parts_ml: dict[int, list[float]]


@dataclass(frozen=True, slots=True, eq=False)
class Evidence:
    """All that unlabelled scans are judged by.

    Attributes
    ----------
    cases : the labelled cases.
    exams : each labelled case before the teacher that had not learnt from it.
    prototypes : of each teacher, (decisions, F); None: features are not shown.
    features : of each teacher, (cases, F) mean features of each labelled scan; empty where they are not shown.
    """

    teachers: Teachers
    cases: tuple[CaseEvidence, ...]
    exams: tuple[Exam, ...]
    prototypes: tuple[Tensor, ...] | None
    features: tuple[Tensor, ...]

    def without(self, teacher: int) -> Evidence:
        """Return what is known without the labels that one teacher was tested on, with that teacher alone."""
        hidden = {case.id for case in self.teachers.members[teacher].held_out}
        seen = [number for number, case in enumerate(self.cases) if case.case not in hidden]
        return Evidence(
            teachers=self.teachers.alone(teacher),
            cases=tuple(self.cases[number] for number in seen),
            exams=tuple(exam for exam in self.exams if exam.teacher != teacher),
            prototypes=None if self.prototypes is None else (self.prototypes[teacher],),
            features=tuple(known[seen] for known in self.features[teacher : teacher + 1]),
        )

    def calibration(self, config: PseudoLabelConfig) -> Calibration:
        """Return temperature and thresholds."""
        return calibrate([exam.sample for exam in self.exams], self.teachers.labels, config)

    def parts(self) -> dict[int, PartRange]:
        """Return the usual connected parts of each label value."""
        return part_ranges([case.parts_ml for case in self.cases])

    def expected(self) -> Expected:
        """Return the volumes to expect."""
        return expect([case.volumes_ml for case in self.cases])

    def doubtable(self, config: PseudoLabelConfig) -> tuple[bool, ...]:
        """Return for each decision whether features may speak against it.

        They may where they agree with at least `config.keep` of the teachers' voxels on held-out scans: otherwise the
        gate would starve the class.
        """
        decisions = len(self.teachers.labels.targets) + 1
        agreed, found = np.zeros(decisions), np.zeros(decisions)
        for exam in self.exams:
            agreed += exam.agreed
            found += exam.found
        return tuple(bool(n and a >= config.keep * n) for a, n in zip(agreed, found, strict=True))

    def ranking(self) -> tuple[str, float | None]:
        """Return which score puts held-out scans in the order of their true Dice, and its rank correlation.

        "agreement" of views where a held-out scan has several, else "soft_dice"; "" if it is below `RANKED`, or there
        are too few scans to know.
        """
        name = "agreement" if all(exam.agreement is not None for exam in self.exams) else "soft_dice"
        pairs = [
            (score, exam.dice)
            for exam in self.exams
            if (score := getattr(exam, name)) is not None and exam.dice is not None
        ]
        if len(pairs) < FEWEST_RANKED:
            return "", None
        found = spearman(*np.array(pairs).T)
        return (name if found is not None and found >= RANKED else ""), found


def gather_evidence(
    teachers: Teachers, config: PseudoLabelConfig, device: torch.device, progress: Progress | None = None
) -> Evidence:
    """Look at every labelled scan with every teacher that is needed.

    Raises
    ------
    DatasetError, ScanError, LabelError
        If a labelled case can't be read.
    """
    tell = progress or (lambda *_: None)
    studies = [_Study(member, teachers, device) for member in teachers.members]
    cases = []
    for number, case in enumerate(teachers.labelled, start=1):
        scan, found = _read(case, teachers)
        cases.append(found)
        for study in studies:
            study.look(scan)
        tell("labelled scans", number, len(teachers.labelled))
    means = tuple(mean for study in studies if (mean := study.sums.means()) is not None)
    features = tuple(torch.stack(study.pooled) for study in studies if study.pooled)
    wanted = config.prototype_gate or config.prototype_share
    prototypes = means if len(means) == len(studies) and wanted else None
    evidence = Evidence(teachers, tuple(cases), (), prototypes, features)
    return replace(evidence, exams=tuple(_examine_all(evidence, config, device, tell)))


def applied(teachers: Teachers, config: PseudoLabelConfig) -> InferenceConfig:
    """Return how teachers look at scans: as they were validated, mirrored if that is wished."""
    return teachers.inference.model_copy(update={"flips": config.flips})


def _examine_all(evidence: Evidence, config: PseudoLabelConfig, device: torch.device, tell: Progress) -> Iterator[Exam]:
    teachers = evidence.teachers
    total = sum(len(member.held_out) for member in teachers.members)
    done = 0
    for number, member in enumerate(teachers.members):
        prototypes = None if evidence.prototypes is None else (evidence.prototypes[number],)
        forward = TeachersForward(teachers.alone(number), applied(teachers, config), device, prototypes)
        for case in member.held_out:
            yield examine(_read(case, teachers)[0], number, forward, config.prototype_share)
            done += 1
            tell("held-out scans", done, total)


def _read(case: Case, teachers: Teachers) -> tuple[LabelledScan, CaseEvidence]:
    """Return a labelled case as the network sees it, and what it is like."""
    volume, mask = read_case(case)
    if mask is None:
        raise DatasetError(f"case {case.id} was trained on, but has no mask any more; put it back or train again")
    labels = teachers.labels
    prepared = prepare_image(volume, teachers.plan)
    scan = LabelledScan(case.id, prepared, prepare_mask(mask, labels, prepared.grid))
    parts = part_volumes(mask.array, mask.grid, labels)
    counts = np.bincount(mask.array.ravel(order="K"), minlength=max(labels.values) + 1)
    volumes = {label.name: float(counts[label.value] * mask.grid.voxel_ml) for label in labels.labels}
    return scan, CaseEvidence(case.id, describe_appearance(prepared), volumes, parts)


class _Study:
    """What one teacher's features are like on labelled scans: of each class where it learnt, and as a whole."""

    def __init__(self, member: Teacher, teachers: Teachers, device: torch.device) -> None:
        self.recorder = FeatureRecorder(member.network.to(device).eval())
        plain = teachers.inference.model_copy(update={"flips": False})
        self.forward = EnsembleForward([self.recorder], teachers.plan, plain, device)
        self.learnt = {case.id for case in member.learnt}
        self.teachers, self.device = teachers, device
        self.sums = PrototypeSums(len(teachers.labels.targets) + 1)
        self.pooled: list[Tensor] = []

    @torch.inference_mode()
    def look(self, scan: LabelledScan) -> None:
        """Add a scan; classes are learnt from structures and their surroundings."""
        truth = true_decisions(scan.target, self.teachers.labels)
        truth[~surroundings((truth != 0) & (truth != IGNORE_INDEX))] = IGNORE_INDEX
        total: Tensor | None = None
        for image, decided in windows_of(scan.prepared, truth, self.teachers.plan):
            self.forward(image)
            features = self.recorder.take()
            if features is None:
                return
            features = with_slice_axis(features[:1].float(), self.teachers.plan)
            if scan.case in self.learnt:
                self.sums.add(features, decided.to(self.device))
            pooled = features.flatten(2).sum((0, 2))
            total = pooled if total is None else total + pooled
        if total is not None:
            self.pooled.append(functional.normalize(total, dim=0).cpu())
