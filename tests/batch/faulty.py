"""What worker processes of the tests import by name: a predictor without torch, and cases that misbehave.

A case called ``<fault>_<stage>`` commits the fault in the stage; ``<fault>_<stage>_once`` in its first try alone.
Importing this module puts the fakes where a worker process looks for the real ones. So a process starts in half a
second, and what is tested is the supervisor, the pipes and the writing, which are the real ones.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path
from types import ModuleType

from batch_fakes import LABELS, ThresholdPredictor

import medseg.batch.worker as worker_module
from medseg.batch.job import Job
from medseg.batch.task import Facts
from medseg.batch.worker import Worker
from medseg.config import InferenceConfig
from medseg.errors import ModelError
from medseg.io.scan import read_case


def die(number: int) -> None:
    time.sleep(0.2)  # Ray fetches what a worker says, and loses what it said last if it dies at once
    os.kill(os.getpid(), number)
    time.sleep(1000)  # the system may take some time to deliver it, in which this thread would go on


def lose_gpu() -> None:
    global is_lost
    is_lost = True


is_lost = False
"""Whether this process can't use its GPU any more."""

FAULTS = {
    "lost": lose_gpu,
    "segv": lambda: die(signal.SIGSEGV),
    "kill": lambda: die(signal.SIGKILL),
    "exit": lambda: os._exit(7),
    "hang": lambda: time.sleep(1000),
    "slow": lambda: time.sleep(0.15),
    "noisy": lambda: os.write(1, b"a library says something\n"),
    "oom": lambda: (_ for _ in ()).throw(MemoryError),
}

names: dict[int, str] = {}
folder = Path()
"""Output folder of the worker."""


def misbehave(case: str, stage: str) -> None:
    fault, _, rest = case.partition("_")
    if fault in FAULTS and rest.startswith(stage):
        mark = folder.parent / f"{case}.tried"
        if rest.endswith("once") and mark.exists():
            return
        mark.touch()
        FAULTS[fault]()


def read(case):
    misbehave(case.id, "read")
    volume, mask = read_case(case)
    names[id(volume)] = case.id
    return volume, mask


class Faulty(ThresholdPredictor):
    def prepare(self, volume):
        misbehave(names[id(volume)], "prepare")
        return volume

    def infer(self, volume):
        with (folder.parent / "workers").open("a+") as workers:
            workers.seek(0)
            if str(os.getpid()) not in workers.read().split():
                workers.write(f"{os.getpid()}\n")
        misbehave(names[id(volume)], "infer")
        if is_lost:
            raise RuntimeError("CUDA error: an illegal memory access was encountered")
        return super().infer(volume)


def draw(volume, mask, labels, path):
    misbehave(names[id(volume)], "write")
    path.write_bytes(b"picture")


def open_worker(job: Job, picture) -> tuple[Worker, Facts]:
    global folder
    folder = job.folder
    if job.model.name == "broken":
        raise ModelError(f"{job.model}: this is no model folder")
    if job.model.name == "deadly":
        os._exit(9)
    if job.model.name == "greedy":
        raise MemoryError
    digest = "m"
    if job.model.name == "changing":
        mark = folder.parent / "opened"
        digest = "later" if mark.exists() else "first"
        mark.touch()
    facts = Facts("fake", digest, 1, LABELS, None, InferenceConfig(), "cpu", "", 0, "s")
    return Worker(Faulty(), job.folder, "m", "s", picture, redo=job.config.redo), facts


worker_module.read_case = read
opening, hardware = ModuleType("medseg.batch.opening"), ModuleType("medseg.inference.hardware")
opening.open_worker = open_worker
hardware.reset_peak_memory = hardware.peak_memory_mb = lambda device: {}
sys.modules.update({opening.__name__: opening, hardware.__name__: hardware})
