"""How long a training may take: deadlines are times of `time.monotonic`, and None where there is none."""

from __future__ import annotations

import time

SHORTEST = 1e-3
"""Seconds that a part gets at least, s: what begins too late still sees its checkpoint and says that time is up."""


def deadline_in(seconds: float | None) -> float | None:
    """Return the deadline in so many seconds; None: never."""
    return None if seconds is None else time.monotonic() + seconds


def seconds_left(deadline: float | None) -> float | None:
    """Return the seconds until a deadline, at least `SHORTEST`; None: without end."""
    return None if deadline is None else max(SHORTEST, deadline - time.monotonic())
