"""A worker in an actor of Ray: the same as in a process of this machine, spoken to by calls instead of pipes.

Only lines of text travel: no array and no scan is ever put into Ray's object store.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from queue import SimpleQueue
from threading import Thread

from medseg.batch.job import Job
from medseg.batch.worker_process import work
from medseg.io.files import remove_leftovers

CALLS = 2
"""Calls at once: `hear` waits while `send` is called."""


class RayWorker:
    """One worker; its calls run in threads beside the work itself.

    Parameters
    ----------
    job : as a line of JSON.
    cores : that Ray has given it.
    path : where the supervisor finds its modules; looked into last.
    """

    def __init__(self, job: bytes, cores: int, path: Sequence[str]) -> None:
        sys.path.extend(place for place in path if place not in sys.path)
        self._job = Job.from_line(job)
        if not self._job.debug:
            _say_nothing()
        if os.environ.get("OMP_NUM_THREADS") == str(cores):
            del os.environ["OMP_NUM_THREADS"]  # Ray's share of the cores; the job has it, too, and would halve it again
        remove_leftovers(self._job.folder)  # of an actor that died on this machine
        self._lines: SimpleQueue[bytes] = SimpleQueue()
        self._said: SimpleQueue[bytes] = SimpleQueue()
        Thread(target=self._work, daemon=True).start()

    def send(self, line: bytes) -> None:
        """Take a line, such as a task."""
        self._lines.put(line)

    def hear(self) -> list[bytes]:
        """Wait for lines of the worker and return all there are; an empty one is the end of what it says."""
        lines = [self._said.get()]
        while not self._said.empty():
            lines.append(self._said.get())
        return lines

    def _work(self) -> None:
        work(self._job, self._lines, self._said.put)
        self._said.put(b"")


def _say_nothing() -> None:
    """Let nothing reach Ray's logs: what libraries print may quote a header."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):
        os.dup2(nowhere, stream)
    os.close(nowhere)
