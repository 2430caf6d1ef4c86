"""Write tables as CSV that is safe to open in a spreadsheet."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from pathlib import Path

from medseg.io.files import atomic_file
from medseg.text import printable

FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r", "\n")
"""What makes a spreadsheet run a cell as a formula (OWASP, "CSV injection")."""

OWNER_ONLY = 0o600
"""Permissions of a table that may name patients, such as one of paths."""


def write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[object]], *, mode: int = 0o644) -> None:
    """Write a CSV file, UTF-8, whole or not at all; None becomes an empty cell.

    Text that a spreadsheet would run as a formula (a case may be called ``=cmd|...``) is written with
    a leading apostrophe; numbers stay as they are. Characters that steer a terminal, and bytes of a file
    name that are no text, become question marks.

    Parameters
    ----------
    mode : the file's permissions, where the system has them, such as `OWNER_ONLY`.

    Raises
    ------
    OutputError
        If the file can't be written.
    """
    with atomic_file(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as stream:
        temporary.chmod(mode)  # before the first row is in it
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow([_harmless(name) for name in header])
        writer.writerows([_harmless(cell) for cell in row] for row in rows)


def _harmless(cell: object) -> object:
    if not isinstance(cell, str):
        return cell
    text = printable(cell)
    return f"'{text}" if cell.startswith(FORMULA_STARTS) else text
