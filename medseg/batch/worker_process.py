"""What a worker process does: `medseg.batch.child` starts it.

It reads a job and then tasks from standard input, a line of JSON each, and answers in lines on standard output.
An empty line is the end of the tasks. The end of the input without one means that the supervisor is gone, and so
is then this process, at once: nobody would ever see its results told, and another run may be at work already.
"""

from __future__ import annotations

import faulthandler
import logging
import os
import sys
from collections.abc import Iterator
from queue import SimpleQueue
from threading import Lock, Thread
from typing import NoReturn

from medseg.batch.job import Job, find_picture

ORPHANED = 3
"""Exit code of a worker whose supervisor is gone."""


def main() -> None:
    """Work until there is nothing left to do."""
    answer = _take_output()
    job = Job.from_line(sys.stdin.buffer.readline())
    if job.debug:
        faulthandler.enable()
        logging.basicConfig()
        logging.getLogger("medseg").setLevel(logging.DEBUG)
    tasks: SimpleQueue[bytes] = SimpleQueue()
    Thread(target=_listen, args=(tasks,), daemon=True).start()
    _work(job, tasks, answer)


def _work(job: Job, tasks: SimpleQueue[bytes], answer: int) -> NoReturn:
    """Open the worker and let it work; what goes wrong beyond a case is told, not shown."""
    from medseg.batch.faults import SHOW, place_of
    from medseg.batch.task import Message, Refusal, to_line
    from medseg.errors import MedsegError

    lock = Lock()

    def tell(message: Message) -> None:
        line = to_line(message)
        with lock:
            _write(answer, line)

    try:
        picture = find_picture(job.picture)
        from medseg.batch.opening import open_worker

        worker, facts = open_worker(job, picture)
        tell(facts)
        for _ in worker.run(_read_tasks(tasks), tell):
            pass  # told already
    except MedsegError as error:
        tell(Refusal(type(error).__name__, str(error)))
    except Exception as error:
        logging.getLogger(__name__).debug("worker", exc_info=error)
        tell(Refusal("WorkerError", f"a worker process can't work: {place_of(error)}; {SHOW}"))
    os._exit(0)  # taking torch down in an orderly way would cost time and serve nobody


def _listen(tasks: SimpleQueue[bytes]) -> None:
    for line in sys.stdin.buffer:
        tasks.put(line.strip())
        if not line.strip():
            return
    os._exit(ORPHANED)


def _read_tasks(lines: SimpleQueue[bytes]) -> Iterator:
    from medseg.batch.task import from_line

    while line := lines.get():
        yield from_line(line)


def _take_output() -> int:
    """Keep standard output for answers alone: whatever else is written there goes to standard error."""
    answer = os.dup(sys.stdout.fileno())
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    return answer


def _write(descriptor: int, line: bytes) -> None:
    while line:
        line = line[os.write(descriptor, line) :]
