"""Whole training runs on two blobs: they learn, resume to the same weights, cross-validate, fine-tune."""

import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins import MixedPrecision

from medseg.config import ExperimentConfig, TrainingConfig, load_config
from medseg.errors import ConfigError, DatasetError, ModelError
from medseg.networks.model import load_model, save_model
from medseg.rules import PostprocessingRules
from medseg.training import loop, run
from medseg.training.run import RunOptions, run_training
from medseg.training.setup import set_up


def changed(config: ExperimentConfig, **sections: dict) -> ExperimentConfig:
    values = config.model_dump(mode="json")
    for section, fields in sections.items():
        values[section].update(fields)
    return ExperimentConfig.model_validate(values)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_model(folder).networks[0].state_dict()


def test_a_killed_run_goes_on_with_the_scale_that_its_loss_had(experiment, tmp_path, monkeypatch):
    """In fp16, which Fabric itself does on GPUs alone; a scale that starts anew overflows anew and skips steps."""

    def launch(*_: object) -> Fabric:
        scaler = torch.amp.GradScaler("cpu", init_scale=2.0**24)
        fabric = Fabric(accelerator="cpu", devices=1, plugins=MixedPrecision("16-mixed", "cpu", scaler=scaler))
        fabric.launch()
        return fabric

    real_step, scales = loop.descend, []

    def dies_once(network, optimiser, loss, fabric, clip_norm):
        if len(scales) == 2 and not (tmp_path / "dead").exists():
            (tmp_path / "dead").touch()
            raise KeyboardInterrupt
        real_step(network, optimiser, loss, fabric, clip_norm)
        scales.append(fabric.strategy.precision.scaler.get_scale())

    monkeypatch.setattr(run, "launch", launch)
    monkeypatch.setattr(loop, "descend", dies_once)
    config = changed(experiment, training={"steps": 4, "checkpoint_every": 2, "precision": "fp16"})
    with pytest.raises(KeyboardInterrupt):
        run_training(config, tmp_path / "run", RunOptions(device="cpu"))
    run_training(config, tmp_path / "run", RunOptions(device="cpu"))
    assert scales == [2.0**23, 2.0**22, 2.0**21, 2.0**20], "too large still, so halved at each step"


def test_two_blobs_are_learnt_and_the_run_folder_tells_the_story(experiment, tmp_path):
    run = run_training(experiment, str(tmp_path / "run"), RunOptions(device="cpu"))
    assert run.mean_dice > 0.85
    assert run.model == tmp_path / "run/model"
    model = load_model(run.model)
    assert model.labels.targets == ("dim", "bright")
    assert model.scores["mean"] == pytest.approx(run.mean_dice)
    assert model.reference.structures["dim"].volume_ml.cases == 4
    assert model.reference.soft_dice["dim"].cases == 2
    assert model.modalities == ("MR",)
    assert model.reference.calibration is None
    names = {path.name for path in (tmp_path / "run").iterdir()}
    assert {"config.yaml", "plan.yaml", "fingerprint.json", "validation.csv", "model", "fit"} <= names
    events = [json.loads(line) for line in (tmp_path / "run/fit/events.jsonl").read_text().splitlines()]
    losses = [event["loss"] for event in events if event["event"] == "step"]
    assert len(losses) == 6
    assert losses[-1] < losses[0]


def test_a_run_killed_at_any_step_resumes_to_the_same_weights(experiment, tmp_path, monkeypatch):
    config = changed(experiment, training={"steps": 24, "checkpoint_every": 10}, network={"dropout": 0.2})
    whole = run_training(config, tmp_path / "whole", RunOptions(device="cpu"))

    real_step, calls = loop.descend, []

    def dies_at_step_17(*args):
        calls.append(1)
        if len(calls) == 17:
            raise KeyboardInterrupt
        return real_step(*args)

    monkeypatch.setattr(loop, "descend", dies_at_step_17)
    with pytest.raises(KeyboardInterrupt):
        run_training(config, tmp_path / "killed", RunOptions(device="cpu"))
    monkeypatch.undo()
    resumed = run_training(config, tmp_path / "killed", RunOptions(device="cpu"))
    events = (tmp_path / "killed/fit/events.jsonl").read_text()
    assert '"event": "resumed", "step": 10' in events
    for name, tensor in weights(whole.model).items():
        torch.testing.assert_close(weights(resumed.model)[name], tensor, rtol=1e-3, atol=1e-3)


def test_time_limit_stops_with_a_checkpoint_and_the_same_command_finishes(experiment, tmp_path):
    config = changed(experiment, training={"steps": 12})
    first = run_training(config, tmp_path / "run", RunOptions(device="cpu", max_seconds=1e-6))
    assert first.model is None
    assert (tmp_path / "run/fit/checkpoint.pt").exists()
    assert run_training(config, tmp_path / "run", RunOptions(device="cpu")).model is not None


def test_another_configuration_in_the_same_folder_is_refused(experiment, tmp_path):
    run_training(changed(experiment, training={"steps": 2}), tmp_path / "run", RunOptions(device="cpu"))
    with pytest.raises(ModelError, match="another configuration"):
        run_training(changed(experiment, training={"steps": 3}), tmp_path / "run", RunOptions(device="cpu"))
    assert load_config(tmp_path / "run" / "config.yaml").training.steps == 2, "it says what was trained"


def test_scans_that_look_like_ct_but_state_no_modality_are_warned_of(experiment, tmp_path, blobs, caplog):
    shutil.copytree(blobs, tmp_path / "ct")
    for path in (tmp_path / "ct" / "images").iterdir():
        scan = nib.load(path)
        nib.save(nib.Nifti1Image(scan.get_fdata().astype(np.float32) - 1000, scan.affine), path)
    for modality, warned in ((None, True), ("other", False)):
        dataset = {"folder": str(tmp_path / "ct"), "modality": modality}
        set_up(changed(experiment, dataset=dataset), tmp_path / f"run_{modality}")
        assert ("give --set dataset.modality=ct" in caplog.text) is warned
        caplog.clear()


def test_wishes_that_a_plan_stands_against_are_refused(experiment, tmp_path):
    config = changed(experiment, training={"steps": 2})
    set_up(config, tmp_path / "run")
    wishes = changed(config, network={"features": 4}, plan={"spacing": [2, 2, 2]})
    with pytest.raises(ConfigError, match=r"made with plan.spacing=None, network.features=8 .* delete it"):
        run_training(wishes, tmp_path / "run", RunOptions(device="cpu"))
    assert load_config(tmp_path / "run" / "config.yaml").network.features == 8
    with pytest.raises(ConfigError, match="made with dataset.modality=mr"):
        set_up(changed(config, dataset={"modality": "ct"}), tmp_path / "run")
    (tmp_path / "run" / "plan.yaml").unlink()
    assert run_training(wishes, tmp_path / "run", RunOptions(device="cpu")).plan.spacing == (2, 2, 2)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_run_that_is_interrupted_keeps_the_step_at_work(experiment, tmp_path, monkeypatch, number):
    config = changed(experiment, training={"steps": 12, "checkpoint_every": 100})
    whole = run_training(config, tmp_path / "whole", RunOptions(device="cpu"))
    real, steps = loop.descend, []

    def interrupted(*arguments):
        steps.append(1)
        if len(steps) == 7:
            os.kill(os.getpid(), number)
        real(*arguments)

    monkeypatch.setattr(loop, "descend", interrupted)
    before = signal.getsignal(number)
    with pytest.raises(KeyboardInterrupt):
        run_training(config, tmp_path / "run", RunOptions(device="cpu"))
    assert signal.getsignal(number) is before
    steps.extend([1] * 100)
    again = run_training(config, tmp_path / "run", RunOptions(device="cpu"))
    assert len(steps) == 7 + 100 + 5
    expected, found = weights(whole.model), weights(again.model)
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_copies_in_any_two_folds_are_found_before_one_trains(experiment, tmp_path, blobs):
    folder = tmp_path / "blobs"
    shutil.copytree(blobs, folder)
    for kind in ("images", "labels"):
        shutil.copy(folder / kind / "case_0.nii.gz", folder / kind / "copy.nii.gz")
    config = changed(experiment, dataset={"folder": str(folder), "validation": []})
    with pytest.raises(DatasetError, match="hold the same image"):
        run_training(config, tmp_path / "run", RunOptions(device="cpu", folds=7))
    assert not list((tmp_path / "run").glob("fold_*"))


@pytest.mark.parametrize("folds", [-2, 1])
def test_folds_are_none_or_several(experiment, tmp_path, folds):
    with pytest.raises(ConfigError, match=f"{folds} is no number of folds"):
        run_training(experiment, tmp_path / "run", RunOptions(device="cpu", folds=folds))


def test_loader_threads_are_as_told_or_by_the_device():
    told, auto = TrainingConfig(loader_threads=3), TrainingConfig()
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    assert [loop._loader_threads(told, device) for device in (cpu, gpu)] == [3, 3]
    assert loop._loader_threads(auto, cpu) == 1
    assert 1 <= loop._loader_threads(auto, gpu) <= loop.MOST_LOADER_THREADS


def test_damaged_checkpoint_is_named(experiment, tmp_path):
    config = changed(experiment, training={"steps": 2})
    run_training(config, tmp_path / "run", RunOptions(device="cpu"))
    checkpoint = tmp_path / "run/fit/checkpoint.pt"
    checkpoint.write_bytes(checkpoint.read_bytes()[:1000])
    with pytest.raises(ModelError, match=r"checkpoint\.pt.*delete it to start again"):
        run_training(config, tmp_path / "run", RunOptions(device="cpu"))


def test_cross_validation_ensembles_the_folds_and_scores_every_case_out_of_fold(experiment, tmp_path):
    config = changed(experiment, training={"steps": 3}, dataset={"validation": []})
    run = run_training(config, tmp_path / "run", RunOptions(device="cpu", folds=2))
    model = load_model(run.model)
    assert len(model.networks) == 2
    assert model.postprocessing is not None
    assert {row.case for row in run.scores} == {f"case_{i}" for i in range(6)}


def test_fine_tuning_with_a_frozen_encoder_changes_the_decoder_only(experiment, tmp_path):
    base = run_training(changed(experiment, training={"steps": 4}), tmp_path / "base", RunOptions(device="cpu"))
    config = changed(experiment, training={"steps": 4, "freeze_encoder": True})
    tuned = run_training(config, tmp_path / "tuned", RunOptions(device="cpu", init=base.model))
    before, after = weights(base.model), weights(tuned.model)
    encoder = [name for name in before if name.startswith("encoder")]
    assert encoder
    assert all(torch.equal(before[name], after[name]) for name in encoder)
    assert any(not torch.equal(before[name], after[name]) for name in before if name.startswith("decoder"))


def test_an_encoder_that_has_learnt_nothing_is_not_frozen(experiment, tmp_path):
    config = changed(experiment, training={"freeze_encoder": True})
    with pytest.raises(ConfigError, match="start from a model with --init"):
        run_training(config, tmp_path / "run", RunOptions(device="cpu"))


def test_a_fine_tuned_model_keeps_the_clean_up_and_goes_on_from_its_own_start_alone(experiment, tmp_path):
    def start(name: str, seed: int) -> Path:
        config = changed(experiment, training={"steps": 2, "seed": seed})
        model = run_training(config, tmp_path / name, RunOptions(device="cpu")).model
        save_model(replace(load_model(model), postprocessing=PostprocessingRules(), modalities=("CT",)), model)
        return model

    one, other = start("one", 1), start("other", 2)
    config = changed(experiment, training={"steps": 2}, dataset={"modality": "other"})
    tuned = run_training(config, tmp_path / "tuned", RunOptions(device="cpu", init=one))
    assert load_model(tuned.model).postprocessing == PostprocessingRules()
    assert load_model(tuned.model).modalities == ("CT",)  # the new scans state none
    with pytest.raises(ModelError, match="started with another configuration"):
        run_training(config, tmp_path / "tuned", RunOptions(device="cpu", init=other))


def test_held_out_cases_that_the_start_has_learnt_from_are_named(experiment, tmp_path):
    config = changed(experiment, training={"steps": 2})
    base = run_training(config, tmp_path / "base", RunOptions(device="cpu"))
    assert base.seen == ()
    apart = run_training(config, tmp_path / "apart", RunOptions(device="cpu", init=base.model))
    assert apart.seen == ()
    everything = changed(config, dataset={"validation": []})
    folded = run_training(everything, tmp_path / "folds", RunOptions(device="cpu", init=base.model, folds=2))
    assert folded.seen == ("case_0", "case_1", "case_2", "case_3")


def test_wishes_that_the_plan_of_the_start_does_not_fulfil_are_named(experiment, tmp_path, caplog):
    config = changed(experiment, plan={"patch": [14, 16, 16]}, training={"steps": 2})
    base = run_training(config, tmp_path / "base", RunOptions(device="cpu"))
    run_training(config, tmp_path / "same", RunOptions(device="cpu", init=base.model))
    assert "not heeded" not in caplog.text
    network = {"residual": True, "dropout": 0.2}
    other = changed(config, plan={"patch": [20, 16, 16], "batch": 4, "dimensions": 2}, network=network)
    run_training(other, tmp_path / "other", RunOptions(device="cpu", init=base.model))
    plan = "plan.dimensions=2, plan.batch=4, plan.patch=(20, 16, 16)"
    named = f"{plan}, network.residual=True, network.dropout=0.2: not heeded"
    assert named in caplog.text


def test_early_stop_ends_before_the_last_step(experiment, tmp_path):
    config = changed(experiment, training={"steps": 60, "learning_rate": 1e-9, "validate_every": 2, "patience": 2})
    run = run_training(config, tmp_path / "run", RunOptions(device="cpu"))
    assert run.model is not None
    events = [json.loads(line) for line in (tmp_path / "run/fit/events.jsonl").read_text().splitlines()]
    assert max(event["step"] for event in events) < 60


def test_two_dimensions_take_the_same_road(experiment, tmp_path):
    config = changed(experiment, plan={"dimensions": 2, "patch": [16, 16, 1], "batch": 8}, training={"steps": 150})
    run = run_training(config, tmp_path / "run", RunOptions(device="cpu"))
    assert run.mean_dice > 0.75


def test_no_labelled_training_case_is_one_sentence(experiment, tmp_path, blobs):
    config = changed(experiment, dataset={"train": [], "validation": []})
    with pytest.raises(DatasetError, match="mask"):
        run_training(config, tmp_path / "run", RunOptions(device="cpu"))


def under_torchrun(folder: Path, config: ExperimentConfig, folds: int = 0, before: str = "") -> str:
    """Train in `folder`/run with two processes, each of which does `before` first; return what they print."""
    script = folder / "train.py"
    script.write_text(
        textwrap.dedent(
            f"""
            import os
            from pathlib import Path
            from medseg.config import ExperimentConfig
            from medseg.training import run
            {before}
            config = ExperimentConfig.model_validate({config.model_dump(mode="json")!r})
            options = run.RunOptions(device="cpu", folds={folds})
            trained = run.run_training(config, Path({str(folder / "run")!r}), options)
            print("Dice", trained.mean_dice)
            """
        )
    )
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", str(script)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.mark.slow
@pytest.mark.parametrize(("folds", "fit"), [(0, "fit"), (2, "fold_1")])
def test_torchrun_with_two_processes_trains_one_model(experiment, tmp_path, folds, fit):
    under_torchrun(tmp_path, changed(experiment, training={"steps": 6}), folds)
    assert len(load_model(tmp_path / "run/model").networks) == max(1, folds)
    lines = (tmp_path / "run" / fit / "events.jsonl").read_text().splitlines()
    assert sum('"event": "step"' in line for line in lines) == 1, "one process writes"


@pytest.mark.slow
def test_under_torchrun_every_process_knows_the_scores(experiment, tmp_path):
    told = under_torchrun(tmp_path, changed(experiment, training={"steps": 6})).splitlines()
    assert len(told) == 2
    assert told[0] == told[1] != "Dice None"


@pytest.mark.slow
def test_a_weight_that_the_first_process_chose_before_others_looked_stops_none_of_them(experiment, blobs, tmp_path):
    shutil.copytree(blobs, tmp_path / "data")
    (tmp_path / "data/labels/case_0.nii.gz").unlink()
    config = changed(
        experiment,
        dataset={"folder": str(tmp_path / "data"), "train": ["case_1", "case_2", "case_3"]},
        training={"steps": 6},
        unlabelled={"method": "mix-teacher"},
    )
    late = """if os.environ["RANK"] == "1":
                from medseg.training.labelled_weight import Choice
                run.load_choice = lambda *_: Choice(weight=0.5, reason="chosen meanwhile")
            """
    under_torchrun(tmp_path, config, before=late)
    assert (tmp_path / "run/model").is_dir()


@pytest.mark.slow
def test_every_process_goes_on_with_its_own_memory(experiment, tmp_path):
    (tmp_path / "kept").mkdir()
    shutil.copytree(experiment.dataset.folder, tmp_path / "data")
    (tmp_path / "data/labels/case_0.nii.gz").unlink()
    config = changed(
        experiment,
        dataset={"folder": str(tmp_path / "data"), "validation": []},
        training={"steps": 4},
        unlabelled={"method": "mix-teacher", "labelled_weight": 0.5, "labelled_first": 0, "affinity_weight": 1.0},
    )
    under_torchrun(tmp_path, config, before="run.deadline_in = lambda _: 0.0")
    assert not (tmp_path / "run/model").exists()
    under_torchrun(tmp_path, config)
    under_torchrun(tmp_path / "kept", config)
    stopped, kept = weights(tmp_path / "run/model"), weights(tmp_path / "kept/run/model")
    assert all(torch.equal(stopped[name], kept[name]) for name in kept)
