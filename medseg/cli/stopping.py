"""SIGTERM as a wish to end in order."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Event
from types import FrameType


class _Stopped(BaseException):
    """Comes between any two instructions, as KeyboardInterrupt does."""


@contextmanager
def until_stopped() -> Iterator[Event]:
    """Let a block end in order at SIGTERM, whatever it waits for; gives an event that is set then."""
    stop = Event()

    def end(_signal: int, _frame: FrameType | None) -> None:
        if not stop.is_set():  # a second one must not disturb the tidying up
            stop.set()
            raise _Stopped

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield stop
    except _Stopped:
        pass
    finally:
        signal.signal(signal.SIGTERM, before)
