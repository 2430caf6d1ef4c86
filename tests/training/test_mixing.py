from __future__ import annotations

import math
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from medseg.config import TrainingConfig, UnlabelledConfig
from medseg.errors import ConfigError, DatasetError
from medseg.labels import LabelMap
from medseg.losses.segmentation import SegmentationLoss
from medseg.networks.model import load_model
from medseg.outputs import NetworkOutput
from medseg.training import loop
from medseg.training.lessons import check_ingredients
from medseg.training.mixing import MixedMethod, ramp
from medseg.training.run import RunOptions, run_training
from medseg.training.temporary_labels import Labeller

LABELS = LabelMap.parse({"one": 1, "two": 2})
SIZE = (8, 8, 8)


class Small(nn.Module):
    """One convolution, its features a pooled hidden layer."""

    def __init__(self, classes=3):
        super().__init__()
        torch.manual_seed(0)
        self.hidden, self.head = nn.Conv3d(1, 4, 3, padding=1), nn.Conv3d(4, classes, 1)

    def forward(self, image):
        maps = self.hidden(image).tanh()
        return NetworkOutput(self.head(maps), (), nn.functional.avg_pool3d(maps, 4))


def batch_of(seed=0, paste=None):
    rng = torch.Generator().manual_seed(seed)
    image, weak, strong = (torch.randn(2, 1, *SIZE, generator=rng) for _ in range(3))
    targets = [torch.randint(0, 3, (2, *SIZE), generator=rng, dtype=torch.uint8) for _ in range(2)]
    if paste is None:
        paste = torch.zeros(2, *SIZE, dtype=torch.bool)
        paste[:, :4] = True
    weight = torch.rand(2, *SIZE, generator=rng)
    unlabelled = {"weak": weak, "strong": strong, "target": targets[1], "weight": weight, "paste": paste}
    return {"image": image, "target": targets[0], "unlabelled": unlabelled}


def method_of(teacher=None, labelled_weight=0.5, training=None, **config):
    loss = SegmentationLoss(LABELS, TrainingConfig(**(training or {})))
    config = UnlabelledConfig(**{"method": "mix-teacher", "labelled_first": 0.0, **config})
    return MixedMethod(loss, LABELS, config, labelled_weight, teacher)


def gradient(method, batch, progress=1.0):
    network = Small()
    method.step(network, batch, progress)["loss"].backward()
    return torch.cat([p.grad.flatten() for p in network.parameters()])


def test_the_ramp_is_mean_teachers():
    assert ramp(0.0, 0.4) == pytest.approx(math.exp(-5))
    assert ramp(0.2, 0.4) == pytest.approx(math.exp(-5 * 0.25))
    assert ramp(0.4, 0.4) == ramp(0.8, 0.4) == 1.0


def test_the_loss_is_lambda_of_one_and_the_rest_of_the_other():
    batch, network = batch_of(), Small()
    labelled, pseudo, both = (
        method_of(labelled_weight=share).step(network, batch, 1.0)["loss"] for share in (1.0, 0.0, 0.3)
    )
    torch.testing.assert_close(both, 0.3 * labelled + 0.7 * pseudo)
    early = method_of(labelled_weight=0.3, ramp=0.4).step(network, batch, 0.2)["loss"]
    torch.testing.assert_close(early, 0.3 * labelled + 0.7 * math.exp(-1.25) * pseudo)


def test_before_others_are_mixed_in_it_is_supervised_training_and_the_ramp_begins_after():
    batch, network = batch_of(), Small()
    labelled = {"image": batch["image"], "target": batch["target"]}
    first = method_of(labelled_weight=0.3).step(network, labelled, 0.1)
    assert first["loss"] == SegmentationLoss(LABELS, TrainingConfig())(network(batch["image"]), batch["target"]).total
    late = method_of(labelled_weight=0.3, ramp=0.4, labelled_first=0.5).step(network, batch, 0.6)["loss"]
    torch.testing.assert_close(late, method_of(labelled_weight=0.3, ramp=0.4).step(network, batch, 0.2)["loss"])


def test_the_labelled_part_has_the_supervised_loss():
    batch, network = batch_of(), Small()
    everywhere = torch.ones(2, *SIZE, dtype=torch.bool)
    batch["unlabelled"]["paste"] = everywhere
    mixed = method_of(labelled_weight=1.0).step(network, batch, 1.0)
    alone = SegmentationLoss(LABELS, TrainingConfig())(network(batch["image"]), batch["target"])
    torch.testing.assert_close(mixed["loss"], alone.total)


@pytest.mark.parametrize("silenced", ["weight", "ignore"])
def test_weight_zero_and_ignored_voxels_have_no_gradient(silenced):
    batch = batch_of()
    if silenced == "weight":
        batch["unlabelled"]["weight"] = torch.zeros(2, *SIZE)
    else:
        batch["unlabelled"]["target"] = torch.full((2, *SIZE), 255, dtype=torch.uint8)
    assert gradient(method_of(labelled_weight=0.0), batch).abs().max() == 0
    assert gradient(method_of(labelled_weight=0.0), batch_of()).abs().max() > 0


def test_what_an_ignored_voxel_is_labelled_changes_nothing():
    batch, other = batch_of(), batch_of()
    hidden = batch["unlabelled"]["weight"] < 0.5
    for one in (batch, other):
        one["unlabelled"]["weight"][hidden] = 0
    other["unlabelled"]["target"][hidden] = 1
    torch.testing.assert_close(gradient(method_of(), batch), gradient(method_of(), other))


def test_a_box_shows_the_labelled_scan_with_its_label():
    seen = []

    def network(image):
        seen.append(image)
        return NetworkOutput(torch.zeros(2, 3, *SIZE, requires_grad=True))

    batch = batch_of()
    method_of().step(network, batch, 1.0)
    assert torch.equal(seen[0][:, :, :4], batch["image"][:, :, :4])
    assert torch.equal(seen[0][:, :, 4:], batch["unlabelled"]["strong"][:, :, 4:])


def test_the_teacher_sees_the_weak_view_and_its_opinion_is_learnt():
    seen = []

    def teacher(image):
        seen.append(image)
        return NetworkOutput(torch.stack([torch.zeros_like(image[:, 0]), 9 * image[:, 0], -9 * image[:, 0]], 1))

    batch, network = batch_of(), Small()
    method = method_of(teacher, labelled_weight=0.0)
    optimiser = torch.optim.Adam(network.parameters(), 0.02)
    losses = []
    batch["unlabelled"]["strong"] = batch["unlabelled"]["weak"]
    for _ in range(60):
        optimiser.zero_grad()
        terms = method.step(network, batch, 1.0)
        terms["loss"].backward()
        optimiser.step()
        losses.append(float(terms["loss"].detach()))
    assert torch.equal(seen[0], batch["unlabelled"]["weak"])
    assert losses[-1] < 0.5 * losses[0]


def labeller(**config):
    return Labeller(LABELS, UnlabelledConfig(**config))


def output_of(*probabilities, features=None):
    logits = torch.tensor(probabilities).log().T.reshape(1, 3, -1, 1, 1)
    return NetworkOutput(logits, (), features)


def test_doubtful_voxels_count_less_and_below_the_threshold_nothing():
    output = output_of([0.98, 0.01, 0.01], [0.5, 0.4, 0.1], [0.1, 0.2, 0.7])
    labels = labeller(threshold=0.6)(output)
    entropy = [-sum(p * math.log(p) for p in row) / math.log(3) for row in ([0.98, 0.01, 0.01], [0.1, 0.2, 0.7])]
    assert labels.target.flatten().tolist() == [0, 0, 2]
    torch.testing.assert_close(labels.weight.flatten(), torch.tensor([1 - entropy[0], 0, 1 - entropy[1]]))
    assert labeller(threshold=0.6, entropy_weight=False)(output).weight.flatten().tolist() == [1, 0, 1]


def test_an_adaptive_threshold_is_lower_for_the_class_that_is_harder():
    hard = output_of(*[[0.02, 0.95, 0.03]] * 4, *[[0.2, 0.2, 0.6]] * 4)
    adaptive = labeller(threshold=0.7, adaptive_threshold=True, entropy_weight=False)
    fixed = labeller(threshold=0.7, entropy_weight=False)
    for _ in range(3000):
        adapted = adaptive(hard)
    assert fixed(hard).weight.flatten().tolist() == [1] * 4 + [0] * 4
    assert adapted.weight.flatten().tolist() == [1] * 8


def test_an_adaptive_threshold_is_never_higher_than_the_one_given():
    easy = output_of(*[[0.98, 0.01, 0.01]] * 20, *[[0.1, 0.75, 0.15]] * 2, *[[0.2, 0.1, 0.7]] * 2)
    adaptive = labeller(threshold=0.8, adaptive_threshold=True, entropy_weight=False)
    for _ in range(3000):
        adapted = adaptive(easy)
    assert adapted.weight.flatten().tolist() == [1] * 20 + [0] * 4
    with pytest.raises(ValueError, match="set threshold"):
        UnlabelledConfig(adaptive_threshold=True)


def test_the_mean_confidence_of_millions_of_voxels_is_theirs():
    sure = torch.tensor([0.97, 0.02, 0.01]).log().reshape(1, 3, 1, 1, 1).expand(2, 3, 128, 128, 128)
    adaptive = labeller(threshold=0.7, adaptive_threshold=True)
    adaptive(NetworkOutput(sure))
    assert 1000 * (1 - float(adaptive.confidence[0])) == pytest.approx(1 - 0.97, rel=0.01)  # at a decay of 0.999


def test_prototypes_gate_and_move_labels():
    features = torch.zeros(1, 2, 4, 1, 1)
    features[0, 0, :2], features[0, 1, 2:] = 1.0, 1.0
    truth = torch.tensor([1, 1, 2, 2], dtype=torch.uint8).reshape(1, 4, 1, 1)
    ones = torch.ones(1, 4, 1, 1)
    # the teacher calls the third voxel 1, its features say 2
    output = output_of([0.1, 0.8, 0.1], [0.1, 0.8, 0.1], [0.1, 0.6, 0.3], [0.1, 0.1, 0.8], features=features)
    gated, moved = labeller(prototype_gate=True, entropy_weight=False), labeller(prototype_share=0.5)
    for one in (gated, moved):
        background = torch.full_like(features, 0)
        background[0, 0] = -1.0
        one.learn_prototypes(background, torch.zeros_like(truth), ones)
        one.learn_prototypes(features, truth, ones)
    assert gated(output).weight.flatten().tolist() == [1, 1, 0, 1]
    assert moved(output).target.flatten().tolist() == [1, 1, 2, 2]


@pytest.mark.parametrize(
    ("labels", "network", "ingredients", "message"),
    [
        ({"whole": [1, 2], "core": 2}, "unet", {}, "use unlabelled.method=pseudo-labels"),
        ({"organ": 1}, "segresnet", {"prototype_share": 0.3}, "segresnet shows no features"),
        ({"organ": 1}, "vnet", {"affinity_weight": 0.1}, "vnet shows no features"),
    ],
)
def test_what_labels_or_network_do_not_allow_is_said_before_anything_is_trained(
    experiment, labels, network, ingredients, message
):
    config = with_unlabelled(experiment, method="mix-teacher", **ingredients)
    plan = SimpleNamespace(network=SimpleNamespace(name=network))
    with pytest.raises(ConfigError, match=message):
        check_ingredients(config, LabelMap.parse(labels), plan)
    check_ingredients(with_unlabelled(experiment, **ingredients), LabelMap.parse(labels), plan)


def weights(model: Path) -> dict[str, torch.Tensor]:
    return load_model(model).networks[0].state_dict()


def with_unlabelled(experiment, training=None, **unlabelled):
    """Two labelled cases, two unlabelled, two held out."""
    return experiment.model_copy(
        update={
            "dataset": experiment.dataset.model_copy(update={"train": ["case_0", "case_1"]}),
            "unlabelled": UnlabelledConfig(**unlabelled),
            "training": experiment.training.model_copy(update={"steps": 12, "checkpoint_every": 5} | (training or {})),
        }
    )


def test_a_labelled_weight_of_one_is_supervised_training_bit_for_bit(experiment, tmp_path):
    runs = [
        run_training(with_unlabelled(experiment, **unlabelled), tmp_path / name, RunOptions(device="cpu"))
        for name, unlabelled in (("alone", {}), ("mixed", {"method": "mix-teacher", "labelled_weight": 1.0}))
    ]
    alone, mixed = (weights(run.model) for run in runs)
    assert all(torch.equal(alone[name], mixed[name]) for name in alone)


def test_a_killed_mixed_run_resumes_to_the_same_weights(experiment, tmp_path, monkeypatch):
    config = with_unlabelled(
        experiment,
        method="mix-teacher",
        prototype_share=0.3,
        affinity_weight=0.1,
        threshold=0.4,
        adaptive_threshold=True,
    )
    whole = run_training(config, tmp_path / "whole", RunOptions(device="cpu"))
    real, calls = loop.descend, []

    def dies_at_step_9(*args):
        calls.append(1)
        if len(calls) == 9:
            raise KeyboardInterrupt
        return real(*args)

    monkeypatch.setattr(loop, "descend", dies_at_step_9)
    with pytest.raises(KeyboardInterrupt):
        run_training(config, tmp_path / "killed", RunOptions(device="cpu"))
    monkeypatch.undo()
    resumed = run_training(config, tmp_path / "killed", RunOptions(device="cpu"))
    for name, tensor in weights(whole.model).items():
        torch.testing.assert_close(weights(resumed.model)[name], tensor, rtol=1e-3, atol=1e-3)


def test_too_few_labelled_cases_fall_back_and_say_so(experiment, tmp_path, caplog):
    config = with_unlabelled(experiment, {"steps": 2}, method="mix-teacher", labelled_weight="auto")
    run_training(config, tmp_path / "run", RunOptions(device="cpu"))
    assert "too few patients have labelled cases to cross-validate: 2" in caplog.text
    assert '"weight": 0.5' in (tmp_path / "run/labelled_weight.json").read_text()


def test_the_labelled_weight_is_chosen_once_by_cross_validation(experiment, tmp_path):
    config = with_unlabelled(experiment, {"steps": 4}, method="mix-teacher")
    data = shutil.copytree(config.dataset.folder, tmp_path / "data")
    wishes = {"folder": data, "train": [f"case_{n}" for n in range(4)], "validation": []}
    dataset = config.dataset.model_copy(update=wishes)
    config = config.model_copy(update={"dataset": dataset})
    first = run_training(config, tmp_path / "run", RunOptions(device="cpu"))
    assert [trial.weight for trial in first.weight.trials] == [1.0, 0.5]
    assert all(set(trial.dice) == {f"case_{n}" for n in range(4)} for trial in first.weight.trials)
    written = (tmp_path / "run/labelled_weight.json").stat().st_mtime_ns
    again = run_training(config, tmp_path / "run", RunOptions(device="cpu"))
    assert again.weight == first.weight
    assert (tmp_path / "run/labelled_weight.json").stat().st_mtime_ns == written
    shutil.copy(data / "labels" / "case_1.nii.gz", data / "labels" / "case_0.nii.gz")  # a corrected mask
    (tmp_path / "other").mkdir()
    kept = tmp_path / "other/labelled_weight.json"
    shutil.copy(tmp_path / "run/labelled_weight.json", kept)
    run_training(config, tmp_path / "other", RunOptions(device="cpu"))
    assert kept.read_text() != (tmp_path / "run/labelled_weight.json").read_text()


@pytest.mark.parametrize(("folds", "remedy"), [(0, "give --lambda a number"), (3, "train without folds")])
def test_folds_that_hold_out_whoever_is_unlabelled_are_refused_at_once(experiment, tmp_path, folds, remedy):
    """case_5 is another scan of the patient of case_4."""
    config = with_unlabelled(experiment, method="mix-teacher", labelled_weight=0.5 if folds else "auto")
    whose = {"patients": r"(case_[0-3]|case_)", "train": [f"case_{n}" for n in range(5)], "validation": []}
    config = config.model_copy(update={"dataset": config.dataset.model_copy(update=whose)})
    with pytest.raises(DatasetError, match=f"all 1 unlabelled scans are of patients .* {remedy}"):
        run_training(config, tmp_path, RunOptions(device="cpu", folds=folds))
    assert not list(tmp_path.rglob("checkpoint.pt"))


def test_an_unlabelled_copy_of_a_held_out_scan_is_refused(experiment, blobs, tmp_path):
    folder = tmp_path / "data"
    for kind in ("images", "labels"):
        (folder / kind).mkdir(parents=True)
        for path in (blobs / kind).iterdir():
            (folder / kind / path.name).write_bytes(path.read_bytes())
    config = with_unlabelled(experiment, method="mix-teacher")
    config = config.model_copy(update={"dataset": config.dataset.model_copy(update={"folder": folder})})
    for original, message in (("case_4", "hold the same image as a training case"), ("case_0", "as a labelled one")):
        copy = folder / "images" / "copy.nii.gz"
        copy.write_bytes((folder / "images" / f"{original}.nii.gz").read_bytes())
        with pytest.raises(DatasetError, match=message):
            run_training(config, tmp_path / original, RunOptions(device="cpu"))


def test_no_unlabelled_scan_is_one_sentence(experiment, tmp_path):
    config = experiment.model_copy(update={"unlabelled": UnlabelledConfig(method="mix-teacher")})
    with pytest.raises(DatasetError, match="no unlabelled scan to learn from"):
        run_training(config, tmp_path, RunOptions(device="cpu"))
