"""What the command line shows: errors, progress, tables. Rich is imported where it is needed."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import typer

from medseg.errors import ReasonCode
from medseg.text import printable

if TYPE_CHECKING:
    from rich.console import Console

    from medseg.batch.run import Watcher

UNFINISHED = 1
"""Exit code of what is not done yet, so that a script can tell; 0 would say that there is a model."""


def console() -> Console:
    """Return the console that results are printed on; names can neither style nor steer it."""
    from medseg.cli.safe_console import SafeConsole

    return SafeConsole(highlight=False, markup=False, emoji=False)


def show_error(message: str) -> None:
    """Print one sentence on stderr, red on a terminal, if there is one that can be written."""
    if sys.stderr is None:  # closed, as some services have it
        return
    red, plain = ("\033[31m", "\033[0m") if sys.stderr.isatty() else ("", "")
    with suppress(OSError):
        sys.stderr.write(f"{red}Error: {printable(message, lines=True)}{plain}\n")


def show_unread(unread: Mapping[str, int]) -> None:
    """Print how many files of each ending are images that medseg doesn't read, if there are any, and what to do."""
    if unread:
        files = ", ".join(f"{count} {ending}" for ending, count in unread.items())
        console().print(f"left out: {files}; medseg reads NIfTI and DICOM: convert them to NIfTI", style="yellow")


def show_no_scan(left_out: Mapping[str, int], tables: Path) -> None:
    """Print on stderr that there was nothing to do, and why: no scan, or none that the series rules chose."""
    if str(ReasonCode.NOT_SELECTED) in left_out:
        why = tables / "selection.csv"
        show_error(f"no series meets the rules of --series-rule; {why} says of each why not: make the rules wider")
        return
    files = ", ".join(f"{count} {reason}" for reason, count in left_out.items())
    found = f" (files left out: {files})" if files else ""
    show_error(f"no scan was found{found}; give a folder with NIfTI or DICOM scans somewhere in it")


def show_time_is_up(output: Path) -> NoReturn:
    """Print how a training goes on that ``--max-seconds`` stopped, and end with `UNFINISHED`."""
    console().print(f"Time is up: the checkpoint is in {output}; the same command goes on from it.")
    raise typer.Exit(UNFINISHED)


def case_progress() -> AbstractContextManager[Watcher]:
    """Show how far a batch is, and each case that was not done; gives the function to tell it."""
    from medseg.cli.progress import show_bar, show_lines

    return show_bar() if console().is_terminal else show_lines()
