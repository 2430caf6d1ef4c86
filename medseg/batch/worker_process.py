"""What a worker process does: `medseg.batch.child` starts it.

It reads a job and then tasks from standard input, a line of JSON each, and answers in lines on standard output.
At the end of the input it ends at once, whatever it does: its supervisor is gone, nobody would hear of its
results, and another run may be at work already.
"""

from __future__ import annotations

import faulthandler
import logging
import os
import sys
from collections.abc import Callable, Iterator
from functools import partial
from queue import SimpleQueue
from threading import Lock, Thread
from typing import TYPE_CHECKING

from medseg.batch.job import Job, find_picture

if TYPE_CHECKING:
    from medseg.batch.task import Task

ORPHANED = 3
"""Exit code of a worker whose supervisor is gone."""


def main() -> None:
    """Work until the supervisor ends it or is gone."""
    answer = _take_output()
    job = Job.from_line(sys.stdin.buffer.readline())
    if job.debug:
        faulthandler.enable()
        logging.basicConfig()
        logging.getLogger("medseg").setLevel(logging.DEBUG)
    lines: SimpleQueue[bytes] = SimpleQueue()
    Thread(target=_listen, args=(lines,), daemon=True).start()
    work(job, lines, partial(_write, answer))


def work(job: Job, lines: SimpleQueue[bytes], say: Callable[[bytes], None]) -> None:
    """Open the worker and let it work; what goes wrong beyond a case is told, not shown.

    Parameters
    ----------
    lines : tasks, as they come.
    say : takes what is answered, a line at a time.
    """
    from medseg.batch.faults import SHOW, place_of
    from medseg.batch.task import Message, Refusal, to_line
    from medseg.errors import MedsegError

    lock = Lock()

    def tell(message: Message) -> None:
        line = to_line(message)
        with lock:
            say(line)

    try:
        picture = find_picture(job.picture)
        from medseg.batch.opening import open_worker

        worker, facts = open_worker(job, picture)
        tell(facts)
        for _ in worker.run(_tasks(lines), tell):
            pass  # told already
    except MedsegError as error:
        tell(Refusal(type(error).__name__, str(error)))
    except Exception as error:
        logging.getLogger(__name__).debug("worker", exc_info=error)
        limit = job.config.memory_limit_gb
        within = f" within {limit:g} GB of memory" if limit else ""
        tell(Refusal("WorkerError", f"a worker process can't work{within}: {place_of(error)}; {SHOW}"))


def _listen(lines: SimpleQueue[bytes]) -> None:
    for line in sys.stdin.buffer:
        lines.put(line)
    os._exit(ORPHANED)  # taking torch down in an orderly way would cost time and serve nobody


def _tasks(lines: SimpleQueue[bytes]) -> Iterator[Task]:
    from medseg.batch.task import Task, from_line

    while isinstance(message := from_line(lines.get()), Task):
        yield message


def _take_output() -> int:
    """Keep standard output for answers alone: whatever else is written there goes to standard error."""
    answer = os.dup(sys.stdout.fileno())
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    return answer


def _write(descriptor: int, line: bytes) -> None:
    while line:
        line = line[os.write(descriptor, line) :]
