"""Time medseg's own training steps as its loop does them, and the same network without the loop.

    python benchmarks/performance/medseg_step.py DATASET OUTPUT STEPS

Prints a line of JSON: seconds of each step of the loop (`step`: batch, forward, loss, backward, clipping, optimiser,
average, journal), of a step on one batch in memory (`bare`: forward, loss, backward, clipping, optimiser), and of
forward, loss and backward alone (`pure`); and the processor time of each, which neighbours change less. They take turns
in stretches of a few steps, so that a drift of the machine meets them alike.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric

from medseg.config import DatasetConfig, ExperimentConfig, PlanConfig, TrainingConfig
from medseg.data.batches import Batch
from medseg.data.sampling import Randomness
from medseg.inference.hardware import choose_dtype
from medseg.networks.layout import lay_out
from medseg.preprocessing.cache import Cache
from medseg.training.journal import Journal
from medseg.training.loop import Task, descend, fit
from medseg.training.methods import Method, Terms
from medseg.training.optimisation import averaged, build_optimiser
from medseg.training.processes import launch
from medseg.training.setup import set_up

PATCH, BATCH = (40, 56, 40), 2
"""nnU-Net's plan of the same cases."""

Moment = tuple[float, float]
"""Seconds by the clock and of the processor."""

LATE = 0.9
"""Progress of the steps: unlabelled scans, where there are some, count in full."""

STRETCH = 11
"""Steps of a kind in a row; the first is left out. So many that most batches are made while others are learnt from."""


def main(dataset: Path, output: Path, steps: int) -> None:
    config = ExperimentConfig(
        name="step",
        dataset=DatasetConfig(folder=dataset),
        plan=PlanConfig(patch=PATCH, batch=BATCH),
        training=TrainingConfig(steps=STRETCH),
    )
    fabric = launch("cpu", config)
    setup = set_up(config, output)
    cases = tuple(Cache(output / "cache").prepare(setup.train, setup.plan, setup.dataset.labels))
    task = Task(cases, setup.plan, setup.dataset.labels, config, output)
    bare, pure = without_loop(task, fabric)
    times: dict[str, list[Moment]] = {"step": [], "bare": [], "pure": []}
    bare()  # the first step of all is no measure of any
    for stretch in range(-(-steps // (STRETCH - 1))):
        times["step"] += in_loop(task, fabric, output / f"{stretch}")
        times["bare"] += [timed(bare) for _ in range(STRETCH)][1:]
        times["pure"] += [timed(pure) for _ in range(STRETCH)][1:]
    shape = {"patch": setup.plan.patch, "batch_size": setup.plan.batch, "features": setup.plan.network.features}
    seconds = {name: [wall for wall, _ in each] for name, each in times.items()}
    seconds |= {f"{name}_cpu": [cpu for _, cpu in each] for name, each in times.items()}
    print(json.dumps(seconds | shape | {"precision": str(fabric._precision.precision)}))


def without_loop(task: Task, fabric: Fabric) -> tuple[Callable[[], Any], Callable[[], Any]]:
    """Return a step on one batch in memory, and its forward, loss and backward."""
    settings, device = task.settings, fabric.device
    network = lay_out(task.network().to(device), choose_dtype(settings.precision, device))
    teacher = fabric.setup_module(averaged(network, settings.ema_decay).eval())
    trainee, optimiser = fabric.setup(network, build_optimiser(network.parameters(), settings))
    method = task.method(torch.no_grad()(teacher)).to(device)
    batch = fabric.to_device(task.stream(Randomness(0), device).batch(settings.steps - 1))

    def bare() -> None:
        descend(trainee, optimiser, method.step(trainee, batch, LATE)["loss"], fabric, settings.clip_norm)

    def pure() -> None:
        trainee.zero_grad(set_to_none=True)
        fabric.backward(method.step(trainee, batch, LATE)["loss"])

    return bare, pure


def in_loop(task: Task, fabric: Fabric, folder: Path) -> list[Moment]:
    """Return the time from each step's forward pass to the next one's."""
    moments: list[Moment] = []
    with Journal(folder, task.settings.steps) as journal:
        fit(_Watched(task, folder, moments), fabric, journal)
    return [between(earlier, later) for earlier, later in pairwise(moments)]


class _Watched:
    """A task whose method notes when each step begins."""

    def __init__(self, task: Task, folder: Path, moments: list[Moment]) -> None:
        self._task, self.folder, self._moments = task, folder, moments

    def __getattr__(self, name: str) -> Any:
        return getattr(self._task, name)

    def method(self, teacher: Any) -> Method:
        method, moments = self._task.method(teacher), self._moments
        step = method.step

        def watched(network: torch.nn.Module, batch: Batch, progress: float) -> Terms:
            moments.append(now())
            return step(network, batch, progress)

        method.step = watched  # type: ignore[method-assign]
        return method


def timed(work: Callable[[], Any]) -> Moment:
    began = now()
    work()
    return between(began, now())


def now() -> Moment:
    return time.perf_counter(), time.process_time()


def between(earlier: Moment, later: Moment) -> Moment:
    return later[0] - earlier[0], later[1] - earlier[1]


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))
