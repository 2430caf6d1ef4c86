"""Three stages at work at once: one thread reads ahead, one writes behind, so that the network waits for nobody.

Memory is bounded by the bytes of the scans under way: reading waits until the next scan fits beside them.
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

R = TypeVar("R")
P = TypeVar("P")

MOST_CASES = 4
"""Cases under way at once, however small: one more than there are stages hides their unequal lengths."""


@dataclass(frozen=True, slots=True)
class Stages(Generic[R, P]):
    """What is done with a case; each stage gives what the next one takes, or how the case ended, and never raises."""

    read: Callable[[Task], R | CaseResult]
    predict: Callable[[R], P | CaseResult]
    write: Callable[[P], CaseResult]


@dataclass(frozen=True, slots=True)
class _Ready(Generic[R]):
    task: Task
    read: R


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


def run_stages(stages: Stages[R, P], tasks: Iterable[Task], limit: int, tell: Tell) -> Iterator[CaseResult]:
    """Yield what became of each case; the middle stage runs in the caller's thread, between results.

    Parameters
    ----------
    tasks : taken as there is room for them, in a thread of their own; may block.
    limit : bytes of scans under way at once; a larger one goes alone.
    tell : told of each stage as it begins and of each end, also while the caller is busy.
    """
    inbox: SimpleQueue[_Ready[R] | CaseResult | _NoMore] = SimpleQueue()
    room = Room(limit)
    pipeline = _Pipeline(stages, room, inbox, tell)
    Thread(target=pipeline.read_all, args=(tasks,), daemon=True).start()
    ended, end = 0, None
    try:
        with ThreadPoolExecutor(1) as writer:
            while end is None or ended < end.taken:
                item = inbox.get()
                if isinstance(item, CaseResult):
                    ended += 1
                    yield item
                elif isinstance(item, _NoMore):
                    end = item
                else:
                    pipeline.predict(item, writer)
                del item  # a scan of hundreds of MB must not outlive its case
    finally:
        room.close()
    if end.error:
        raise end.error


class Room:
    """What scans under way may take of the memory."""

    def __init__(self, limit: int) -> None:
        self._limit, self._held, self._cases = limit, 0, 0
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
        return not self._cases or (self._cases < MOST_CASES and self._held + size <= self._limit)


@dataclass(frozen=True, slots=True)
class _Pipeline(Generic[R, P]):
    stages: Stages[R, P]
    room: Room
    inbox: SimpleQueue[_Ready[R] | CaseResult | _NoMore]
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
            self.tell(Progress(task.case.id, "waiting"))
            self.inbox.put(_Ready(task, found))

    def predict(self, ready: _Ready[R], writer: ThreadPoolExecutor) -> None:
        self.tell(Progress(ready.task.case.id, "predict"))
        predicted = self.stages.predict(ready.read)
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
