"""What is shown while a batch runs, with a terminal and without."""

from __future__ import annotations

import errno
import io
from time import monotonic, sleep

import pytest
from rich.console import Console

from medseg.batch.summary import CaseResult
from medseg.cli import progress
from medseg.cli.safe_console import SafeConsole
from medseg.cli.screen import case_progress

DONE, CRASHED = CaseResult("a", "done"), CaseResult("b", "crashed", "SIGSEGV", "b: it crashed")


@pytest.fixture
def screen(monkeypatch):
    """Return a function that makes the console one with a terminal or without, and gives what it shows."""

    def make(terminal: bool) -> io.StringIO:
        stream = io.StringIO()
        shown = SafeConsole(file=stream, force_terminal=terminal, width=120, _environ={"TERM": "xterm"})
        monkeypatch.setattr("medseg.cli.screen.console", lambda: shown)
        monkeypatch.setattr("medseg.cli.progress.console", lambda: shown)
        return stream

    return make


def test_without_a_terminal_a_line_comes_now_and_then_also_while_no_case_ends(screen, monkeypatch):
    stream, began = screen(terminal=False), monotonic()
    monkeypatch.setattr(progress, "LINE_SECONDS", 0.05)

    def wait_for(words):
        while words not in stream.getvalue():
            assert monotonic() < began + 30
            sleep(0.01)

    with case_progress() as watch:
        wait_for("no case has ended yet, after 0 s")
        for ended, result in enumerate([DONE, CRASHED], start=1):
            watch(result, ended, 10)
        wait_for("2 of 10 cases")
    lines = stream.getvalue().splitlines()
    assert "crashed b: b: it crashed" in lines
    sleep(0.2)
    assert stream.getvalue().splitlines() == lines, "no line comes when all is over"


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), BrokenPipeError()])
def test_a_log_that_is_full_or_closed_does_not_end_the_batch(screen, monkeypatch, error):
    stream, lines = screen(terminal=False), []
    monkeypatch.setattr(progress, "LINE_SECONDS", 0.01)
    monkeypatch.setattr(SafeConsole, "has_told", False)

    def end(self):
        raise SystemExit(1)  # as rich does, after it has closed standard output

    def write(text):
        lines.append(text)
        raise error

    monkeypatch.setattr(Console, "on_broken_pipe", end)
    stream.write = write
    with case_progress() as watch:
        watch(CRASHED, 1, 10)
        began = monotonic()
        while len(lines) < 4:  # the lines go on, too
            assert monotonic() < began + 30
            sleep(0.01)


def test_on_a_terminal_there_is_a_bar_with_the_rate(screen):
    stream = screen(terminal=True)
    with case_progress() as watch:
        for ended in range(1, 5):
            watch(DONE, ended, 4)
        watch(CRASHED, 4, 4)
    shown = stream.getvalue()
    assert "cases/min" in shown
    assert "4/4" in shown
    assert "crashed b: b: it crashed" in shown
