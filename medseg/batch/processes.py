"""The supervisor of worker processes: hands out cases, and sees to it that a bad one costs only itself.

A worker has a case being read, one in the network, and as many being written as it has threads for; it announces which
is where. If its process ends, or a case takes too long, the cases that something was being done for are the suspects.
Each of them is done again alone; one that fails again alone is the culprit. The others in the worker's hands
are done again as if nothing had been.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from queue import Empty
from time import monotonic

import medseg.errors
from medseg.batch.child import Child, Crew
from medseg.batch.pipeline import WRITERS
from medseg.batch.summary import CaseResult, Failure, Status
from medseg.batch.task import Facts, Message, Progress, Refusal, Stage, Task, from_line, to_line
from medseg.errors import ModelError, WorkerError
from medseg.io.files import remove_leftovers

TRIES = 2
"""How often a case is tried: with others, then alone."""

MOST_DEATHS = 3
"""Worker processes in turn that may end without a case to blame."""

TICK = 0.5
"""Seconds between two looks at the clock."""

DOING: dict[Stage, str] = {
    "waiting": "it waited",
    "read": "reading it",
    "prepare": "preparing it",
    "infer": "segmenting it",
    "write": "writing its results",
}


@dataclass(slots=True)
class _Flight:
    """A case in a worker's hands.

    Attributes
    ----------
    spent : seconds of work on it before the present stage.
    since : when the present stage began; meaningless while waiting.
    """

    task: Task
    stage: Stage = "waiting"
    spent: float = 0.0
    since: float = 0.0

    def enter(self, stage: Stage) -> None:
        self.spent, self.since, self.stage = self.worked(), monotonic(), stage

    def worked(self) -> float:
        """Return the seconds of work on it, waiting not counted."""
        return self.spent + (monotonic() - self.since if self.stage != "waiting" else 0.0)


@dataclass(slots=True)
class _Post:
    """A worker's place: the process there, and what it has in hands.

    Attributes
    ----------
    facts : what it said when it was ready; None before.
    deaths : processes in turn that ended here without a case to blame.
    """

    child: Child
    facts: Facts | None = None
    flights: dict[str, _Flight] = field(default_factory=dict)
    is_alone: bool = False
    deaths: int = 0

    @property
    def active(self) -> list[_Flight]:
        """The cases that something is being done for."""
        return [flight for flight in self.flights.values() if flight.stage != "waiting"]

    @property
    def suspects(self) -> list[_Flight]:
        """The cases that may have ended the process: between two stages, any."""
        return self.active or list(self.flights.values())


class Processes:
    """Worker processes as an engine.

    Parameters
    ----------
    crew : the workers that are starting; more join where the first one sees several GPUs.
    """

    def __init__(self, crew: Crew) -> None:
        self._crew = crew
        self._posts = [_Post(child) for child in crew.children]
        self._cases: deque[Task] = deque()
        self._alone: deque[Task] = deque()
        self._repeated: set[str] = set()
        self._first: Facts | None = None

    def facts(self) -> Facts:
        """Wait for the first worker that is ready and return what it says."""
        while True:
            for post in self._posts:
                if post.facts:
                    self._join_others(post.facts)
                    return post.facts
            list(self._hear())

    def run(self, tasks: Iterable[Task]) -> Iterator[CaseResult]:
        """Yield what became of each case, as they end."""
        self._cases.extend(tasks)
        while self._cases or self._alone or any(post.flights for post in self._posts):
            for post in self._posts:
                self._give(post)
            yield from self._hear()
            for post in self._posts:
                yield from self._check_time(post)

    def _join_others(self, facts: Facts) -> None:
        """Start a worker for each further GPU, if the configuration leaves their number open."""
        config = self._crew.job.config
        if config.workers is None and config.device in ("auto", "cuda") and len(self._posts) < facts.gpus:
            self._crew.job = self._crew.job.model_copy(update={"workers": facts.gpus})
            self._posts += [_Post(self._crew.start(number)) for number in range(len(self._posts), facts.gpus)]

    def _give(self, post: _Post) -> None:
        """Hand a worker as many cases as it may have, or one that is to be alone."""
        if not post.facts or post.is_alone:
            return
        if self._alone:
            if not post.flights:
                post.is_alone = True
                self._send(post, self._alone.popleft())
            return
        in_hands = 2 + WRITERS[post.facts.device.partition(":")[0]]
        while self._cases and len(post.flights) < in_hands:
            self._send(post, self._cases.popleft())

    def _send(self, post: _Post, task: Task) -> None:
        post.flights[task.case.id] = _Flight(task)
        post.child.send(to_line(task))

    def _hear(self) -> Iterator[CaseResult]:
        """Wait a moment for what a worker says, and yield the result of a case if that is what it says."""
        try:
            child, line = self._crew.inbox.get(timeout=TICK)
        except Empty:
            return
        post = next((post for post in self._posts if post.child is child), None)
        if post is None:  # the last words of one that was replaced
            return
        if line:
            yield from self._take(post, from_line(line))
        else:
            yield from self._bury(post)

    def _take(self, post: _Post, message: Message) -> Iterator[CaseResult]:
        if isinstance(message, Refusal):
            raise getattr(medseg.errors, message.kind, WorkerError)(message.message)
        if isinstance(message, Facts):
            self._check_model(message)
            post.facts = message
        elif isinstance(message, Progress):
            post.flights[message.case].enter(message.stage)
        elif isinstance(message, CaseResult) and message.reason == Failure.GPU_LOST:
            # the next cases would fail as well: no process gets its GPU back
            post.child.kill()
            post.child.ending()
            for flight in self._replace(post, [post.flights[message.case]]):
                yield _ended(flight, "failed", Failure.GPU_LOST, message.message)
        elif isinstance(message, CaseResult):
            post.deaths = 0
            task = post.flights.pop(message.case).task
            if message.reason == Failure.OUT_OF_MEMORY and not post.is_alone:
                self._alone.append(replace(task, attempt=task.attempt + 1))  # others shared the memory
                return
            post.is_alone = False
            # what this run wrote, and had not told before the process ended, is not an earlier run's
            yield replace(message, was_done=message.was_done and message.case not in self._repeated)

    def _check_model(self, facts: Facts) -> None:
        """Refuse what a later worker opened if it is not what the first one did: no run has masks of two models."""
        self._first = self._first or facts
        if (facts.digest, facts.settings) != (self._first.digest, self._first.settings):
            raise ModelError(
                f"{self._crew.job.model}: the model changed while the batch ran; repeat the command, which does again "
                "what the earlier model did"
            )

    def _bury(self, post: _Post) -> Iterator[CaseResult]:
        """Replace a process that ended by itself; blame the cases that it was at work on."""
        ending = post.child.ending()
        if not post.flights:
            post.deaths += 1
            if post.deaths >= MOST_DEATHS:
                limit = self._crew.job.config.memory_limit_gb
                within = f" within {limit:g} GB of memory, which may be too little" if limit else ""
                raise WorkerError(
                    f"a worker process ended {post.deaths} times before it could work{within}, the last time by "
                    f"{ending}; `medseg --debug segment ... --workers 0` shows more"
                )
        for flight in self._replace(post, post.suspects):
            yield _crash(flight, ending)

    def _check_time(self, post: _Post) -> Iterator[CaseResult]:
        """End a process in which a case takes too long."""
        limit = self._crew.job.config.case_timeout
        if limit and any(flight.worked() > limit for flight in post.active):
            post.child.kill()
            post.child.ending()
            # alone, there is no doubt which case it is, and a second try would hang as long again
            is_certain = len(post.active) == 1
            for flight in self._replace(post, post.active, tries=1 if is_certain else TRIES):
                message = (
                    f"{flight.task.case.id}: not done after {limit:g} s of work, ended while {DOING[flight.stage]}"
                )
                yield _ended(flight, "timeout", Failure.TIMEOUT, message)

    def _replace(self, post: _Post, suspects: list[_Flight], tries: int = TRIES) -> list[_Flight]:
        """Start another process in place of an ended one; returns the cases that had their last try."""
        remove_leftovers(self._crew.job.folder)
        last = [flight for flight in suspects if flight.task.attempt >= tries]
        again = [flight.task for flight in suspects if flight.task.attempt < tries]
        self._alone.extend(replace(task, attempt=task.attempt + 1) for task in again)
        innocent = [flight.task for flight in post.flights.values() if flight not in suspects]
        self._cases.extendleft(reversed(innocent))
        self._repeated.update(post.flights)
        self._crew.children.remove(post.child)
        post.child = self._crew.start(post.child.job.number)
        post.facts, post.flights, post.is_alone = None, {}, False
        return last


def _crash(flight: _Flight, ending: str) -> CaseResult:
    cause = "; the system does that when memory runs out" if ending == "SIGKILL" else ""
    message = f"{flight.task.case.id}: the worker process ended ({ending}) while {DOING[flight.stage]}{cause}"
    return _ended(flight, "crashed", ending, message)


def _ended(flight: _Flight, status: Status, reason: str, message: str) -> CaseResult:
    return CaseResult(flight.task.case.id, status, str(reason), message)
