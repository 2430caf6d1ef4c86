"""Where the cases of a batch are segmented: in this process, in worker processes, or elsewhere.

An `Engine` takes tasks and gives what became of each; nothing else of a run depends on which one it is.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from medseg.batch.child import start_children, stop_children
from medseg.batch.job import Job, find_picture, name_of

if TYPE_CHECKING:
    from medseg.batch.job import Picture
    from medseg.batch.summary import CaseResult
    from medseg.batch.task import Facts, Task
    from medseg.batch.worker import Worker


class Engine(Protocol):
    """Segments cases somewhere."""

    def facts(self) -> Facts:
        """Return what is known once model and device are open; waits for that.

        Raises
        ------
        ModelError, ConfigError, LabelError, WorkerError
            If no worker can work.
        """
        ...

    def run(self, tasks: Iterable[Task]) -> Iterator[CaseResult]:
        """Yield what became of each case, as they end; a case that fails, crashes or hangs costs only itself.

        Raises
        ------
        WorkerError
            If workers end again and again, and no case is to blame.
        """
        ...


@dataclass(frozen=True, slots=True)
class InProcess:
    """All in this process: for debuggers, and for schedulers that isolate by themselves."""

    worker: Worker
    known: Facts

    def facts(self) -> Facts:
        """Return what is known of model and device."""
        return self.known

    def run(self, tasks: Iterable[Task]) -> Iterator[CaseResult]:
        """Yield what became of each case; one that crashes or hangs takes the others along."""
        return self.worker.run(tasks)


@contextmanager
def open_engine(job: Job, picture: Picture | str | None) -> Iterator[Engine]:
    """Give the engine that a configuration asks for; nothing of it is left running when the block ends.

    Returns while model and torch are still being loaded, so that the caller can do something else meanwhile.

    Raises
    ------
    ConfigError
        If worker processes can't import `picture`, or Ray is wanted and is not installed or has not what is wanted.
    WorkerError
        If there is no Ray cluster to be reached.
    """
    if job.config.workers == 0:
        from medseg.batch.opening import open_worker

        yield InProcess(*open_worker(job, find_picture(picture)))
        return
    debug = logging.getLogger("medseg").isEnabledFor(logging.DEBUG)
    wanted = job.model_copy(update={"picture": name_of(picture), "workers": job.config.workers or 1, "debug": debug})
    if job.config.engine == "ray":
        from medseg.batch.ray_engine import open_ray

        with open_ray(wanted) as engine:
            yield engine
        return
    crew = start_children(wanted)
    try:
        from medseg.batch.processes import Processes  # numpy, nibabel and scipy load while the workers load torch

        yield Processes(crew)
    finally:
        stop_children(crew)
