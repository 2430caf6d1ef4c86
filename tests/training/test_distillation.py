"""Students of a teacher with random weights, which they resemble after a few steps."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from medseg.catalog.datasets import read_dataset
from medseg.config import DistillationConfig, ExperimentConfig, TrainingConfig
from medseg.errors import ConfigError, DatasetError, ModelError, OutputError
from medseg.labels import LabelMap
from medseg.losses.distillation import SoftTargetLoss
from medseg.losses.segmentation import SegmentationLoss
from medseg.networks.build import build_network
from medseg.networks.model import Model, load_model, model_digest, save_model
from medseg.rules import PostprocessingRules
from medseg.training.distillation import Distilled, load_teachers, student_of
from medseg.training.fine_tuning import Wishes, experiment_of, for_fine_tuning
from medseg.training.pruning import prune_and_fine_tune, pruned_model, save_pruned
from medseg.training.run import RunOptions, run_training
from medseg.training.setup import set_up

from .conftest import small_plan

PLAN = small_plan(8, 16, 16)


@pytest.fixture
def teacher(experiment, tmp_path) -> Path:
    torch.manual_seed(0)
    labels = read_dataset(experiment.dataset).labels
    provenance = {
        "training_cases": ["case_0", "case_1", "case_2"],
        "config": experiment.model_dump(mode="json", exclude={"dataset": {"folder"}}),
    }
    networks = (build_network(PLAN, labels.outputs),)
    rules = PostprocessingRules()
    save_model(Model(networks, PLAN, labels, postprocessing=rules, provenance=provenance), tmp_path / "teacher")
    return tmp_path / "teacher"


@pytest.fixture
def studying(experiment, teacher):
    """An experiment with the teacher; fields of its sections may be given."""

    def make(steps=2, dataset=(), **distillation) -> ExperimentConfig:
        values = experiment.model_dump(mode="json")
        values["distillation"] = {"teachers": [str(teacher)], "width": 0.5, **distillation}
        values["dataset"].update(dataset)
        values["training"].update(steps=steps, checkpoint_every=2)
        return ExperimentConfig.model_validate(values)

    return make


def test_a_student_is_a_narrower_model_that_names_its_teacher_by_digest(studying, tmp_path):
    run = run_training(studying(), tmp_path / "run", RunOptions(device="cpu"))
    student = load_model(run.model)
    assert student.plan.network.features == (4, 8, 8)
    assert student.plan.patch == PLAN.patch
    assert student.postprocessing == PostprocessingRules(), "the clean-up chosen for its teacher"
    assert "teachers" not in student.provenance["config"]["distillation"], "no path leaves the machine"
    assert len(student.provenance["distillation"]["teachers"]) == 1


def test_unlabelled_scans_take_part_if_there_are_any(studying, tmp_path):
    few = studying(dataset={"train": ["case_0", "case_1"]})
    assert [case.id for case in set_up(few, tmp_path / "a").unlabelled] == ["case_2", "case_3"]
    assert set_up(studying(), tmp_path / "b").unlabelled == ()
    assert set_up(studying(unlabelled=False, dataset={"train": ["case_0"]}), tmp_path / "c").unlabelled == ()


def test_another_teacher_is_another_run(studying, teacher, tmp_path):
    run_training(studying(), tmp_path / "run", RunOptions(device="cpu"))
    model = load_model(teacher)
    save_model(replace(model, networks=(build_network(PLAN, model.labels.outputs),)), teacher)
    with pytest.raises(ModelError, match="started with another configuration"):
        run_training(studying(), tmp_path / "run", RunOptions(device="cpu"))


def test_a_student_in_the_folder_of_another_run_leaves_it_as_it_was(experiment, studying, teacher, tmp_path):
    """It wrote its plan there before it was refused, and the other run couldn't go on any more."""
    short = experiment.model_copy(update={"training": experiment.training.model_copy(update={"steps": 2})})
    run_training(short, tmp_path / "run", RunOptions(device="cpu"))
    plan = (tmp_path / "run" / "plan.yaml").read_bytes()
    for config, options in (
        (studying(), RunOptions(device="cpu")),
        (short, RunOptions(device="cpu", init=teacher)),
    ):
        with pytest.raises(ConfigError, match=r"plan\.yaml is the plan of another run"):
            run_training(config, tmp_path / "run", options)
        assert (tmp_path / "run" / "plan.yaml").read_bytes() == plan
    assert run_training(short, tmp_path / "run", RunOptions(device="cpu")).model


def test_a_student_is_not_scored_on_what_its_teacher_has_learnt(studying, tmp_path):
    seen = studying(dataset={"validation": ["case_2", "case_5"]})
    with pytest.raises(DatasetError, match="learnt from 1 of the 2 validation cases: case_2"):
        run_training(seen, tmp_path / "run", RunOptions(device="cpu"))
    with pytest.raises(ConfigError, match="distil without folds"):
        run_training(studying(), tmp_path / "folds", RunOptions(device="cpu", folds=2))


def test_what_a_teacher_knows_of_the_models_before_it_is_known_of_it(experiment, studying, teacher, tmp_path):
    values = studying(dataset={"train": ["case_3"]}).model_dump(mode="json") | {"distillation": {}}
    config = ExperimentConfig.model_validate(values)
    tuned = run_training(config, tmp_path / "tuned", RunOptions(device="cpu", init=teacher)).model
    assert load_model(tuned).provenance["also_learnt"] == ["case_0", "case_1", "case_2"]
    student = run_training(studying(teachers=[str(tuned)]), tmp_path / "student", RunOptions(device="cpu")).model
    for model in (tuned, student):
        later = studying(teachers=[str(model)], dataset={"validation": ["case_0", "case_5"]})
        with pytest.raises(DatasetError, match="learnt from 1 of the 2 validation cases: case_0"):
            run_training(later, tmp_path / "later", RunOptions(device="cpu"))


def test_the_start_is_the_teachers_maps_unless_random_ones_are_wished(teacher):
    def weights(network) -> set[float]:
        return set(network.encoder[1][0][0].weight.detach().flatten().tolist())

    def started(config: DistillationConfig) -> set[float]:
        start = student_of(load_teachers(config), config)
        network = build_network(start.plan, start.labels.outputs)
        start.put_into(network)
        return weights(network)

    own = weights(load_model(teacher).networks[0])
    assert started(DistillationConfig(teachers=(teacher,))) <= own
    assert not started(DistillationConfig(teachers=(teacher,), start="random")) <= own


def test_teachers_must_prepare_scans_alike(teacher, tmp_path):
    model = load_model(teacher)
    other = model.plan.model_copy(update={"spacing": (1.0, 1.0, 1.0)})
    save_model(replace(model, plan=other), tmp_path / "other")
    with pytest.raises(ModelError, match="prepares scans otherwise"):
        load_teachers(DistillationConfig(teachers=(teacher, tmp_path / "other")))


@pytest.mark.parametrize(
    ("plan", "labels", "reason"),
    [
        (PLAN.model_copy(update={"spacing": (4.0, 4.0, 4.0)}), {"dim": 1, "bright": 2}, "prepares scans otherwise"),
        (PLAN, {"bright": 1, "dim": 2}, "segments other structures"),
    ],
)
def test_teachers_suit_a_student_that_starts_from_something_else(studying, teacher, tmp_path, plan, labels, reason):
    """It answered for patches that it had never seen the like of, or the one structure for the other."""
    model = load_model(teacher)
    save_model(replace(model, plan=plan, labels=LabelMap.parse(labels)), tmp_path / "other")
    config = studying(teachers=[str(tmp_path / "other")])
    with pytest.raises(ModelError, match=f"other {reason}"):
        run_training(config, tmp_path / "run", RunOptions(device="cpu", init=teacher))


@pytest.mark.parametrize("patch", [(24, 16, 16), (16, 16, 16)])
def test_a_teacher_that_can_t_take_the_patches_is_refused(teacher, tmp_path, patch):
    first = load_model(teacher)
    save_model(replace(first, plan=first.plan.model_copy(update={"patch": patch})), teacher)
    deep = small_plan(4, 4, 4, 4, 4).model_copy(update={"patch": (32, 32, 32)})
    networks = (build_network(deep, first.labels.outputs),)
    save_model(replace(first, networks=networks, plan=deep), tmp_path / "deep")
    with pytest.raises(ModelError, match="deep can't take patches of .*x16x16"):
        load_teachers(DistillationConfig(teachers=(teacher, tmp_path / "deep")))
    assert len(load_teachers(DistillationConfig(teachers=(tmp_path / "deep", teacher)))) == 2


def test_classes_are_not_regions_of_the_same_names(experiment, teacher, studying, tmp_path):
    """Both are called dim and bright; regions overlap, and have no output for the background."""
    names = [{"value": 1, "name": "dim"}, {"value": 2, "name": "bright"}]
    regions = [{"name": "dim", "values": [1, 2], "paints": 1}, {"name": "bright", "values": [2], "paints": 2}]
    overlapping = {"labels": names, "regions": regions}
    with pytest.raises(ModelError, match="knows labels that exclude each other, the dataset has overlapping regions"):
        run_training(studying(dataset={"labels": overlapping}), tmp_path / "run", RunOptions(device="cpu"))
    labels = LabelMap.parse(overlapping)
    other = tmp_path / "other"
    save_model(replace(load_model(teacher), networks=(build_network(PLAN, labels.outputs),), labels=labels), other)
    with pytest.raises(ModelError, match="segments other structures"):
        load_teachers(DistillationConfig(teachers=(teacher, other)))
    with pytest.raises(ModelError, match="knows overlapping regions"):
        run_training(experiment, tmp_path / "tuned", RunOptions(device="cpu", init=other))


def test_teachers_and_another_use_of_unlabelled_scans_exclude_each_other(experiment, teacher):
    with pytest.raises(ValueError, match="leave unlabelled.method supervised"):
        ExperimentConfig.model_validate(
            {"distillation": {"teachers": [str(teacher)]}, "unlabelled": {"method": "mix-teacher"}}
        )


def test_the_share_weighs_labels_against_answers():
    labels = LabelMap.parse({"organ": 1})
    networks = [build_network(PLAN, 2) for _ in range(2)]
    batch = {"image": torch.randn(2, 1, 16, 16, 16), "target": torch.randint(0, 2, (2, 16, 16, 16), dtype=torch.uint8)}
    other = {**batch, "target": 1 - batch["target"]}
    training = TrainingConfig(precision="float32")

    def total(share, shown) -> float:
        config = DistillationConfig(share=share)
        soft = SoftTargetLoss(regions=False, temperature=2.0)
        method = Distilled(SegmentationLoss(labels, training), soft, networks[1:], config, training)
        assert method.state_dict() == {}
        return float(method.step(networks[0].eval(), shown, 0.5)["loss"].detach())

    assert total(1.0, batch) == total(1.0, other)
    assert total(0.5, batch) != total(0.5, other)
    hard, both, soft = (total(share, batch) for share in (1e-9, 0.5, 1.0))
    assert both == pytest.approx((hard + soft) / 2, rel=1e-4)


def test_a_student_comes_to_answer_as_its_teacher_where_nothing_is_labelled():
    torch.manual_seed(0)
    teacher, student = build_network(PLAN, 3).eval(), build_network(PLAN, 3)
    training, soft = TrainingConfig(precision="float32"), SoftTargetLoss(regions=False, temperature=2.0)
    hard = SegmentationLoss(LabelMap.parse({"a": 1, "b": 2}), training)
    method = Distilled(hard, soft, [teacher], DistillationConfig(share=1.0), training)
    labelled, unlabelled = torch.randn(2, 1, 1, 8, 8, 8)
    target = torch.zeros(1, 8, 8, 8, dtype=torch.uint8)
    optimiser = torch.optim.Adam(student.parameters(), 0.01)

    def difference() -> float:
        return float(soft(student(unlabelled).logits, teacher(unlabelled).logits)[0].detach())

    before = difference()
    for _ in range(20):
        batch = {"image": labelled, "target": target, "unlabelled": {"strong": unlabelled}}
        optimiser.zero_grad()
        method.step(student, batch, 0.0)["loss"].backward()
        optimiser.step()
    assert difference() < before / 2


def test_a_pruned_model_is_fine_tuned_from_what_was_left(teacher, experiment, tmp_path):
    config = for_fine_tuning(experiment_of(teacher), Wishes(steps=2))
    config = config.model_copy(update={"dataset": experiment.dataset})
    run = prune_and_fine_tune(config, teacher, 0.5, tmp_path / "run", RunOptions(device="cpu"))
    cut, tuned = load_model(tmp_path / "run" / "pruned"), load_model(run.model)
    assert cut.plan.network.features == tuned.plan.network.features == (4, 8, 8)
    assert cut.provenance["keep"] == 0.5
    assert cut.scores == {}
    moved = [
        float((a - b).detach().abs().max())
        for a, b in zip(cut.networks[0].parameters(), tuned.networks[0].parameters(), strict=True)
    ]
    assert 0 < max(moved) < 0.1, "a start, not another network"
    with pytest.raises(ModelError, match="no such model folder"):
        pruned_model(tmp_path / "nothing", 0.5)


def test_what_a_run_fine_tunes_is_not_cut_otherwise(teacher, experiment, tmp_path):
    """Another share was refused only after OUTPUT/pruned had been written over, which OUTPUT/model came from."""
    config = for_fine_tuning(experiment_of(teacher), Wishes(steps=2))
    config = config.model_copy(update={"dataset": experiment.dataset})
    output = tmp_path / "run"
    prune_and_fine_tune(config, teacher, 0.5, output, RunOptions(device="cpu"))
    cut = model_digest(output / "pruned")
    for again in (lambda: prune_and_fine_tune(config, teacher, 0.9, output), lambda: save_pruned(teacher, 0.9, output)):
        with pytest.raises(OutputError, match="pruned: here is what this run fine-tunes"):
            again()
        assert model_digest(output / "pruned") == cut
    with pytest.raises(OutputError, match="pruned: this is the model itself"):
        save_pruned(output / "pruned", 0.5, output)
    assert model_digest(output / "pruned") == cut
    assert prune_and_fine_tune(config, teacher, 0.5, output, RunOptions(device="cpu")).model


def test_a_cut_model_expects_no_dice_that_was_measured_with_whole_networks(experiment, tmp_path):
    """Its worklist gave each case the Dice to expect of the model before."""
    short = experiment.model_copy(update={"training": experiment.training.model_copy(update={"steps": 2})})
    whole = run_training(short, tmp_path / "run", RunOptions(device="cpu")).model
    model = load_model(whole)
    assert model.reference.soft_dice
    cut = pruned_model(whole, 0.5)
    assert cut.reference.structures == model.reference.structures
    assert (cut.reference.soft_dice, cut.reference.calibration) == ({}, None)
