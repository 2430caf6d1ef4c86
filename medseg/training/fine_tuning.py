"""Fine-tune a model on new cases together with the earlier ones, and say whether it may take the model's place.

Earlier and new cases are one training set, and every case is drawn equally often: *replay* without a share to choose.
Fine-tuning on the new cases alone would forget what they don't show.

It is promoted if held-out cases are not worse, case by case (`medseg.training.promotion.compare`):

* with validation cases, the fine-tuned network and the model before are both scored on them;
* without, the earlier labelled cases are cross-validated. The model before has learnt from all of them, so it would
  win on every fold. Instead two networks a fold start from it, with a quarter of the steps: one learns from the other
  folds alone, one also from the new cases. What the start knows of the fold is the same for both.

::

    OUTPUT/run/                          the fine-tuning, with its model
          /fold_0/earlier/, fold_0/new/  the two networks of a fold
          /promotion.json                the decision, its reason, every score; written last
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean

from pydantic import Field, ValidationError

from medseg.catalog.datasets import Dataset, read_dataset
from medseg.catalog.splits import check_unseen, k_folds, without_patients
from medseg.config import ExperimentConfig, TrainingConfig, describe_problems
from medseg.errors import ConfigError, DatasetError
from medseg.inference.hardware import choose_device, fit_threads
from medseg.io.files import write_text
from medseg.networks.model import Model, load_model, model_digest
from medseg.provenance import digest_files, digest_json, learnt_cases
from medseg.records import Record, find_record
from medseg.training.deadline import deadline_in, seconds_left
from medseg.training.held_out import MEASURING, of_fold
from medseg.training.labelled_weight import FEWEST_PATIENTS, count_patients, enough_patients
from medseg.training.promotion import HeldOutScore, Rivals, Verdict, by_case, compare, held_out_scores
from medseg.training.run import RunOptions, TrainingRun, run_training
from medseg.training.validation import Validator, score

STEPS = 500
"""Steps of a fine-tuning: an eighth of a short training, so that a round takes minutes to an hour."""

LEARNING_RATES = {"adamw": 0.0005, "sgd": 0.0025}
"""A quarter of what suits a training from random weights: the start is near a minimum already."""

MOST_FOLDS = 4
"""Folds of the cross-validation; as many as patients where there are fewer."""

STEPS_SHARE = 0.25
"""Share of the steps that the networks of a fold learn for."""

RECORD = "promotion.json"

Scores = tuple[HeldOutScore, ...]


@dataclass(frozen=True, slots=True)
class Wishes:
    """What a fine-tuning does otherwise than the training; None: `STEPS`, and the optimiser's `LEARNING_RATES`."""

    steps: int | None = None
    learning_rate: float | None = None
    freeze_encoder: bool = False


class FineTuned(Record):
    """What ``promotion.json`` holds."""

    promoted: bool = Field(description="Whether the fine-tuned model takes the place of the one before")
    reason: str = Field(description="Why")
    model: str = Field(description="The fine-tuned model folder, relative to this file; empty if it was not made")
    measured_on: str = Field(description="validation, or cross-validation of the earlier labelled cases")
    new: tuple[str, ...] = Field(description="Cases that the model before had not learnt from")
    earlier: tuple[str, ...] = Field(description="Cases that were learnt again beside them")
    before: Scores = Field(description="Held-out scores of the model before, or of learning on without the new cases")
    after: Scores = Field(description="Held-out scores of learning from the new cases, too")
    follows_from: str = Field(description="Digest of model, cases and settings")

    @property
    def dice_before(self) -> float | None:
        """Mean held-out Dice of the model before; None without a score."""
        return fmean(by_case(self.before).values()) if by_case(self.before) else None

    @property
    def dice_after(self) -> float | None:
        """Mean held-out Dice of the fine-tuned networks; None without a score."""
        return fmean(by_case(self.after).values()) if by_case(self.after) else None


def experiment_of(model: Path) -> ExperimentConfig:
    """Return the configuration that a model was trained with, but for the folder of its dataset.

    Raises
    ------
    ModelError
        If the folder is no sound model.
    ConfigError
        If it doesn't say how it was trained, or what it says is no longer understood.
    """
    stated = load_model(model).provenance.get("config")
    try:
        return ExperimentConfig.model_validate(stated)
    except ValidationError:
        raise ConfigError(f"{model} doesn't say how it was trained; give a configuration file") from None


def for_fine_tuning(config: ExperimentConfig, wishes: Wishes) -> ExperimentConfig:
    """Return an experiment with the steps and the rate of a fine-tuning, on labelled cases alone.

    Raises
    ------
    ConfigError
        If a wish is out of bounds.
    """
    rate = wishes.learning_rate if wishes.learning_rate is not None else LEARNING_RATES[config.training.optimiser]
    changes = {
        "steps": wishes.steps if wishes.steps is not None else STEPS,
        "learning_rate": rate,
        "freeze_encoder": wishes.freeze_encoder,
        **MEASURING,
    }
    try:
        training = TrainingConfig.model_validate({**config.training.model_dump(), **changes})
    except ValidationError as error:
        raise ConfigError(f"fine-tuning: {describe_problems(error)}") from None
    supervised = config.with_changes(unlabelled={"method": "supervised", "pseudo_labels": None})
    return supervised.model_copy(update={"training": training})


def fine_tune(
    config: ExperimentConfig, model: Path, output: Path, new: Collection[str], options: RunOptions | None = None
) -> FineTuned | None:
    """Fine-tune a model on the training cases of a dataset, and decide whether it is promoted.

    The same call goes on with what was stopped, and returns what is decided already.

    Parameters
    ----------
    config : its dataset has earlier and new cases, and its training the steps and the rate (`for_fine_tuning`).
    model : model folder to start from, and to be compared with.
    output : folder of this fine-tuning; made if missing.
    new : ids of the training cases that the model has not learnt from.
    options : device, time, cache; `folds` and `init` are set here.

    Returns
    -------
    FineTuned or None
        None: time ran out; the same call goes on.

    Raises
    ------
    DatasetError
        If the model has learnt from a validation case, or nothing can be held out.
    MedsegError
        For every other problem of configuration, data, model or disk that a user can mend.
    """
    work = _FineTuning(config, model, output, frozenset(new), options or RunOptions())
    work.check()
    done = find_record(output / RECORD, FineTuned)
    if done and done.follows_from == work.follows_from:
        return done
    try:
        outcome = work.run()
    except _OutOfTime:
        return None
    write_text(output / RECORD, outcome.model_dump_json(indent=1) + "\n")
    return outcome


class _OutOfTime(Exception):  # noqa: N818 - no error: time is up
    """Ends the work for now."""


class _FineTuning:
    """One fine-tuning."""

    def __init__(
        self, config: ExperimentConfig, model: Path, output: Path, new: frozenset[str], options: RunOptions
    ) -> None:
        self.config, self.model, self.output = config, model, output
        self.options = replace(options, init=model, folds=0, cache=options.cache or output / "cache")
        self.deadline = deadline_in(options.max_seconds)
        self.dataset: Dataset = read_dataset(config.dataset)
        self.before: Model = load_model(model)
        self.new = tuple(case for case in self.dataset.labelled if case.id in new)
        self.earlier = tuple(case for case in self.dataset.labelled if case.id not in new)
        self.held_out = self.dataset.select(self.dataset.validation)

    def check(self) -> None:
        """Refuse what would measure nothing."""
        check_unseen(self.held_out, learnt_cases(self.before.provenance), self.dataset.cases, "the model has")
        if not self.held_out and not enough_patients(self.earlier):
            raise DatasetError(
                "there is no validation case, and too few patients have earlier labelled cases to cross-validate: "
                f"{count_patients(self.earlier)}, and {FEWEST_PATIENTS} are needed; name validation cases, or label "
                "more"
            )

    @property
    def follows_from(self) -> str:
        """Name what the decision follows from."""
        cases = (*self.dataset.labelled, *self.held_out)
        return digest_json(
            {
                "config": self.config.model_dump(mode="json", exclude={"name", "dataset"}),
                "model": model_digest(self.model),
                "masks": {case.id: digest_files([case.mask]) for case in cases if case.mask},
                "new": sorted(case.id for case in self.new),
                "held out": sorted(case.id for case in self.held_out),
            }
        )

    def run(self) -> FineTuned:
        """Train, compare and decide; a cross-validation decides before all cases are trained on."""
        if self.held_out:
            after = held_out_scores(self._train(self.config, "run").scores)
            before = self._scores_before()
        else:
            before, after = self._cross_validate()
        verdict = compare(after, before, Rivals("fine-tuned networks", "those before"))
        if verdict.passed and not self.held_out:
            self._train(self.config, "run")
        return self._outcome(verdict, before, after)

    def _outcome(self, verdict: Verdict, before: Scores, after: Scores) -> FineTuned:
        return FineTuned(
            promoted=verdict.passed,
            reason=verdict.reason,
            model="run/model" if verdict.passed or self.held_out else "",
            measured_on="validation" if self.held_out else "cross-validation",
            new=tuple(case.id for case in self.new),
            earlier=tuple(case.id for case in self.earlier),
            before=before,
            after=after,
            follows_from=self.follows_from,
        )

    def _cross_validate(self) -> tuple[Scores, Scores]:
        """Return the scores of every earlier case by a network without and by one with the new cases."""
        found: dict[str, list[HeldOutScore]] = {"earlier": [], "new": []}
        count = min(MOST_FOLDS, count_patients(self.earlier))
        folds = k_folds(self.earlier, count, self.config.training.seed)
        for number, fold in enumerate(folds):
            for arm, added in (("earlier", ()), ("new", without_patients(self.new, fold.validation))):
                config = of_fold(self.config, (*fold.train, *added), fold.validation, STEPS_SHARE)
                found[arm] += held_out_scores(self._train(config, f"fold_{number}/{arm}").scores)
        return tuple(found["earlier"]), tuple(found["new"])

    def _train(self, config: ExperimentConfig, name: str) -> TrainingRun:
        options = replace(self.options, max_seconds=seconds_left(self.deadline))
        run = run_training(config, self.output / name, options)
        if run.model is None:
            raise _OutOfTime
        return run

    def _scores_before(self) -> Scores:
        """Return how the model before does on the validation cases, by all of its networks."""
        device = choose_device(self.options.device)
        fit_threads()
        networks = [network.to(device) for network in self.before.networks]
        model, labels = self.before, self.dataset.labels  # the same structures, but the masks may number them otherwise
        comparisons = Validator(self.held_out, model.plan, labels, model.inference, device).compare(networks)
        return held_out_scores(score(comparisons, labels))
