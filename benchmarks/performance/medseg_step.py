"""Time medseg's own training steps as its loop does them, and the same network without the loop.

    python benchmarks/performance/medseg_step.py DATASET OUTPUT STEPS

Prints a line of JSON: seconds of each step of the loop (`step`: batch, forward, loss, backward, clipping, optimiser,
average, journal), of a step on one batch in memory (`bare`: forward, loss, backward, clipping, optimiser), and of
forward, loss and backward alone (`pure`). They take turns in stretches of a few steps, so that a drift of the machine
meets them alike.
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
from medseg.preprocessing.cache import Cache
from medseg.training.journal import Journal
from medseg.training.loop import Task, descend, fit
from medseg.training.methods import Method, Terms
from medseg.training.optimisation import build_optimiser
from medseg.training.processes import launch
from medseg.training.setup import set_up

PATCH, BATCH = (40, 56, 40), 2
"""nnU-Net's plan of the same cases."""

STRETCH = 6
"""Steps of a kind in a row; the first is left out."""


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
    times: dict[str, list[float]] = {"step": [], "bare": [], "pure": []}
    for stretch in range(-1, -(-steps // (STRETCH - 1))):  # the first stretch warms up
        for name, stretch_times in (
            ("step", in_loop(task, fabric, output / f"{stretch}")),
            ("bare", [timed(bare) for _ in range(STRETCH)]),
            ("pure", [timed(pure) for _ in range(STRETCH)]),
        ):
            times[name] += stretch_times[1:] if stretch >= 0 else []
    shape = {"patch": setup.plan.patch, "batch_size": setup.plan.batch, "features": setup.plan.network.features}
    print(json.dumps(times | shape | {"precision": str(fabric._precision.precision)}))


def without_loop(task: Task, fabric: Fabric) -> tuple[Callable[[], Any], Callable[[], Any]]:
    """Return a step on one batch in memory, and its forward, loss and backward."""
    network = task.network()
    trainee, optimiser = fabric.setup(network, build_optimiser(network.parameters(), task.settings))
    method = task.method(lambda image: network(image))
    batch = task.stream(Randomness(0)).batch(0)

    def bare() -> None:
        descend(trainee, optimiser, method.step(trainee, batch, 0.0)["loss"], fabric, task.settings.clip_norm)

    def pure() -> None:
        trainee.zero_grad(set_to_none=True)
        fabric.backward(method.step(trainee, batch, 0.0)["loss"])

    return bare, pure


def in_loop(task: Task, fabric: Fabric, folder: Path) -> list[float]:
    """Return the seconds from one step's forward pass to the next one's."""
    moments: list[float] = []
    with Journal(folder, task.settings.steps) as journal:
        fit(_Watched(task, folder, moments), fabric, journal)
    return [later - earlier for earlier, later in pairwise(moments)]


class _Watched:
    """A task whose method notes when each step begins."""

    def __init__(self, task: Task, folder: Path, moments: list[float]) -> None:
        self._task, self.folder, self._moments = task, folder, moments

    def __getattr__(self, name: str) -> Any:
        return getattr(self._task, name)

    def method(self, teacher: Any) -> Method:
        method, moments = self._task.method(teacher), self._moments
        step = method.step

        def watched(network: torch.nn.Module, batch: Batch, progress: float) -> Terms:
            moments.append(time.perf_counter())
            return step(network, batch, progress)

        method.step = watched  # type: ignore[method-assign]
        return method


def timed(work: Callable[[], Any]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))
