"""A worker process as its supervisor sees it: started, spoken to and listened to through pipes, ended.

Plain child processes of the interpreter, not `multiprocessing`: they don't import the caller's script
again, so a notebook, a scheduler or a script without a ``__main__`` guard can start them. They are no
daemons, sit in a session of their own, where the terminal's Ctrl-C doesn't reach them, and end when their
standard input closes, however their supervisor ended.
"""

from __future__ import annotations

import signal
import subprocess
from contextlib import suppress
from dataclasses import dataclass, field
from queue import SimpleQueue
from threading import Thread
from typing import IO, Protocol

from medseg.batch.job import Job
from medseg.interpreter import command_of

EXIT_SECONDS = 5.0
"""Time that children get to end by themselves."""

Heard = tuple["Child", bytes]
"""A line from a child; an empty one is the end of what it says."""


class Child(Protocol):
    """A worker somewhere, as its supervisor sees it."""

    job: Job

    def send(self, line: bytes) -> None:
        """Give it a line to read."""
        ...

    def kill(self) -> None:
        """End it at once, whatever it does."""
        ...

    def ending(self) -> str:
        """Wait for its end and return how it ended, as a code."""
        ...


class ChildProcess:
    """One worker process on this machine.

    Parameters
    ----------
    job : what it is told first.
    inbox : where its lines go.
    """

    def __init__(self, job: Job, inbox: SimpleQueue[Heard]) -> None:
        self.job = job
        self._outbox: SimpleQueue[bytes | None] = SimpleQueue()
        self._process = subprocess.Popen(
            command_of("medseg.batch.worker_process:main"),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            # what libraries write there may quote a header
            stderr=None if job.debug else subprocess.DEVNULL,
            start_new_session=True,
        )
        # a pipe holds 64 KB and a case may have a thousand files: a child that hangs must not hold up its supervisor
        Thread(target=self._speak, args=(self._process.stdin,), daemon=True).start()
        Thread(target=self._listen, args=(self._process.stdout, inbox), daemon=True).start()
        self.send(job.to_line())

    @property
    def number(self) -> int:
        """Number of the process."""
        return self._process.pid

    def send(self, line: bytes) -> None:
        """Give the child a line to read."""
        self._outbox.put(line)

    def kill(self) -> None:
        """End the child at once, whatever it does."""
        self._outbox.put(None)
        self._process.kill()

    def ending(self, seconds: float = EXIT_SECONDS) -> str:
        """Wait for the child to end and return how it did: a signal such as "SIGSEGV", or "EXIT_1"."""
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(seconds)
        code = self._process.returncode
        if code is None:  # the kernel can't end a process that waits for a disk or a device
            return "STUCK"
        if code >= 0:
            return f"EXIT_{code}"
        with suppress(ValueError):
            return signal.Signals(-code).name
        return f"SIGNAL_{-code}"

    def _speak(self, stream: IO[bytes]) -> None:
        with suppress(OSError), stream:  # when the child has ended, the end of its lines tells so
            while line := self._outbox.get():
                stream.write(line)
                stream.flush()

    def _listen(self, stream: IO[bytes], inbox: SimpleQueue[Heard]) -> None:
        with stream:
            for line in stream:
                if line.endswith(b"\n"):  # a child may die within a word
                    inbox.put((self, line))
        inbox.put((self, b""))


@dataclass(slots=True)
class Crew:
    """The children at work, and what they say."""

    job: Job
    inbox: SimpleQueue[Heard] = field(default_factory=SimpleQueue)
    children: list[Child] = field(default_factory=list)

    def start(self, number: int) -> Child:
        """Start the worker of this number."""
        child = ChildProcess(self.job.model_copy(update={"number": number}), self.inbox)
        self.children.append(child)
        return child


def start_children(job: Job) -> Crew:
    """Start as many workers as the job wants."""
    crew = Crew(job)
    for number in range(job.workers):
        crew.start(number)
    return crew


def stop_children(crew: Crew) -> None:
    """End all children and take away what they were writing."""
    from medseg.io.files import remove_leftovers

    for child in crew.children:
        child.kill()
    for child in crew.children:
        child.ending()
    remove_leftovers(crew.job.folder)
