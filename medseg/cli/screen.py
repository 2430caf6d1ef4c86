"""What the command line shows: errors, progress, tables. Rich is imported where it is needed."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from medseg.text import printable

if TYPE_CHECKING:
    from rich.console import Console

    from medseg.batch.run import Watcher
    from medseg.batch.summary import CaseResult


def console() -> Console:
    """Return the console that results are printed on; names can neither style nor steer it."""
    from medseg.cli.safe_console import SafeConsole

    return SafeConsole(highlight=False, markup=False, emoji=False)


def show_error(message: str) -> None:
    """Print one sentence on stderr, red on a terminal."""
    red, plain = ("\033[31m", "\033[0m") if sys.stderr.isatty() else ("", "")
    sys.stderr.write(f"{red}Error: {printable(message, lines=True)}{plain}\n")


@contextmanager
def case_progress() -> Iterator[Watcher]:
    """Show a bar of finished cases and a line for each that was not done; give the function to tell it."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console(), transient=True) as progress:
        task = progress.add_task("reading", total=None)

        def watch(result: CaseResult, ended: int, total: int) -> None:
            progress.update(task, description="segmenting", completed=ended, total=total)
            if not result.is_done:
                progress.console.print(f"{result.status} {result.case}: {result.message}", style="yellow")

        yield watch
