"""The one training loop: setup or resume, then step after step until done, stopped or out of time.

On Lightning Fabric, which does devices, autocast, gradient scaling and DDP; the control flow stays
here. A run killed at any moment goes on from its last checkpoint to the same result: the batch of a
step depends on nothing but the seed and the step.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from lightning_fabric import Fabric
from torch import nn
from torch.optim.swa_utils import AveragedModel

from medseg.config import ExperimentConfig, TrainingConfig
from medseg.data.batches import Batch, Stream, keep_until_used, prefetch
from medseg.data.sampling import Randomness
from medseg.errors import ModelError
from medseg.inference.hardware import choose_dtype
from medseg.labels import LabelMap
from medseg.networks.build import build_network, encoder_parameters
from medseg.networks.layout import lay_out
from medseg.outputs import NetworkOutput
from medseg.plan import Plan
from medseg.preprocessing.cached_case import CachedCase
from medseg.provenance import digest_json, usable_cores
from medseg.training.checkpoint import TrainingState, load_checkpoint, memory, save_checkpoint
from medseg.training.distillation import identity
from medseg.training.interruption import interruption
from medseg.training.journal import Journal
from medseg.training.lessons import build_method, build_stream
from medseg.training.methods import Method
from medseg.training.mixing import Teacher
from medseg.training.optimisation import averaged, build_optimiser, learning_rate, set_learning_rate
from medseg.training.start import Start

MOST_LOADER_THREADS = 4
"""Threads that a GPU's batches are prepared by, at most: they read, the GPU augments; more wait for each other."""

LOG_EVERY = 10
"""Steps between log lines: often enough to see trouble, seldom enough to cost nothing."""

Validate = Callable[[nn.Module], float]
"""Segments the held-out cases with a network and returns their mean Dice."""


class Lesson(Protocol):
    """What one network learns, and from what; the loop knows nothing else of it.

    Attributes
    ----------
    settings : the optimisation.
    folder : where checkpoint and journal go.
    validate : called every `validate_every` steps on the first process.
    """

    @property
    def settings(self) -> TrainingConfig: ...  # noqa: D102

    @property
    def folder(self) -> Path: ...  # noqa: D102

    @property
    def validate(self) -> Validate | None: ...  # noqa: D102

    def network(self) -> nn.Module:
        """Return the network with the weights to start from; fresh ones are drawn from torch's generator."""
        ...

    def method(self, teacher: Teacher) -> Method:
        """Return what turns a batch into a loss; `teacher` is the averaged network."""
        ...

    def stream(self, randomness: Randomness, device: torch.device) -> Stream:
        """Return the batches, made on a device."""
        ...

    def identity(self) -> dict[str, Any]:
        """Return, beside the settings, what decides the result, as JSON values."""
        ...


@dataclass(frozen=True, slots=True)
class Task:
    """A network that learns to segment; a `Lesson`.

    Attributes
    ----------
    cases : labelled, preprocessed training cases.
    unlabelled : preprocessed cases that no person labelled; only some methods look at them.
    folder : where checkpoint and journal go.
    start : weights to start from; None: fresh ones from the seed.
    validate : called every `training.validate_every` steps on the first process.
    """

    cases: tuple[CachedCase, ...]
    plan: Plan
    labels: LabelMap
    config: ExperimentConfig
    folder: Path
    start: Start | None = None
    validate: Validate | None = None
    unlabelled: tuple[CachedCase, ...] = ()

    @property
    def settings(self) -> TrainingConfig:
        """The optimisation."""
        return self.config.training

    def network(self) -> nn.Module:
        """Return the plan's network."""
        network = build_network(self.plan, self.labels.outputs)
        if self.start is not None:
            self.start.put_into(network)
        return network

    def method(self, teacher: Teacher) -> Method:
        """Return the configured method."""
        return build_method(self.config, self.labels, self.plan, teacher)

    def stream(self, randomness: Randomness, device: torch.device) -> Stream:
        """Return patches of the cases."""
        return build_stream(self.cases, self.unlabelled, self.plan, self.config, randomness, device)

    def identity(self) -> dict[str, Any]:
        """Return what decides the result beside the settings."""
        return {
            "augmentation": self.config.augmentation.model_dump(mode="json"),
            "plan": self.plan.model_dump(mode="json", exclude={"reasons"}),
            "targets": [self.labels.members(target) for target in range(len(self.labels.targets))],
            "ignore": self.labels.ignore,
            "unlabelled": self.config.unlabelled.model_dump(mode="json", exclude={"pseudo_labels"}),
            "cases": [case.key for case in self.cases],
            "unlabelled cases": [case.key for case in self.unlabelled],
            **identity(self.config.distillation),
            **({"start": self.start.digest} if self.start else {}),
        }


def fit(lesson: Lesson, fabric: Fabric, journal: Journal, deadline: float | None = None) -> TrainingState:
    """Train until the last step, an early stop or the deadline, and return the state.

    Ctrl-C and SIGTERM end it behind the step at work, with a checkpoint and `KeyboardInterrupt`.

    Parameters
    ----------
    deadline : `time.monotonic()` at which to save and return, with ``finished`` still False.

    Raises
    ------
    ModelError
        If a checkpoint in the folder belongs to another run, or the loss is no longer finite.
    """
    settings = lesson.settings
    state = _start(lesson, fabric)
    checkpoint = lesson.folder / "checkpoint.pt"
    if checkpoint.exists():
        load_checkpoint(state, checkpoint, fabric.global_rank)
        journal.resumed(state.step)
    trainee, optimiser = fabric.setup(state.network, state.optimiser)
    randomness = Randomness(settings.seed, fabric.global_rank, fabric.world_size)
    stream = lesson.stream(randomness, fabric.device)
    trainee.train()
    began = time.monotonic() - state.elapsed_s  # as if earlier sittings had gone before without a pause
    remaining = settings.steps if not state.finished else state.step
    with interruption() as wanted:
        for batch in prefetch(stream, state.step, remaining, _loader_threads(settings, fabric.device)):
            set_learning_rate(optimiser, learning_rate(state.step, settings))
            terms = state.method.step(trainee, _to(batch, fabric), state.step / settings.steps)
            descend(trainee, optimiser, terms["loss"], fabric, settings.clip_norm)
            state.average.update_parameters(state.network)
            state.step += 1
            state.elapsed_s = time.monotonic() - began
            if state.step % LOG_EVERY == 0 or state.step == settings.steps:
                _log(journal, state, terms, optimiser.param_groups[0]["lr"])
            if lesson.validate and settings.validate_every and state.step % settings.validate_every == 0:
                _validate(state, lesson, fabric, journal)
            state.finished = state.finished or state.step == settings.steps
            late = _any_process(fabric, wanted.is_set() or (deadline is not None and time.monotonic() > deadline))
            if state.finished or late or state.step % settings.checkpoint_every == 0:
                _save(state, checkpoint, fabric)
            if state.finished or late:
                break
    if wanted.is_set() and not state.finished:
        raise KeyboardInterrupt
    return state


def _loader_threads(settings: TrainingConfig, device: torch.device) -> int:
    """Return how many threads prepare batches; on a CPU more would take cores from the network."""
    if settings.loader_threads != "auto":
        return settings.loader_threads
    return 1 if device.type == "cpu" else max(1, min(MOST_LOADER_THREADS, usable_cores() - 1))


def descend(
    network: nn.Module, optimiser: torch.optim.Optimizer, loss: torch.Tensor, fabric: Fabric, clip_norm: float
) -> None:
    """Do one optimiser step down the gradient of a loss."""
    optimiser.zero_grad(set_to_none=True)
    fabric.backward(loss)
    fabric.clip_gradients(network, optimiser, max_norm=clip_norm, error_if_nonfinite=False)
    optimiser.step()


def _start(lesson: Lesson, fabric: Fabric) -> TrainingState:
    settings = lesson.settings
    torch.manual_seed(settings.seed)
    network = lesson.network()
    if settings.freeze_encoder:
        for parameter in encoder_parameters(network):
            parameter.requires_grad_(False)
    network = lay_out(network.to(fabric.device), choose_dtype(settings.precision, fabric.device))
    average = averaged(network, settings.ema_decay)
    return TrainingState(
        network=network,
        average=average,
        method=lesson.method(_teacher(average, fabric)).to(fabric.device),
        optimiser=build_optimiser(network.parameters(), settings),
        precision=fabric.strategy.precision,
        settings=_digest(lesson, fabric.world_size),
    )


def _teacher(average: AveragedModel, fabric: Fabric) -> Teacher:
    """Return how the averaged network answers, in evaluation mode."""
    average.eval()

    def answer(image: torch.Tensor) -> NetworkOutput:
        with torch.no_grad(), fabric.autocast():
            output: NetworkOutput = average(image)
            return output

    return answer


def _digest(lesson: Lesson, processes: int) -> str:
    """Name what decides a run's result, so that a checkpoint is never continued with something else."""
    settings = lesson.settings.model_dump(mode="json", exclude={"checkpoint_every", "loader_threads"})
    return digest_json({"training": settings, **lesson.identity(), "processes": processes})


def _log(journal: Journal, state: TrainingState, terms: dict[str, torch.Tensor], rate: float) -> None:
    values = {name: float(term.detach()) for name, term in terms.items()}
    if not all(map(math.isfinite, values.values())):
        raise ModelError(
            f"the loss is no longer finite at step {state.step}: lower training.learning_rate or use "
            "training.precision=float32, then start in a new folder"
        )
    journal.step(state.step, state.elapsed_s, rate, values)


def _validate(state: TrainingState, lesson: Lesson, fabric: Fabric, journal: Journal) -> None:
    """Score the averaged weights on the first process; stop when they no longer get better."""
    stop = False
    if fabric.is_global_zero and lesson.validate is not None:
        dice = lesson.validate(state.average.module)
        journal.validation(state.step, dice)
        state.stale = 0 if dice > state.best_dice else state.stale + 1
        state.best_dice = max(dice, state.best_dice)
        stop = 0 < lesson.settings.patience <= state.stale
    state.finished = _any_process(fabric, stop)


def _save(state: TrainingState, checkpoint: Path, fabric: Fabric) -> None:
    """Write a checkpoint on the first process, with the memories of all of them."""
    own = memory(state)
    memories: list[Any] = [own] * fabric.world_size
    if fabric.world_size > 1:
        torch.distributed.all_gather_object(memories, own)
    if fabric.is_global_zero:
        save_checkpoint(state, checkpoint, memories)
    fabric.barrier()


def _any_process(fabric: Fabric, here: bool) -> bool:
    """Whether any process says so: all must leave the loop at the same step."""
    if fabric.world_size == 1:
        return here
    told = fabric.all_reduce(torch.tensor(float(here), device=fabric.device), reduce_op="sum")
    return bool(torch.as_tensor(told).item() > 0)


def _to(batch: Batch, fabric: Fabric) -> Batch:
    moved: Batch = fabric.to_device(batch)
    if fabric.device.type == "cuda":
        keep_until_used(moved)
    return moved
