"""Segment all studies in the background, one after the other, so that the most doubtful is known."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from threading import Event, Lock, Thread

from medseg.errors import MedsegError
from medseg.serve.refusal import TOO_MANY, RequestError, sentence_of
from medseg.serve.task import BackgroundTask
from medseg.volume import Case

RETRY_SECONDS = 1.0

logger = logging.getLogger("medseg.serve")


class Sweep:
    """Asks for one case after the other; people's own requests come between.

    Parameters
    ----------
    segment : segments a case.
    """

    def __init__(self, segment: Callable[[Case], object]) -> None:
        self._segment = segment
        self._stop, self._lock = Event(), Lock()
        self.tasks: list[BackgroundTask] = []

    @property
    def running(self) -> BackgroundTask | None:
        """The sweep under way."""
        return self.tasks[-1] if self.tasks and self.tasks[-1].is_running else None

    def start(self, model: str, cases: Iterable[Case]) -> BackgroundTask:
        """Begin; raises `RequestError` (429) while one is under way."""
        with self._lock:
            if self.running:
                raise RequestError(TOO_MANY, "the studies are being segmented; wait until that has ended, or stop it")
            wanted = list(cases)
            task = BackgroundTask.begun(model, f"0 of {len(wanted)} cases")
            self._stop = Event()
            self.tasks = [*self.tasks[-9:], task]
            Thread(target=self._run, args=(task, wanted, self._stop), daemon=True).start()
            return task

    def stop(self) -> BackgroundTask | None:
        """End the sweep after the case that it is at; returns its task, or None if there is none."""
        with self._lock:
            task = self.running
            if task:
                self._stop.set()
                task.end("STOPPED", "stopped")
            return task

    def _run(self, task: BackgroundTask, cases: list[Case], stop: Event) -> None:
        failed = 0
        for number, case in enumerate(cases, start=1):
            if stop.is_set():
                return
            failed += not self._done(case, stop)
            task.details.append(f"{number} of {len(cases)} cases")
        with self._lock:
            if task.is_running:
                line = f"{len(cases) - failed} of {len(cases)} cases are segmented"
                task.end("DONE", line)
                logger.info(line)

    def _done(self, case: Case, stop: Event) -> bool:
        while not stop.is_set():
            try:
                self._segment(case)
                return True
            except RequestError as error:
                if error.status != TOO_MANY:
                    logger.warning("%s", sentence_of(error))
                    return False
                stop.wait(RETRY_SECONDS)
            except (MedsegError, OSError) as error:
                logger.warning("%s: %s", case.id, sentence_of(error))
                return False
        return False
