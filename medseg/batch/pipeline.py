"""Threads at work at once: one reads and prepares ahead, others write behind, so that the network waits for nobody.

Memory is bounded by the bytes of the scans under way: reading waits until the next scan fits beside them, and no scan
is prepared while another one that is waits for the network.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from queue import SimpleQueue
from threading import Condition, Thread
from typing import Generic, TypeVar

from medseg.batch.summary import CaseResult
from medseg.batch.task import Progress, Task, Tell

WRITERS = {"cpu": 1, "cuda": 3}
"""Threads that measure and write, by kind of device. A CPU's cores are the network's; a GPU answers in 1.2 s what one
thread measures and writes in 2.4 (H200, 512x512x256, twenty classes)."""

R = TypeVar("R")
A = TypeVar("A")
P = TypeVar("P")

AHEAD = 3
"""Cases under way at once beside those that are written, however small: one is read, one inferred, and one more hides
their unequal lengths."""


@dataclass(frozen=True, slots=True)
class Stages(Generic[R, A, P]):
    """What is done with a case; each stage gives what the next one takes, or how the case ended, and never raises."""

    read: Callable[[Task], R | CaseResult]
    prepare: Callable[[R], A | CaseResult]
    infer: Callable[[A], P | CaseResult]
    write: Callable[[P], CaseResult]


@dataclass(frozen=True, slots=True)
class _Ready(Generic[A]):
    task: Task
    prepared: A


@dataclass(frozen=True, slots=True)
class _NoMore:
    """Reading has ended.

    Attributes
    ----------
    taken : number of cases that it took.
    error : with which the cases ended, if they did not just run out.
    """

    taken: int
    error: BaseException | None = None


def run_stages(
    stages: Stages[R, A, P], tasks: Iterable[Task], limit: int, tell: Tell, writers: int = 1
) -> Iterator[CaseResult]:
    """Yield what became of each case; `infer` runs in the caller's thread, between results.

    Parameters
    ----------
    tasks : taken as there is room for them, in a thread of their own; may block.
    limit : bytes of scans under way at once; a larger one goes alone.
    tell : told of each stage as it begins and of each end, also while the caller is busy.
    writers : threads that write.
    """
    inbox: SimpleQueue[_Ready[A] | CaseResult | _NoMore] = SimpleQueue()
    room, next_in_line = Room(limit, AHEAD + writers), Room(0)
    pipeline = _Pipeline(stages, room, next_in_line, inbox, tell)
    Thread(target=pipeline.read_all, args=(tasks,), daemon=True).start()
    ended, end = 0, None
    try:
        with ThreadPoolExecutor(writers) as writer:
            while end is None or ended < end.taken:
                item = inbox.get()
                if isinstance(item, CaseResult):
                    ended += 1
                    yield item
                elif isinstance(item, _NoMore):
                    end = item
                else:
                    pipeline.infer(item, writer)
                del item  # a scan of hundreds of MB must not outlive its case
    finally:
        room.close()
        next_in_line.close()
    if end.error:
        raise end.error


class Room:
    """What scans under way may take of the memory.

    Parameters
    ----------
    limit : bytes.
    cases : at most so many at once.
    """

    def __init__(self, limit: int, cases: int = AHEAD) -> None:
        self._limit, self._most, self._held, self._cases = limit, cases, 0, 0
        self._is_closed = False
        self._changed = Condition()

    def take(self, size: int) -> bool:
        """Wait until a scan of `size` bytes fits, or is alone; returns whether it is still wanted."""
        with self._changed:
            self._changed.wait_for(lambda: self._is_closed or self._fits(size))
            self._held += size
            self._cases += 1
            return not self._is_closed

    def give_back(self, size: int) -> None:
        """Let others have the room of an ended case."""
        with self._changed:
            self._held -= size
            self._cases -= 1
            self._changed.notify_all()

    def close(self) -> None:
        """Let nobody wait any longer."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()

    def _fits(self, size: int) -> bool:
        return not self._cases or (self._cases < self._most and self._held + size <= self._limit)


@dataclass(frozen=True, slots=True)
class _Pipeline(Generic[R, A, P]):
    stages: Stages[R, A, P]
    room: Room
    next_in_line: Room
    inbox: SimpleQueue[_Ready[A] | CaseResult | _NoMore]
    tell: Tell

    def read_all(self, tasks: Iterable[Task]) -> None:
        taken, error = 0, None
        try:
            for task in tasks:
                if not self.room.take(task.size):
                    return
                taken += 1
                self._read(task)
        except BaseException as raised:  # it belongs to the caller, not to this thread
            error = raised
        self.inbox.put(_NoMore(taken, error))

    def _read(self, task: Task) -> None:
        self.tell(Progress(task.case.id, "read"))
        found = self.stages.read(task)
        if isinstance(found, CaseResult):
            self._end(task, found)
        else:
            self._prepare(task, found)

    def _prepare(self, task: Task, found: R) -> None:
        self.tell(Progress(task.case.id, "waiting"))
        if not self.next_in_line.take(1):
            return
        self.tell(Progress(task.case.id, "prepare"))
        prepared = self.stages.prepare(found)
        if isinstance(prepared, CaseResult):
            self.next_in_line.give_back(1)
            self._end(task, prepared)
        else:
            self.tell(Progress(task.case.id, "waiting"))
            self.inbox.put(_Ready(task, prepared))

    def infer(self, ready: _Ready[A], writer: ThreadPoolExecutor) -> None:
        self.next_in_line.give_back(1)
        self.tell(Progress(ready.task.case.id, "infer"))
        predicted = self.stages.infer(ready.prepared)
        if isinstance(predicted, CaseResult):
            self._end(ready.task, predicted)
        else:
            self.tell(Progress(ready.task.case.id, "waiting"))
            writer.submit(self._write, ready.task, predicted)

    def _write(self, task: Task, predicted: P) -> None:
        self.tell(Progress(task.case.id, "write"))
        self._end(task, self.stages.write(predicted))

    def _end(self, task: Task, result: CaseResult) -> None:
        self.room.give_back(task.size)
        self.tell(result)
        self.inbox.put(result)
