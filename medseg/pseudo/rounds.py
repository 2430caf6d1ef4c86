"""Self-training in rounds: teachers label, fresh students learn, and only what is not worse is promoted.

::

    OUTPUT/
      teacher/                    supervised cross-validation, whose networks teach the first round
      round_1/pseudo_labels/      by all teachers, for people to review and for the student
      round_1/fold_0/             pseudo-labels by the one teacher that never saw fold 0, and the student of fold 0,
                                  which is scored on it
      round_1/round.json          how they did
      student/                    the student of the last round that helped, if it is promoted
      promotion.json              the decision, its reason, and every score

A labelled scan that measures a student was seen by no network and no pseudo-label that the student learnt from, in any
round. Students start from random weights each time; the next round's teachers are the fold students.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field

from medseg.catalog.datasets import Dataset, read_dataset
from medseg.catalog.pseudo_labels import Status, read_records
from medseg.catalog.pseudo_review import adopt_reviewed
from medseg.catalog.splits import Fold, k_folds
from medseg.config import ExperimentConfig
from medseg.errors import ConfigError
from medseg.inference.hardware import choose_device
from medseg.io.files import atomic_file, write_text
from medseg.networks.model import load_model, save_model
from medseg.provenance import digest_json
from medseg.pseudo.evidence import Progress
from medseg.pseudo.label import Labeller, Labelling, check_similarity, of_others, unlabelled_scans
from medseg.pseudo.steadiness import LEAST_CHURN, churn, drifted
from medseg.pseudo.teachers import Teachers, gather_teachers, read_teachers
from medseg.quality.calibration import degraded_copies
from medseg.records import Record, find_record
from medseg.training.deadline import deadline_in, seconds_left
from medseg.training.held_out import MEASURING, cross_validated, of_fold
from medseg.training.labelled_weight import FALLBACK, count_patients, enough_patients
from medseg.training.processes import check_alone
from medseg.training.promotion import HeldOutScore, compare, fell, held_out_scores
from medseg.training.run import RunOptions, TrainingRun, run_training
from medseg.training.validation import Validator, score

INDIFFERENT: dict[str, Any] = {
    **dict.fromkeys(("name", "dataset", "inference", "pretraining"), True),
    "training": {"checkpoint_every", "loader_threads"},
    "pseudo": {"rounds", "first_share"},
}
"""Parts of a configuration that students don't follow from; what is held back of the scans is known case by case."""

BY_PEOPLE: tuple[Status, ...] = ("edited", "rejected")
"""Decisions that the students of a fold may follow. A label that was merely accepted is by all teachers, of whom most
have learnt from the fold: there the fold's own teacher labels the scan."""

Train = Callable[[ExperimentConfig, Path, RunOptions], TrainingRun]

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class RoundsOptions:
    """How rounds are carried out.

    Attributes
    ----------
    max_seconds : stop after this time; the same call goes on.
    pause : stop after each round's pseudo-labels, for people to review them; the same call goes on.
    train : what trains a network; tests put something faster here.
    """

    device: str = "auto"
    max_seconds: float | None = None
    pause: bool = False
    screen: bool = False
    progress: Progress | None = None
    train: Train = run_training


class RoundReport(Record):
    """What ``round.json`` holds: how a round's students did on scans that were held out from them."""

    number: int = Field(description="The round, from 1")
    kept: bool = Field(description="Whether its students go on; if not, the rounds end before it")
    reason: str = Field(description="Why")
    scores: tuple[HeldOutScore, ...] = Field((), description="Of the fold students; empty: nothing was held out")
    settings: str = Field("", description="Digest of what the round follows from")


class Promotion(Record):
    """What ``promotion.json`` holds."""

    promoted: bool = Field(description="Whether the student is the model to use; if not, the supervised one is")
    verified: bool = Field(description="Whether held-out labelled scans decided; false: there were too few to hold out")
    reason: str = Field(description="Why")
    model: str = Field(description="The model folder to use, relative to this file")
    labelled_weight: float = Field(description="Lambda of the students")
    supervised: tuple[HeldOutScore, ...] = Field(description="Held-out scores of the supervised networks")
    rounds: tuple[RoundReport, ...] = Field(description="Every round that was begun")


@dataclass(frozen=True, slots=True)
class SelfTraining:
    """What came of self-training.

    Attributes
    ----------
    promotion : None: it stopped before the end; the same call goes on.
    waiting : why it stopped.
    """

    promotion: Promotion | None
    waiting: str = ""


class _Stopped(Exception):  # noqa: N818 - no error: time is up, or people are asked
    """Ends the rounds for now; the message says what to do."""


def self_train(config: ExperimentConfig, output: Path, options: RoundsOptions | None = None) -> SelfTraining:
    """Train a teacher and students in rounds, or go on with what was begun, and decide what to use.

    Parameters
    ----------
    config : the experiment; its `pseudo` section is about the rounds, `unlabelled` about the students.

    Raises
    ------
    MedsegError
        For every problem of configuration, data or disk that a user can mend.
    """
    check_alone("self-training is done")
    dataset = read_dataset(config.dataset)
    unlabelled_scans(dataset)
    check_similarity(config.pseudo, dataset.labels, config.network.name)
    if config.unlabelled.labelled_weight == 1:
        raise ConfigError("unlabelled.labelled_weight is 1, which leaves unlabelled scans out: nothing to do in rounds")
    try:
        return SelfTraining(_Rounds(config, dataset, output, options or RoundsOptions()).run())
    except _Stopped as stop:
        return SelfTraining(None, str(stop))


class _Rounds:
    """One self-training."""

    def __init__(self, config: ExperimentConfig, dataset: Dataset, output: Path, options: RoundsOptions) -> None:
        self.config, self.dataset, self.output, self.options = config, dataset, output, options
        self.device = choose_device(options.device)
        self.deadline = deadline_in(options.max_seconds)
        count = min(config.pseudo.folds, count_patients(dataset.labelled)) if enough_patients(dataset.labelled) else 0
        self.folds = tuple(k_folds(dataset.labelled, count, config.training.seed)) if count else ()
        wish = config.unlabelled.labelled_weight
        self.weight = FALLBACK if wish == "auto" else wish

    def run(self) -> Promotion:
        """Do the rounds and write the decision."""
        supervised = self._train(self._supervised(), self.output / "teacher", len(self.folds))
        baseline = held_out_scores(supervised.scores) if self.folds else ()
        teachers = read_teachers(self.output / "teacher", self.dataset, self.config.training.seed, self.device)
        reports: list[RoundReport] = []
        best = baseline
        for number in range(1, self.config.pseudo.rounds + 1):
            report = self._round(number, teachers, best)
            reports.append(report)
            logger.info("round %d: %s", number, report.reason)
            if not report.kept:
                break
            best = report.scores
            if number < self.config.pseudo.rounds:
                teachers = self._students(number)
        promotion = self._promote(baseline, reports)
        write_text(self.output / "promotion.json", promotion.model_dump_json(indent=1) + "\n")
        return promotion

    def _round(self, number: int, teachers: Teachers, best: tuple[HeldOutScore, ...]) -> RoundReport:
        """Label, check, and train and score the fold students; a round that is done is read."""
        folder = self.output / f"round_{number}"
        labels = folder / "pseudo_labels"
        labeller = Labeller(teachers, self.config.pseudo, self.device, self.options.progress)
        labelling = self._label(number, labeller)
        settings = self._settings(labelling)
        done = find_record(folder / "round.json", RoundReport)
        if done and done.settings == settings:
            return done
        if self.options.pause:
            self._ask(folder, labelling)
        reason = self._brake(number, labelling)
        report = RoundReport(number=number, kept=not reason, reason=reason, settings=settings)
        if not reason and self.folds:
            report = self._score(report, labeller, labelling, best)
        elif not reason:
            self._train_anew(self._student(labels), folder / "student", settings)
            report = report.model_copy(update={"reason": "nothing could be held out to measure the student by"})
        write_text(folder / "round.json", report.model_dump_json(indent=1) + "\n")
        return report

    def _ask(self, folder: Path, labelling: Labelling) -> None:
        """Stop for people to review a round's pseudo-labels, once."""
        mark, made = folder / "asked", digest_json([[r.case, r.made_from] for r in labelling.records])
        if mark.is_file() and mark.read_text(encoding="ascii") == made:
            return
        write_text(mark, made)
        raise _Stopped(f"review the pseudo-labels in {labelling.folder}, then give the same command again")

    def _label(self, number: int, labeller: Labeller) -> Labelling:
        """Return the round's pseudo-labels; what people decided in the round before stays decided."""
        folder = self._labels(number)
        if number > 1:
            adopt_reviewed(self._labels(number - 1), folder)
        share = self.config.pseudo.first_share if number == 1 else 1.0
        return labeller.label(self.dataset, folder, share=share)

    def _brake(self, number: int, labelling: Labelling) -> str:
        """Return why the rounds should end before students are trained; "" if they should not."""
        if not any(record.learnt_from for record in labelling.records):
            return "no unlabelled scan is left to learn from: all were left out or rejected"
        if number == 1:
            return ""
        before = read_records(self._labels(number - 1))
        drift = drifted(labelling.records, before)
        if drift.passed:
            return f"rolled back: {drift.reason}"
        share = churn(self._labels(number), self._labels(number - 1), [record.case for record in labelling.records])
        return (
            f"only {share:.2%} of the labels changed: another round learns nothing new" if share < LEAST_CHURN else ""
        )

    def _score(
        self, report: RoundReport, labeller: Labeller, labelling: Labelling, best: tuple[HeldOutScore, ...]
    ) -> RoundReport:
        """Train a student without each fold, by labels without it, and score it there."""
        scores: list[HeldOutScore] = []
        for number, fold in enumerate(self.folds):
            folder = self.output / f"round_{report.number}" / f"fold_{number}"
            dataset = of_others(self.dataset, fold.validation)
            adopt_reviewed(labelling.folder, folder / "pseudo_labels", BY_PEOPLE, {case.id for case in dataset.cases})
            share = self.config.pseudo.first_share if report.number == 1 else 1.0
            own = Labelling(folder, (), 0)
            if dataset.unlabelled:
                own = labeller.label(dataset, folder / "pseudo_labels", share=share, alone=number)
            if not any(record.learnt_from for record in own.records):
                reason = f"no unlabelled scan is left to learn from without fold {number}"
                return report.model_copy(update={"kept": False, "reason": reason})
            student = self._student(folder / "pseudo_labels")
            config = of_fold(student, fold.train, fold.validation, self.config.pseudo.gate_steps)
            scores += held_out_scores(self._train_anew(config, folder / "student", self._settings(own)).scores)
        verdict = fell(scores, best)
        reason = f"rolled back: {verdict.reason}" if verdict.passed else verdict.reason
        return report.model_copy(update={"scores": tuple(scores), "kept": not verdict.passed, "reason": reason})

    def _promote(self, baseline: tuple[HeldOutScore, ...], reports: list[RoundReport]) -> Promotion:
        """Decide by the last round that was kept, and train its student if it is promoted."""
        kept = [report for report in reports if report.kept]
        promoted, reason = False, reports[-1].reason
        if kept and self.folds:
            verdict = compare(kept[-1].scores, baseline)
            promoted, reason = verdict.passed, verdict.reason
        elif kept:
            promoted, labelled = True, len(self.dataset.labelled)
            reason = f"not verified: of {labelled} labelled scans none can be held out; look at its masks"
        model = "teacher/model"
        if promoted and self.folds:
            config = self._student(self._labels(kept[-1].number))
            student = self._train_anew(config, self.output / "student", kept[-1].settings)
            assert student.model is not None
            self._cross_validate(student.model, self._students(kept[-1].number))
            model = "student/model"
        elif promoted:
            model = f"round_{kept[-1].number}/student/model"
        return Promotion(
            promoted=promoted,
            verified=bool(self.folds),
            reason=reason,
            model=model,
            labelled_weight=self.weight,
            supervised=baseline,
            rounds=tuple(reports),
        )

    def _cross_validate(self, folder: Path, students: Teachers) -> None:
        """Give the model of all scans what its fold students say of scans held out from them, as any training does."""
        model, copies = load_model(folder), degraded_copies(len(self.dataset.labelled))
        comparisons = [
            comparison
            for member in students.members
            for comparison in Validator(
                member.held_out, students.plan, students.labels, students.inference, self.device
            ).compare((member.network,), copies)
        ]
        save_model(cross_validated(model, comparisons, score(comparisons, model.labels)), folder)

    def _students(self, number: int) -> Teachers:
        """Return a round's students as the next round's teachers."""
        folder = self.output / f"round_{number}"
        if not self.folds:
            return gather_teachers([folder / "student"], [Fold(self.dataset.labelled, ())], self.device)
        students = [folder / f"fold_{fold}" / "student" for fold in range(len(self.folds))]
        return gather_teachers(students, self.folds, self.device)

    def _train_anew(self, config: ExperimentConfig, folder: Path, settings: str) -> TrainingRun:
        """Train a student or go on with it; one of other pseudo-labels, such as those before a review, is deleted."""
        mark = folder / "follows_from"
        if folder.is_dir() and (not mark.is_file() or mark.read_text(encoding="ascii") != settings):
            shutil.rmtree(folder)
        write_text(mark, settings)
        return self._train(config, folder)

    def _train(self, config: ExperimentConfig, folder: Path, folds: int = 0) -> TrainingRun:
        """Train or go on; every network has the teacher's plan."""
        plan = self.output / "teacher" / "plan.yaml"
        if plan.is_file() and not (folder / "plan.yaml").exists():
            with atomic_file(folder / "plan.yaml") as path:
                shutil.copyfile(plan, path)
        run_options = RunOptions(
            self.options.device,
            folds,
            seconds_left(self.deadline),
            cache=self.output / "cache",
            screen=self.options.screen,
        )
        run = self.options.train(config, folder, run_options)
        if run.model is None:
            raise _Stopped("time is up; the same command goes on from the last checkpoint")
        return run

    def _supervised(self) -> ExperimentConfig:
        """Return the experiment of the teachers; where folds measure, they decide nothing while networks train."""
        supervised = {"method": "supervised", "pseudo_labels": None}
        return self.config.with_changes(unlabelled=supervised, training=MEASURING if self.folds else {})

    def _student(self, labels: Path) -> ExperimentConfig:
        """Return the experiment of a student of these pseudo-labels."""
        changed = {"method": "pseudo-labels", "pseudo_labels": labels, "labelled_weight": self.weight}
        return self.config.with_changes(unlabelled=changed)

    def _labels(self, number: int) -> Path:
        return self.output / f"round_{number}" / "pseudo_labels"

    def _settings(self, labelling: Labelling) -> str:
        """Name what a round's result follows from."""
        return digest_json(
            {
                "config": self.config.model_dump(mode="json", exclude=INDIFFERENT),
                "labels": [[r.made_from, r.status, r.held_back, r.files] for r in labelling.records],
            }
        )
