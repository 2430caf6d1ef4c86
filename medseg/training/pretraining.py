"""Self-supervised pre-training: a network restores hidden blocks of scans that nobody need have labelled.

Takes the training's plan, optimiser, journal and checkpoints (`medseg.training.loop`), in folders of its
own: ``OUTPUT/pretraining`` while it runs, ``OUTPUT/pretrained`` when it is done. Sources of the task:
`medseg.data.hiding`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from medseg.catalog.splits import check_unlabelled, without_patients
from medseg.config import ExperimentConfig, TrainingConfig
from medseg.data.batches import Batch
from medseg.data.hiding import HIDDEN, HidingStream
from medseg.data.sampling import Randomness
from medseg.errors import DatasetError
from medseg.networks.build import build_network
from medseg.networks.pretrained import Pretrained, body, check_pretrainable, holds, save_pretrained
from medseg.plan import Plan
from medseg.preprocessing.cache import Cache
from medseg.preprocessing.cached_case import CachedCase
from medseg.provenance import machine, package_versions
from medseg.training.deadline import deadline_in, seconds_left
from medseg.training.journal import Journal
from medseg.training.loop import Validate, fit
from medseg.training.methods import Terms
from medseg.training.mixing import Teacher
from medseg.training.processes import first_process_first, launch
from medseg.training.run import RunOptions, TrainingRun, run_training
from medseg.training.setup import Setup, set_up
from medseg.training.strangers import find_strangers

MEASURED_BATCHES = 8
"""Batches that were not trained on, of which the explained share is the mean."""


class Reconstruction(nn.Module):
    """Mean squared error of hidden voxels; a `Method`.

    Hidden voxels are shown as 0, which normalisation makes the mean of the scan (MR) or of the labelled
    structures (CT).
    """

    def step(self, network: nn.Module, batch: Batch, progress: float) -> Terms:
        """Return `loss`, and `explained`: the share of the hidden voxels' variance that is explained."""
        image, hidden = batch["image"], batch["target"] == HIDDEN
        restored = network(image.masked_fill(hidden[:, None], 0.0)).logits
        loss, variance = _errors(restored.float(), image, hidden)
        return {"loss": loss, "explained": 1 - loss.detach() / variance.clamp_min(1e-8)}


def _errors(restored: Tensor, image: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean squared error and variance over the hidden voxels of images (B, C, *spatial)."""
    voxels = image.movedim(1, -1)[hidden]
    error = ((restored.movedim(1, -1)[hidden] - voxels) ** 2).mean()
    return error, voxels.var(0, correction=0).mean()


@dataclass(frozen=True, slots=True)
class PretrainingTask:
    """A network that learns to restore hidden blocks; a `medseg.training.loop.Lesson`.

    Attributes
    ----------
    cases : preprocessed scans.
    plan : the training's.
    """

    cases: tuple[CachedCase, ...]
    plan: Plan
    config: ExperimentConfig
    folder: Path

    @property
    def settings(self) -> TrainingConfig:
        """The training's optimisation, for the steps of pre-training."""
        return self.config.training.model_copy(
            update={"steps": self.config.pretraining.steps, "freeze_encoder": False, "validate_every": 0, "patience": 0}
        )

    @property
    def validate(self) -> Validate | None:
        """Nothing is held out."""
        return None

    def network(self) -> nn.Module:
        """Return the plan's network with one output a channel, at full resolution alone."""
        topology = self.plan.network.model_copy(update={"deep_supervision": False})
        return build_network(self.plan.model_copy(update={"network": topology}), len(self.plan.channels))

    def method(self, teacher: Teacher) -> Reconstruction:
        """Return the task of restoring; it needs no teacher."""
        return Reconstruction()

    def stream(self, randomness: Randomness, device: torch.device) -> HidingStream:
        """Return patches with hidden blocks."""
        config = self.config
        return HidingStream(self.cases, self.plan, config.augmentation, config.pretraining, randomness, device)

    def identity(self) -> dict[str, Any]:
        """Return what decides the result beside the settings."""
        return {
            "augmentation": self.config.augmentation.model_dump(mode="json"),
            "pretraining": self.config.pretraining.model_dump(mode="json"),
            "plan": self.plan.model_dump(mode="json", exclude={"reasons"}),
            "cases": [case.key for case in self.cases],
        }


@dataclass(frozen=True, slots=True)
class PretrainingRun:
    """What came of a pre-training.

    Attributes
    ----------
    folder : the folder of weights; None when time ran out first.
    explained : share of the variance of hidden voxels that is explained, in patches and blocks not trained on.
    scans : number of scans it learnt from.
    """

    folder: Path | None
    plan: Plan
    scans: int
    explained: float | None = None


def run_pretraining(config: ExperimentConfig, output: Path, options: RunOptions | None = None) -> PretrainingRun:
    """Pre-train on all scans of a dataset but the held-out ones, or go on with a run that was stopped.

    Parameters
    ----------
    output : run folder; `medseg.training.run.run_training` may use the same one.
    options : with `folds`, labelled patients are left out: each is held out of some fold.

    Raises
    ------
    MedsegError
        For every problem of configuration, data, plan, memory or disk that a user can mend.
    """
    options = options or RunOptions()
    deadline = deadline_in(options.max_seconds)
    fabric = launch(options.device, config)
    setup = first_process_first(fabric, lambda: set_up(config, output))
    check_pretrainable(setup.plan)
    cache = Cache(options.cache or output / "cache")
    cases = first_process_first(fabric, lambda: _prepare(setup, config, output, options.folds, cache))
    task = PretrainingTask(tuple(cases), setup.plan, config, output / "pretraining")
    with Journal(task.folder, task.settings.steps, active=fabric.is_global_zero, screen=options.screen) as journal:
        state = fit(task, fabric, journal, deadline)
    if not state.finished:
        return PretrainingRun(None, setup.plan, len(cases))
    explained = measure(state.average.module.eval(), task, fabric)
    folder = output / "pretrained"
    weights = body(state.average.module)
    if fabric.is_global_zero and not holds(folder, weights):  # a training from them knows them by the folder's digest
        save_pretrained(Pretrained(weights, setup.plan, explained, _provenance(task)), folder)
    fabric.barrier()
    return PretrainingRun(folder, setup.plan, len(cases), explained)


def pretrain_then_train(config: ExperimentConfig, output: Path, options: RunOptions | None = None) -> TrainingRun:
    """Pre-train in the run folder, then train from the weights; both go on where they were stopped.

    Raises
    ------
    MedsegError
        As `run_pretraining` and `medseg.training.run.run_training`.
    """
    options = options or RunOptions()
    deadline = deadline_in(options.max_seconds)
    first = run_pretraining(config, output, options)
    if first.folder is None:
        return TrainingRun(None, first.plan)
    return run_training(config, output, replace(options, init=first.folder, max_seconds=seconds_left(deadline)))


def _prepare(setup: Setup, config: ExperimentConfig, output: Path, folds: int, cache: Cache) -> list[CachedCase]:
    """Return the labelled and unlabelled scans that no held-out one is compared with, ready for reading.

    Unlabelled ones that don't seem to belong are left out, whatever the training will do with them.

    Raises
    ------
    DatasetError
        If an unlabelled scan is a copy of another side's, or, with folds, if nothing is left.
    """
    unlabelled = tuple(replace(case, mask=None) for case in setup.dataset.unlabelled)
    check_unlabelled(unlabelled, setup.train, setup.dataset.set_apart)
    strange = find_strangers(unlabelled, setup, output, cache.folder) if config.unlabelled.leave_out else {}
    kept = tuple(case for case in unlabelled if case.id not in strange)
    scans = without_patients(kept, setup.train) if folds else (*setup.train, *kept)
    if not scans:
        raise DatasetError(
            "cross-validation needs unlabelled scans to pre-train on, because every labelled one is held out of a "
            "fold; add scans without masks, or train with folds=0"
        )
    return cache.prepare(scans, setup.plan, setup.dataset.labels, torch.get_num_threads())


def measure(network: nn.Module, task: PretrainingTask, fabric: Fabric) -> float:
    """Return the share of variance explained in batches of steps that were not trained."""
    settings, method = task.settings, Reconstruction()
    stream = task.stream(Randomness(settings.seed, fabric.global_rank, fabric.world_size), fabric.device)
    with torch.no_grad():
        shares = [
            method.step(network, fabric.to_device(stream.batch(settings.steps + extra)), 1.0)["explained"]
            for extra in range(MEASURED_BATCHES)
        ]
    return round(fmean(float(share) for share in shares), 4)


def _provenance(task: PretrainingTask) -> dict[str, Any]:
    return {
        "config": task.config.model_dump(mode="json", exclude={"dataset": {"folder"}}),
        "scans": [case.id for case in task.cases],
        "versions": package_versions(),
        "machine": machine(),
    }
