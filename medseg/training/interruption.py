"""Ctrl-C and SIGTERM as a wish to end behind the step at work, with a checkpoint."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Event, current_thread, main_thread
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def interruption() -> Iterator[Event]:
    """Give an event that is set at Ctrl-C, or at the SIGTERM that a scheduler sends before it kills.

    The second one ends the program at once. Without effect beside the main thread, which alone gets signals.
    """
    wanted = Event()

    def wish(_signal: int, _frame: FrameType | None) -> None:
        if wanted.is_set():
            raise KeyboardInterrupt
        wanted.set()

    if current_thread() is not main_thread():
        yield wanted
        return
    before = {number: signal.signal(number, wish) for number in SIGNALS}
    try:
        yield wanted
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
