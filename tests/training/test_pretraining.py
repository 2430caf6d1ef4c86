"""Pre-training: hidden voxels alone are learnt from, restoring beats the mean, and the weights arrive in a training."""

from __future__ import annotations

import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from torch import nn

from medseg.config import ExperimentConfig
from medseg.data.batches import Batch
from medseg.errors import DatasetError, ModelError, PlanError, ScanError
from medseg.networks.model import load_model
from medseg.networks.pretrained import load_pretrained
from medseg.outputs import NetworkOutput
from medseg.training import loop
from medseg.training.pretraining import Reconstruction, pretrain_then_train, run_pretraining
from medseg.training.run import RunOptions, run_training

CPU = RunOptions(device="cpu")


class Recorder(nn.Module):
    """Answers with a learnt constant and keeps what it was shown."""

    def __init__(self) -> None:
        super().__init__()
        self.level = nn.Parameter(torch.tensor(0.25))

    def forward(self, image: torch.Tensor) -> NetworkOutput:
        self.shown = image
        return NetworkOutput(self.level.expand_as(image) * 1)


def changed(config: ExperimentConfig, **sections: dict) -> ExperimentConfig:
    values = config.model_dump(mode="json")
    for section, fields in sections.items():
        values[section].update(fields)
    return ExperimentConfig.model_validate(values)


@pytest.fixture
def waves(blobs, tmp_path):
    """The labelled blobs and two unlabelled scans of smooth waves, which can be restored from their surroundings."""
    folder = tmp_path / "waves"
    shutil.copytree(blobs, folder)
    x, y, z = np.meshgrid(*map(np.arange, (22, 20, 18)), indexing="ij")
    for number in range(2):
        image = np.sin(0.25 * x + number) + np.cos(0.3 * y) + 0.1 * z
        nib.save(
            nib.Nifti1Image(image.astype(np.float32), np.diag([1.5, 1.5, 2, 1])),
            folder / f"images/wave_{number}.nii.gz",
        )
    return folder


@pytest.fixture
def short(experiment, waves):
    """Five steps of pre-training and of training."""
    wishes = {"pretraining": {"steps": 5}, "training": {"steps": 5}, "unlabelled": {"leave_out": False}}
    return changed(experiment, dataset={"folder": str(waves)}, **wishes)


def test_the_loss_is_the_mean_square_over_hidden_voxels_alone():
    torch.manual_seed(0)
    image, target = torch.randn(2, 2, 4, 4, 4), torch.randint(0, 2, (2, 4, 4, 4), dtype=torch.uint8)
    network = Recorder()
    terms = Reconstruction().step(network, Batch(image=image, target=target), 0.0)
    hidden = [(b, x, y, z) for b, x, y, z in np.argwhere(target.numpy() == 1)]
    errors = [(0.25 - float(image[b, c, x, y, z])) ** 2 for b, x, y, z in hidden for c in (0, 1)]
    assert terms["loss"].item() == pytest.approx(sum(errors) / len(errors), rel=1e-5)
    assert not network.shown[(target == 1)[:, None].expand_as(image)].any(), "hidden voxels must not be seen"
    visible = (target == 0)[:, None].expand_as(image)
    assert torch.equal(network.shown[visible], image[visible])

    image[visible] += 100  # what is visible has no say in what a constant costs
    assert Reconstruction().step(network, Batch(image=image, target=target), 0.0)["loss"].item() == pytest.approx(
        terms["loss"].item()
    )


def test_only_hidden_voxels_carry_a_gradient():
    torch.manual_seed(0)
    image, target = torch.randn(1, 1, 4, 4, 4), torch.zeros(1, 4, 4, 4, dtype=torch.uint8)
    target[0, :2] = 1
    logits = torch.zeros_like(image, requires_grad=True)
    terms = Reconstruction().step(lambda _: NetworkOutput(logits), Batch(image=image, target=target), 0.0)
    terms["loss"].backward()
    assert logits.grad[0, 0, :2].abs().min() > 0
    assert not logits.grad[0, 0, 2:].any()


def test_the_mean_explains_nothing_and_the_truth_everything():
    torch.manual_seed(0)
    image, target = torch.randn(1, 1, 4, 4, 4), torch.ones(1, 4, 4, 4, dtype=torch.uint8)
    batch = Batch(image=image, target=target)
    guess, truth = (NetworkOutput(answer) for answer in (image.mean().expand_as(image), image))
    assert Reconstruction().step(lambda _: guess, batch, 0.0)["explained"].item() == pytest.approx(0, abs=1e-6)
    assert Reconstruction().step(lambda _: truth, batch, 0.0)["explained"].item() == pytest.approx(1)


def test_restoring_beats_the_mean_on_scans_that_can_be_restored(experiment, waves, tmp_path):
    for image in (waves / "images").glob("case_*"):  # noise can't be restored: keep one labelled case for the plan
        if "case_0" not in image.name:
            image.unlink()
            (waves / "labels" / image.name).unlink()
    dataset = {"folder": str(waves), "validation": []}
    wishes = {"pretraining": {"steps": 60, "block": 4, "hidden": 0.4}, "unlabelled": {"leave_out": False}}
    config = changed(experiment, dataset=dataset, **wishes)
    run = run_pretraining(config, tmp_path / "run", CPU)
    assert run.scans == 3
    assert run.explained > 0.3
    assert load_pretrained(run.folder).explained == run.explained
    assert '"explained"' in (tmp_path / "run/pretraining/events.jsonl").read_text()


def test_held_out_scans_are_not_learnt_from_and_with_folds_no_labelled_one(short, tmp_path):
    run = run_pretraining(short, tmp_path / "run", CPU)
    scans = load_pretrained(run.folder).provenance["scans"]
    assert set(scans) == {"case_0", "case_1", "case_2", "case_3", "wave_0", "wave_1"}
    folded = run_pretraining(short, tmp_path / "folds", RunOptions(device="cpu", folds=2))
    assert load_pretrained(folded.folder).provenance["scans"] == ["wave_0", "wave_1"]


def test_scans_that_can_t_be_read_or_are_unlike_the_labelled_ones_are_left_out(short, tmp_path, waves, caplog):
    whole = (waves / "images/wave_0.nii.gz").read_bytes()
    (waves / "images/cut.nii.gz").write_bytes(whole[: len(whole) // 2])
    run = run_pretraining(changed(short, unlabelled={"leave_out": True}), tmp_path / "run", CPU)
    assert run.scans == 4
    assert {line.partition(",")[0] for line in (tmp_path / "run/left_out.csv").read_text().splitlines()[1:]} == {
        "cut", "wave_0", "wave_1",
    }  # fmt: skip
    assert "3 of 3 unlabelled scans are left out" in caplog.text
    with pytest.raises(ScanError, match="cut"):
        run_pretraining(short, tmp_path / "all", CPU)


def test_folds_without_unlabelled_scans_are_refused(experiment, tmp_path):
    with pytest.raises(DatasetError, match="held out of a fold"):
        run_pretraining(experiment, tmp_path / "run", RunOptions(device="cpu", folds=2))


def test_a_killed_pretraining_resumes_to_the_same_weights(short, tmp_path, monkeypatch):
    config = changed(short, training={"checkpoint_every": 2})
    whole = load_pretrained(run_pretraining(config, tmp_path / "whole", CPU).folder)
    real, calls = loop.descend, []

    def dies_at_step_4(*arguments):
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(loop, "descend", dies_at_step_4)
    with pytest.raises(KeyboardInterrupt):
        run_pretraining(config, tmp_path / "killed", CPU)
    monkeypatch.undo()
    resumed = load_pretrained(run_pretraining(config, tmp_path / "killed", CPU).folder)
    assert '"event": "resumed", "step": 2' in (tmp_path / "killed/pretraining/events.jsonl").read_text()
    assert resumed.explained == pytest.approx(whole.explained, abs=1e-3)
    for name, tensor in whole.weights.items():
        torch.testing.assert_close(resumed.weights[name], tensor, rtol=1e-3, atol=1e-3)


def test_a_training_starts_from_the_weights_and_keeps_their_plan(short, tmp_path):
    pretrained = run_pretraining(short, tmp_path / "first", CPU)
    frozen = changed(short, training={"freeze_encoder": True}, plan={"patch": [8, 8, 8]})
    run = run_training(frozen, tmp_path / "second", RunOptions(device="cpu", init=pretrained.folder))
    model, start = load_model(run.model), load_pretrained(pretrained.folder)
    assert model.plan.patch == (16, 16, 16)
    tensors = model.networks[0].state_dict()
    encoder = [name for name in start.weights if name.startswith("encoder.")]
    assert encoder
    assert all(torch.equal(tensors[name], start.weights[name]) for name in encoder)


def test_other_labels_may_be_learnt_from_them_but_not_other_channels(short, tmp_path, waves):
    pretrained = run_pretraining(short, tmp_path / "first", CPU)
    fewer = changed(short, dataset={"labels": {"any": [1, 2], "bright": 2}})
    run = run_training(fewer, tmp_path / "second", RunOptions(device="cpu", init=pretrained.folder))
    assert load_model(run.model).labels.targets == ("any", "bright")
    record = pretrained.folder / "pretrained.json"
    record.write_text(record.read_text().replace('"image"', '"flair"'))
    with pytest.raises(ModelError, match="weights to start from take flair"):
        run_training(short, tmp_path / "third", RunOptions(device="cpu", init=pretrained.folder))


def test_pretrain_then_train_is_both_in_one_folder_and_goes_on(short, tmp_path):
    stopped = pretrain_then_train(short, tmp_path / "run", RunOptions(device="cpu", max_seconds=1e-6))
    assert stopped.model is None
    assert not (tmp_path / "run/pretrained").exists()
    run = pretrain_then_train(short, tmp_path / "run", CPU)
    assert run.model == tmp_path / "run/model"
    apart = run_training(short, tmp_path / "apart", RunOptions(device="cpu", init=tmp_path / "run/pretrained"))
    for name, tensor in load_model(apart.model).networks[0].state_dict().items():
        torch.testing.assert_close(load_model(run.model).networks[0].state_dict()[name], tensor, rtol=1e-3, atol=1e-3)


def test_a_training_goes_on_where_its_pretraining_was_recorded_otherwise(short, tmp_path):
    """As on another machine: what is recorded of the same weights differs, and they are still the same start."""
    pretrained = run_pretraining(short, tmp_path / "run", CPU).folder
    begun = RunOptions(device="cpu", init=pretrained, max_seconds=1e-6)
    assert run_training(short, tmp_path / "run", begun).model is None
    run = pretrain_then_train(changed(short, training={"checkpoint_every": 1}), tmp_path / "run", CPU)
    assert run.model is not None
    assert '"event": "resumed"' in (tmp_path / "run/fit/events.jsonl").read_text()


def test_other_networks_are_refused_before_anything_is_prepared(short, tmp_path: Path):
    config = changed(short, network={"name": "segresnet"})
    with pytest.raises(PlanError, match="only the network unet"):
        run_pretraining(config, tmp_path / "run", CPU)
    assert not (tmp_path / "run/cache").exists()
