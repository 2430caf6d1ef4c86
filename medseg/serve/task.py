"""Work that goes on in the background, as a client is told of it."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal
from uuid import uuid4

State = Literal["RUNNING", "DONE", "ERROR", "STOPPED"]

LINES = 20
"""Lines that are kept of what a task says."""


def _now() -> str:
    return datetime.now().strftime("%Y-%m-%d %H:%M:%S")


@dataclass(slots=True)
class BackgroundTask:
    """One piece of work.

    Attributes
    ----------
    model : that works, or is trained.
    details : what it says, the last line last; never empty, because Slicer's module takes the last one.
    """

    model: str
    details: deque[str]
    id: str = field(default_factory=lambda: str(uuid4()))
    status: State = "RUNNING"
    started: str = field(default_factory=_now)
    ended: str = ""

    @classmethod
    def begun(cls, model: str, line: str) -> BackgroundTask:
        """Return a task that begins with a line."""
        return cls(model, deque([line], maxlen=LINES))

    @property
    def is_running(self) -> bool:
        """Whether it has not ended."""
        return self.status == "RUNNING"

    def end(self, status: State, line: str) -> None:
        """Say how it ended."""
        self.details.append(line)
        self.status, self.ended = status, _now()

    def described(self) -> dict[str, Any]:
        """Return it as MONAI Label's clients read it."""
        told = {"id": self.id, "status": self.status, "start_ts": self.started, "details": list(self.details)}
        return {**told, "request": {"model": self.model}, **({"end_ts": self.ended} if self.ended else {})}
