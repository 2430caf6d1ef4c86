"""How far work is: a bar on a terminal; of a batch a line now and then elsewhere. Loads rich."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Event, Thread
from time import monotonic
from typing import TYPE_CHECKING

from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

from medseg.cli.screen import console

if TYPE_CHECKING:
    from medseg.batch.run import Watcher
    from medseg.batch.summary import CaseResult

LINE_SECONDS = 10.0
"""Seconds between two lines where there is no terminal: a log of a night's run stays readable."""


class RateColumn(ProgressColumn):
    """Cases in a minute."""

    def render(self, task: Task) -> Text:
        """Return the rate, once there is one."""
        speed = task.finished_speed or task.speed
        return Text(f"{60 * speed:.0f} cases/min" if speed else "", style="cyan")


@contextmanager
def show_count(what: str) -> Iterator[Callable[[str, int, int], None]]:
    """Show a bar of what is counted; give the function that moves it.

    Parameters
    ----------
    what : is counted at first; the function is told what is by now, how many are done, and of how many.
    """
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console(), transient=True) as bar:
        task = bar.add_task(what, total=None)
        yield lambda what, done, total: bar.update(task, description=what, completed=done, total=total)


@contextmanager
def show_bar() -> Iterator[Watcher]:
    """Show a bar with cases a minute and time left, and a line for each case that was not done."""
    columns = (
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), RateColumn(), TimeRemainingColumn(),
    )  # fmt: skip
    with Progress(*columns, console=console(), transient=True) as progress:
        task = progress.add_task("reading", total=None)

        def watch(result: CaseResult, ended: int, total: int) -> None:
            progress.update(task, description="segmenting", completed=ended, total=total)
            if not result.is_done:
                progress.console.print(f"{result.status} {result.case}: {result.message}", style="yellow")

        yield watch


@contextmanager
def show_lines() -> Iterator[Watcher]:
    """Print a line every `LINE_SECONDS`, and one for each case that was not done."""
    screen, began, over = console(), monotonic(), Event()
    ended, total = 0, 0

    def watch(result: CaseResult, now: int, of: int) -> None:
        nonlocal ended, total
        ended, total = now, of
        if not result.is_done:
            screen.print(f"{result.status} {result.case}: {result.message}")

    def tell() -> None:
        while not over.wait(LINE_SECONDS):
            screen.print(describe_progress(ended, total, monotonic() - began))

    teller = Thread(target=tell, name="medseg-progress", daemon=True)
    teller.start()
    try:
        yield watch
    finally:
        over.set()
        teller.join()


def describe_progress(ended: int, total: int, seconds: float) -> str:
    """Return how far a batch is after so many seconds, as a line.

    Examples
    --------
    >>> describe_progress(30, 200, 600)
    '30 of 200 cases, 3 a minute, 57 min left'
    >>> describe_progress(0, 0, 20)
    'no case has ended yet, after 20 s'
    >>> describe_progress(35, 208, 10), describe_progress(1, 2, 90)
    ('35 of 208 cases, 210 a minute, 1 min left', '1 of 2 cases, 0.67 a minute, 2 min left')
    """
    if not ended:
        return f"no case has ended yet, after {seconds:.0f} s"
    left, pace = seconds / ended * (total - ended), 60 * ended / seconds
    paced = f"{pace:.0f}" if pace >= 10 else f"{pace:.2g}"
    return f"{ended} of {total} cases, {paced} a minute, {left / 60:.0f} min left"
