"""What a training step of the left atrium at its own resolution costs on a device, and how busy that is kept.

    MEDSEG_DATA=FOLDER python benchmarks/performance/device_step.py --runs RUNS --device cuda

The networks and batches are those of `arms.py --data fine_left_atrium`. Milliseconds of a step, with and without
unlabelled scans: of the loop, which reads, augments, learns, averages and notes (median of stretches of ten, the first
ones left out); of loss and gradient alone, on one batch that lies on the device; and with clipping and optimiser. What
these share of the loop's time is the least that the device is at work. Prepared scans are kept in RUNS. Writes
results/device_step_DEVICE.json.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import torch

HERE = Path(__file__).parent
sys.path += [str(HERE.parent), str(HERE.parent / "semi_supervised")]

from arms import FINE, SIZES, configuration  # noqa: E402
from gpu_network import timed  # noqa: E402
from held_out import step_seconds  # noqa: E402
from medseg_step import without_loop  # noqa: E402
from scans import real_scans, training_arguments  # noqa: E402

from medseg.config import ExperimentConfig  # noqa: E402
from medseg.preprocessing.cache import Cache  # noqa: E402
from medseg.provenance import machine, package_versions, timestamp  # noqa: E402
from medseg.training.journal import Journal  # noqa: E402
from medseg.training.loop import Task, fit  # noqa: E402
from medseg.training.processes import launch  # noqa: E402
from medseg.training.setup import set_up  # noqa: E402

LABELLED, UNLABELLED = 16, 16
"""Cases that the steps draw from."""

LEFT_OUT = 2
"""Stretches of the loop in which libraries load and queues fill."""


def main() -> None:
    parser = training_arguments(__doc__)
    parser.add_argument("--device", default="cpu", help="cpu, cuda, or one GPU such as cuda:1")
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--result", type=Path)
    arguments = parser.parse_args()
    data = real_scans("left_atrium") / "left_atrium"
    record: dict[str, Any] = {
        arm: step_costs(data, arm, arguments.steps, arguments.device, arguments.runs / "cache")
        for arm in ("supervised", "mix_teacher")
    }
    if arguments.device != "cpu":
        record["device"] = torch.cuda.get_device_name(arguments.device)
    record |= {"date": timestamp(), "machine": machine(), "versions": package_versions()}
    result = arguments.result or HERE / "results" / f"device_step_{arguments.device.partition(':')[0]}.json"
    result.write_text(json.dumps(record, indent=1) + "\n")
    print(json.dumps(record, indent=1))


def step_costs(data: Path, arm: str, steps: int, device: str, cache: Path) -> dict[str, float]:
    """Return the milliseconds of an arm's steps, and the device's peak memory in MB."""
    with TemporaryDirectory() as temporary:
        task = make_task(data, arm, steps, Path(temporary), cache)
        fabric = launch(device, task.config)
        if fabric.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(fabric.device)
        with Journal(task.folder, steps) as journal:
            fit(task, fabric, journal)
        loop = 1e3 * median(step_seconds(task.folder.parent)[LEFT_OUT:])
        bare, pure = without_loop(task, fabric)
        costs = {"loop": loop, "bare": timed(bare, fabric.device), "pure": timed(pure, fabric.device)}
        if fabric.device.type == "cuda":
            costs["gpu_mb"] = torch.cuda.max_memory_allocated(fabric.device) / 1e6
        return {name: round(value, 2) for name, value in costs.items()}


def make_task(data: Path, arm: str, steps: int, folder: Path, cache: Path) -> Task:
    """Return an arm's training, past the steps that see labelled scans alone."""
    config: ExperimentConfig = configuration(data, arm, f"{LABELLED}_0", steps, SIZES[FINE])
    config = config.with_changes(unlabelled={"labelled_first": 0.0})
    setup = set_up(config, folder)
    ready = Cache(cache)
    cases, others = (
        tuple(ready.prepare(some, setup.plan, setup.dataset.labels, torch.get_num_threads()))
        for some in (setup.train, setup.unlabelled[:UNLABELLED])
    )
    return Task(cases, setup.plan, setup.dataset.labels, config, folder / "fit", unlabelled=others)


if __name__ == "__main__":
    main()
