"""A training run from configuration to model folder.

The run folder tells the story and holds all that is needed to go on: ``config.yaml``,
``fingerprint.json``, ``plan.yaml`` (used as it stands when it is there already: edit it before
training), ``fit/`` or ``fold_*/`` with checkpoint and journal, ``validation.csv`` and, when all is
done, ``model/``. The same command again goes on where the run stopped.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import nn

from medseg.catalog.pseudo_labels import learnt_by_teachers
from medseg.catalog.splits import check_leakage, check_unseen, k_folds, known_of, without_patients
from medseg.config import ExperimentConfig
from medseg.errors import ConfigError, DatasetError
from medseg.networks.model import Model, save_model
from medseg.plan import Plan
from medseg.preprocessing.cache import Cache
from medseg.preprocessing.cached_case import CachedCase
from medseg.provenance import digest_json, machine, package_versions
from medseg.quality.calibration import degraded_copies
from medseg.quality.expectations import describe_training
from medseg.quality.metrics import StructureScore
from medseg.quality.summary import mean_over_targets, summarise
from medseg.quality.tables import write_scores
from medseg.training.deadline import deadline_in
from medseg.training.distillation import check_teachers, identity, learnt_by, load_teachers, student_of
from medseg.training.held_out import MEASURING, cross_validated, validated
from medseg.training.journal import Journal
from medseg.training.labelled_weight import (
    CANDIDATES,
    PARTS,
    Choice,
    Trial,
    choose_weight,
    enough_patients,
    load_choice,
    save_choice,
    without_trials,
)
from medseg.training.lessons import check_ingredients, learns_unlabelled
from medseg.training.loop import Task, fit
from medseg.training.processes import first_process_first, launch
from medseg.training.promotion import comparable
from medseg.training.setup import Setup, check_scans_left, keep_config, set_up
from medseg.training.start import Start, load_start
from medseg.training.strangers import LEFT_OUT, find_strangers
from medseg.training.validation import Comparison, Validator, score
from medseg.volume import Case

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class RunOptions:
    """How a run is carried out; nothing here but `folds` and `init` changes what it learns.

    Attributes
    ----------
    device : "auto", "cpu", "cuda" or "cuda:1".
    folds : 0: one network from all training cases; 2 or more: cross-validation, ensembled.
    max_seconds : stop with a checkpoint after this time; the same command goes on.
    init : model folder to fine-tune, or folder of pre-trained weights; its plan is kept.
    cache : folder of preprocessed scans; default: inside the run folder.
    screen : show progress.
    """

    device: str = "auto"
    folds: int = 0
    max_seconds: float | None = None
    init: Path | None = None
    cache: Path | None = None
    screen: bool = False


@dataclass(frozen=True, slots=True)
class TrainingRun:
    """What came of a run.

    Attributes
    ----------
    model : the model folder; None when time ran out first.
    scores : held-out scores by case and target: of the validation cases, or out of fold.
    weight : how the labelled weight was chosen; None if it was given, or there was nothing to choose.
    seen : held-out cases whose patients the model to start from has learnt from, by name: their scores flatter.
    """

    model: Path | None
    plan: Plan
    scores: list[StructureScore] = field(default_factory=list)
    weight: Choice | None = None
    seen: tuple[str, ...] = ()

    @property
    def mean_dice(self) -> float | None:
        """Mean held-out Dice; None without held-out cases."""
        return mean_over_targets(summarise(self.scores), "dice")


def run_training(
    config: ExperimentConfig, output: str | PathLike[str], options: RunOptions | None = None
) -> TrainingRun:
    """Train a model on a dataset, or go on with a run that was stopped.

    Parameters
    ----------
    config : the experiment.
    output : run folder; made if missing, resumed if it holds the same run.

    Raises
    ------
    MedsegError
        For every problem of configuration, data, plan, memory or disk that a user can mend.
    """
    output, options = Path(output), options or RunOptions()
    if options.folds == 1 or options.folds < 0:
        raise ConfigError(f"{options.folds} is no number of folds: use 0 (train on all cases) or at least 2")
    if config.training.freeze_encoder and not options.init:
        raise ConfigError(
            "training.freeze_encoder would leave the encoder as it begins, random or pruned: start from a model with "
            "--init, or --set training.freeze_encoder=false"
        )
    deadline = deadline_in(options.max_seconds)
    fabric = launch(options.device, config)
    teachers = load_teachers(config.distillation)
    start = _start(config, options, teachers)
    setup = first_process_first(fabric, lambda: set_up(config, output, start))
    check_ingredients(config, setup.dataset.labels, setup.plan)
    check_teachers(config.distillation, teachers, setup.plan, setup.dataset.labels)
    if options.folds:
        _check_folds(config, setup, options.folds)
    check_unseen(setup.held_out, learnt_by(teachers), setup.dataset.cases, "a teacher has")
    run = _Run(config, output, options, fabric, setup, start, deadline).without_strangers().with_chosen_weight()
    if run is None:
        return TrainingRun(None, setup.plan)
    trained = run.cross_validate() if options.folds else run.train_on_all()
    if trained.model and fabric.is_global_zero:
        keep_config(config, output)
    return trained


def _check_folds(config: ExperimentConfig, setup: Setup, folds: int) -> None:
    """Refuse, before a network trains, a cross-validation that can't be, or whose scores would flatter."""
    k_folds(setup.train, folds, config.training.seed)  # refuses more folds than patients
    if config.distillation.teachers:
        raise ConfigError(
            "folds would be scored on cases that the teacher may have learnt from; distil without folds, and hold "
            "out validation cases"
        )
    if _follows_pseudo_labels(config) or setup.reviewed:
        raise ConfigError(
            "folds would be scored on cases that the teachers of the pseudo-labels have learnt from; train without "
            "folds, or in rounds with pipelines/self_training.py, which holds them out from the teachers, too"
        )


def _follows_pseudo_labels(config: ExperimentConfig) -> bool:
    return config.unlabelled.method == "pseudo-labels" and learns_unlabelled(config.unlabelled)


def _start(config: ExperimentConfig, options: RunOptions, teachers: Sequence[Model]) -> Start | None:
    """Return what to start from; None if the data decide."""
    if options.init:
        return load_start(options.init)
    return student_of(teachers, config.distillation) if teachers else None


@dataclass(frozen=True, slots=True)
class _Run:
    """One run, set up."""

    config: ExperimentConfig
    output: Path
    options: RunOptions
    fabric: Fabric
    setup: Setup
    start: Start | None
    deadline: float | None
    weight: Choice | None = None

    def without_strangers(self) -> _Run:
        """Return the run without unlabelled scans that can't be read or don't look like the labelled ones.

        Raises
        ------
        DatasetError
            If the method needs unlabelled scans and none is left.
        """
        config, scans = self.config.unlabelled, self.setup.unlabelled
        if not config.leave_out or config.method == "pseudo-labels":
            return self
        strange = first_process_first(self.fabric, lambda: find_strangers(scans, self.setup, self.output, self._cache))
        kept = tuple(case for case in scans if case.id not in strange)
        if strange and not kept and learns_unlabelled(config):
            case, reason = next(iter(strange.items()))
            raise DatasetError(
                f"none of the {len(scans)} unlabelled scans looks like the labelled ones ({case}: {reason}); see "
                f"{self.output / LEFT_OUT}, or train with unlabelled.method=supervised"
            )
        return replace(self, setup=replace(self.setup, unlabelled=kept))

    def with_chosen_weight(self) -> _Run | None:
        """Return the run with the labelled weight settled, which may take a cross-validation; None: out of time."""
        unlabelled = self.config.unlabelled
        if unlabelled.labelled_weight != "auto" or not learns_unlabelled(unlabelled):
            return self
        path, settings = self.output / "labelled_weight.json", self._settings()
        # as the first process found it: its file may be there before others look, who would try nothing then
        choice = self.fabric.broadcast(load_choice(path, settings))
        if choice is None:
            trials = self._try_weights()
            if trials is None:
                return None
            choice = self._agree(trials).model_copy(update={"settings": settings})
            if self.fabric.is_global_zero:
                save_choice(choice, path)
        logger.warning("labelled weight %g: %s", choice.weight, choice.reason)
        config = self.config.with_changes(unlabelled={"labelled_weight": choice.weight})
        return replace(self, config=config, weight=choice)

    def _try_weights(self) -> list[Trial] | None:
        """Cross-validate every candidate; none where that says nothing, None when time ran out."""
        if not enough_patients(self.setup.train) or _follows_pseudo_labels(self.config):
            return []
        check_scans_left(self.setup, self.config, PARTS, "give --lambda a number")
        scores: list[list[StructureScore]] = []
        options = replace(self.options, folds=PARTS, cache=self._cache)
        for weight in CANDIDATES:
            folder = self.output / "labelled_weight" / f"{weight:g}"
            config = self.config.with_changes(training=MEASURING, unlabelled={"labelled_weight": weight})
            held_out = replace(self, config=config, output=folder, options=options)._folds()
            if held_out is None:
                return None
            scores.append(score(held_out[1], self.setup.dataset.labels))
        dice = comparable(*scores)
        return [Trial(weight=weight, dice=cases) for weight, cases in zip(CANDIDATES, dice, strict=True)]

    def _agree(self, trials: Sequence[Trial]) -> Choice:
        """Choose on the first process, which alone has scores, and tell the others."""
        choice = None
        if self.fabric.is_global_zero:
            known = _follows_pseudo_labels(self.config)
            choice = choose_weight(trials) if trials else without_trials(self.setup.train, pseudo_labels=known)
        told = self.fabric.broadcast(choice)
        if told is None:
            raise RuntimeError("the first process chose nothing")
        return told

    def _settings(self) -> str:
        """Name what a choice of the labelled weight follows from."""
        return digest_json(
            {
                "config": self.config.model_dump(mode="json", exclude={"name", "dataset", "inference"}),
                "plan": self.setup.plan.model_dump(mode="json", exclude={"reasons"}),
                "cases": [case.key for case in self._prepare((*self.setup.train, *self.setup.unlabelled))],
                "start": self.start.digest if self.start else "",
            }
        )

    def train_on_all(self) -> TrainingRun:
        """Train one network on all training cases and score it on the validation cases, if any."""
        network = self._fit("fit", self.setup.train, self.setup.held_out)
        if network is None:
            return TrainingRun(None, self.setup.plan)
        return self._finish((network,), self._compare(network, self.setup.held_out))

    def cross_validate(self) -> TrainingRun:
        """Train one network a fold, score each out of fold, ensemble them."""
        check_scans_left(self.setup, self.config, self.options.folds, "train without folds")
        held_out = self._folds(degraded_copies(len(self.setup.train)))
        if held_out is None:
            return TrainingRun(None, self.setup.plan)
        networks, comparisons = held_out
        return self._finish(tuple(networks), comparisons)

    def _folds(self, degraded: int = 0) -> tuple[list[nn.Module], list[Comparison]] | None:
        """Return a network a fold and what each says about the cases left out; None when time ran out."""
        networks: list[nn.Module] = []
        comparisons: list[Comparison] = []
        folds = k_folds(self.setup.train, self.options.folds, self.config.training.seed)
        for fold in folds:
            check_leakage(fold.train, fold.validation)
        for number, fold in enumerate(folds):
            network = self._fit(f"fold_{number}", fold.train, fold.validation)
            if network is None:
                return None
            networks.append(network)
            comparisons += self._compare(network, fold.validation, degraded)
        return networks, comparisons

    def _fit(self, name: str, train: Sequence[Case], held_out: Sequence[Case]) -> nn.Module | None:
        """Return the network with averaged weights in evaluation mode; None when time ran out."""
        task = Task(
            cases=self._prepare((*train, *without_patients(self.setup.reviewed, held_out))),
            plan=self.setup.plan,
            labels=self.setup.dataset.labels,
            config=self.config,
            folder=self.output / name,
            start=self.start,
            validate=self._validator(held_out) if held_out else None,
            unlabelled=self._prepare(without_patients(self.setup.unlabelled, held_out)),
        )
        first = self.fabric.is_global_zero
        with Journal(task.folder, self.config.training.steps, active=first, screen=self.options.screen) as journal:
            state = fit(task, self.fabric, journal, self.deadline)
        average: nn.Module = state.average.module
        return average.eval() if state.finished else None

    @property
    def _cache(self) -> Path:
        return self.options.cache or self.output / "cache"

    def _prepare(self, cases: Sequence[Case]) -> tuple[CachedCase, ...]:
        cache = Cache(self._cache)
        labels, threads = self.setup.dataset.labels, torch.get_num_threads()
        return tuple(first_process_first(self.fabric, lambda: cache.prepare(cases, self.setup.plan, labels, threads)))

    def _validator(self, cases: Sequence[Case]) -> Validator:
        return Validator(
            tuple(cases), self.setup.plan, self.setup.dataset.labels, self.config.inference, self.fabric.device
        )

    def _compare(self, network: nn.Module, cases: Sequence[Case], degraded: int = 0) -> list[Comparison]:
        return self._validator(cases).compare((network,), degraded) if self.fabric.is_global_zero else []

    def _finish(self, networks: tuple[nn.Module, ...], comparisons: Sequence[Comparison]) -> TrainingRun:
        """Write the scores, which the first process alone has and tells the others, and the model folder."""
        scores = self.fabric.broadcast(score(comparisons, self.setup.dataset.labels))
        folder = self.output / "model"
        if self.fabric.is_global_zero:
            write_scores(scores, self.output / "validation.csv")
            judged = cross_validated if self.options.folds else validated
            save_model(judged(self._model(networks), comparisons, scores), folder)
        self.fabric.barrier()
        return TrainingRun(folder, self.setup.plan, scores, self.weight, self._seen())

    def _seen(self) -> tuple[str, ...]:
        """Return the held-out cases that the start knows; not refused, as other datasets may name cases alike."""
        held_out = self.setup.train if self.options.folds else self.setup.held_out
        learnt = self.start.learnt if self.start else ()
        return tuple(known_of(held_out, learnt, self.setup.dataset.cases))

    def _model(self, networks: tuple[nn.Module, ...]) -> Model:
        """Return the model before held-out cases were asked; a start's clean-up is kept."""
        plan, labels = self.setup.plan, self.setup.dataset.labels
        names = [label.name for label in labels.labels]
        return Model(
            networks=networks,
            plan=plan,
            labels=labels,
            name=self.config.name,
            inference=self.config.inference,
            postprocessing=self.start.postprocessing if self.start else None,
            reference=describe_training(self.setup.fingerprint, plan, names),
            modalities=self._modalities(),
            provenance=self._provenance(),
        )

    def _modalities(self) -> tuple[str, ...]:
        """Return the modalities that the cases state, or, where they state none, those of the model started from."""
        stated = self.setup.fingerprint.modalities(self.setup.dataset.modalities)
        return stated or (self.start.modalities if self.start else ())

    def _also_learnt(self) -> dict[str, list[str]]:
        """Return the other cases whose masks had a say: of the start or the teachers, and reviewed pseudo-labels."""
        others = {*(self.start.learnt if self.start else ()), *(case.id for case in self.setup.reviewed)}
        folder = self.config.unlabelled.pseudo_labels
        if folder and (_follows_pseudo_labels(self.config) or self.setup.reviewed):
            others |= learnt_by_teachers(folder)
        others -= {case.id for case in self.setup.train}
        return {"also_learnt": sorted(others)} if others else {}

    def _provenance(self) -> dict[str, Any]:
        return {
            "config": self.config.model_dump(
                mode="json", exclude={"dataset": {"folder"}, "distillation": {"teachers"}}
            ),
            **identity(self.config.distillation),
            "training_cases": [case.id for case in self.setup.train],
            **self._also_learnt(),
            "folds": self.options.folds,
            "versions": package_versions(),
            "machine": machine(),
        }
