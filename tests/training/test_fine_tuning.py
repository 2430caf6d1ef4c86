"""Fine-tuning with a training that is told its outcome: what learns from what, and what is promoted."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from medseg.catalog.datasets import read_dataset
from medseg.errors import ConfigError, DatasetError
from medseg.labels import LabelMap
from medseg.networks.build import build_network
from medseg.networks.model import Model, load_model, save_model
from medseg.quality.metrics import State, StructureScore
from medseg.training import fine_tuning
from medseg.training.fine_tuning import LEARNING_RATES, STEPS, Wishes, experiment_of, fine_tune, for_fine_tuning
from medseg.training.run import RunOptions, TrainingRun

from .conftest import small_plan, write_case

PLAN = small_plan(4, 8)


class Training:
    """Stands in for run_training: writes the model that it starts from again, and scores held-out cases as told."""

    def __init__(self, dice) -> None:
        self.dice, self.configs = dice, {}

    def __call__(self, config, folder: Path, options: RunOptions) -> TrainingRun:
        name = folder.relative_to(folder.parents[0 if folder.name == "run" else 1]).as_posix()
        self.configs[name] = config
        start = load_model(options.init)
        save_model(start, folder / "model")
        scores = [
            StructureScore(case, target, State.SCORED, self.dice(name, case), 0.5, 1.0, 0.5, 1.0, 1.0)
            for case in read_dataset(config.dataset).validation
            for target in ("dim", "bright")
        ]
        return TrainingRun(folder / "model", PLAN, scores)


@pytest.fixture
def model(blobs, experiment, tmp_path) -> Path:
    """A model of random weights that has learnt from case_0 to case_3."""
    labels = read_dataset(experiment.dataset).labels
    provenance = {
        "training_cases": ["case_0", "case_1", "case_2", "case_3"],
        "config": experiment.model_dump(mode="json", exclude={"dataset": {"folder"}}),
    }
    networks = (build_network(PLAN, labels.outputs),)
    made = Model(networks, PLAN, labels, provenance=provenance)
    save_model(made, tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture
def tune(model, experiment, tmp_path, monkeypatch):
    """Fine-tune with a training whose held-out Dice is told by the name of the network and the case."""

    def go(dice, new=(), **lists):
        training = Training(dice)
        monkeypatch.setattr(fine_tuning, "run_training", training)
        config = experiment.model_copy(update={"dataset": experiment.dataset.model_copy(update=lists)})
        return fine_tune(config, model, tmp_path / "out", new, RunOptions(device="cpu")), training

    return go


def test_validation_cases_decide_where_there_are_any(tune, tmp_path):
    better, training = tune(lambda *_: 0.99, new=["case_3"])
    assert better.promoted
    assert better.measured_on == "validation"
    assert (better.earlier, better.new) == (("case_0", "case_1", "case_2"), ("case_3",))
    assert {score.case for score in (*better.before, *better.after)} == {"case_4", "case_5"}
    assert list(training.configs) == ["run"]
    told = json.loads((tmp_path / "out" / "promotion.json").read_text())
    assert told["promoted"] is True


def test_the_model_before_is_scored_by_what_the_masks_call_its_structures(tune, model, tmp_path):
    alike, _ = tune(lambda *_: 0.99)
    save_model(replace(load_model(model), labels=LabelMap.parse({"dim": 7, "bright": 9})), model)
    renumbered, _ = tune(lambda *_: 0.99)
    assert renumbered.follows_from != alike.follows_from
    assert renumbered.before == alike.before


def test_a_worse_network_is_not_promoted(tune):
    worse, _ = tune(lambda *_: 0.0)
    assert not worse.promoted
    assert worse.reason.startswith("fine-tuned networks are worse than those before")


def cross_validated(tune, dice):
    """Six labelled cases, of which the last two are new, and none held out."""
    return tune(dice, new=["case_4", "case_5"], validation=[])


def test_without_validation_cases_the_earlier_ones_are_cross_validated(tune):
    found, training = cross_validated(tune, lambda name, _: 0.8 if name.endswith("new") else 0.7)
    assert found.promoted
    assert found.measured_on == "cross-validation"
    assert sorted({score.case for score in found.after}) == ["case_0", "case_1", "case_2", "case_3"]
    assert (found.dice_before, found.dice_after) == (pytest.approx(0.7), pytest.approx(0.8))
    for number in range(4):
        alone, joined = (training.configs[f"fold_{number}/{arm}"] for arm in ("earlier", "new"))
        held_out = set(alone.dataset.validation)
        assert held_out == set(joined.dataset.validation)
        assert not held_out & {*alone.dataset.train, *joined.dataset.train}
        assert set(joined.dataset.train) - set(alone.dataset.train) == {"case_4", "case_5"}
        assert alone.training.steps == joined.training.steps == 15, "a quarter"
    assert training.configs["run"].training.steps == 60
    assert list(training.configs)[-1] == "run", "all cases are trained on last, and only if that is promoted"


def test_new_cases_that_harm_the_earlier_ones_are_not_trained_on(tune):
    found, training = cross_validated(tune, lambda name, _: 0.6 if name.endswith("new") else 0.7)
    assert not found.promoted
    assert found.model == ""
    assert "run" not in training.configs


def test_a_new_case_of_a_held_out_patient_is_left_out_of_its_fold(tune, tmp_path):
    for seed, name in enumerate(("p0_a", "p1_a", "p2_a", "p3_a", "p0_b")):
        write_case(tmp_path / "data", name, seed)
    _, training = tune(lambda *_: 0.7, new=["p0_b"], validation=[], folder=tmp_path / "data", patients=r"^(p\d)")
    for name, config in training.configs.items():
        learns = set(config.dataset.train or ()) if name.endswith("/new") else set()
        assert ("p0_b" in learns) == (bool(learns) and config.dataset.validation != ["p0_a"])
    assert training.configs["run"]


def test_what_is_decided_is_not_decided_again(tune):
    first, _ = tune(lambda *_: 0.99)
    again, training = tune(lambda *_: 0.0)
    assert again == first
    assert training.configs == {}
    other, training = tune(lambda *_: 0.99, validation=["case_5"])
    assert other != first
    assert training.configs


def test_a_case_that_the_model_has_seen_measures_nothing(tune):
    with pytest.raises(DatasetError, match="learnt from 1 of the 2 validation cases: case_3"):
        tune(lambda *_: 0.9, validation=["case_3", "case_5"])


def test_nor_does_another_scan_of_a_patient_whom_it_has_seen(tune):
    """case_3, which it has learnt from, is no longer trained on; case_4 is of the same patient."""
    whose = {"patients": r"(case_[0-25]|case_)", "train": ["case_0", "case_1", "case_2"]}
    with pytest.raises(DatasetError, match="learnt from 1 of the 2 validation cases: case_4, or from other scans"):
        tune(lambda *_: 0.9, **whose, validation=["case_4", "case_5"])


def test_too_few_cases_to_hold_out_are_refused(tune, tmp_path):
    with pytest.raises(DatasetError, match="too few patients have earlier labelled cases to cross-validate: 3, and 4"):
        tune(lambda *_: 0.9, new=["case_3", "case_4", "case_5"], validation=[])
    assert not (tmp_path / "out").exists()


def test_a_fine_tuning_has_its_own_steps_and_rate(experiment, model):
    training = for_fine_tuning(experiment, Wishes()).training
    assert (training.steps, training.learning_rate) == (STEPS, LEARNING_RATES["adamw"])
    assert not training.freeze_encoder
    wished = for_fine_tuning(experiment_of(model), Wishes(7, 0.1, freeze_encoder=True)).training
    assert (wished.steps, wished.learning_rate, wished.freeze_encoder) == (7, 0.1, True)
    with pytest.raises(ConfigError, match=r"fine-tuning: .*steps"):
        for_fine_tuning(experiment, Wishes(steps=0))


def test_a_model_that_does_not_say_how_it_was_trained_needs_a_configuration(model):
    save_model(replace(load_model(model), provenance={}), model)
    with pytest.raises(ConfigError, match="give a configuration file"):
        experiment_of(model)
