"""Write tables as CSV that is safe to open in a spreadsheet, and read what a spreadsheet made of them."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from heapq import merge
from pathlib import Path

from medseg.errors import OutputError
from medseg.io.files import atomic_file
from medseg.text import printable

FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r", "\n")
"""What makes a spreadsheet run a cell as a formula (OWASP, "CSV injection")."""

OWNER_ONLY = 0o600
"""Permissions of a table that may name patients, such as one of paths."""


def write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[object]], *, mode: int | None = None) -> None:
    """Write a CSV file, UTF-8, whole or not at all; None becomes an empty cell.

    Text that a spreadsheet would run as a formula (a case may be called ``=cmd|...``) is written with
    a leading apostrophe; numbers stay as they are. Characters that steer a terminal, and bytes of a file
    name that are no text, become question marks.

    Parameters
    ----------
    mode : the file's permissions, where the system has them, such as `OWNER_ONLY`; None: as of any new file.

    Raises
    ------
    OutputError
        If the file can't be written.
    """
    with atomic_file(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as stream:
        if mode is not None:
            temporary.chmod(mode)  # before the first row is in it
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow([harmless(name) for name in header])
        writer.writerows([harmless(cell) for cell in row] for row in rows)


def merge_csv(parts: Sequence[Path], path: Path, *, mode: int | None = None) -> None:
    """Write tables of `write_csv`, each in the order of its first column, as one in that order; cells stay as they are.

    However long the tables are, one row of each is in memory.

    Raises
    ------
    OutputError
        If a table can't be read or has another header than the first one, or the file can't be written.
    """
    with ExitStack() as files, atomic_file(path) as temporary:
        tables = [_rows(part, files) for part in parts]
        headers = [next(rows, []) for rows in tables]
        for part, header in zip(parts, headers, strict=True):
            if header != headers[0]:
                raise OutputError(f"{part} has other columns than {parts[0]}; write both again")
        with temporary.open("w", encoding="utf-8", newline="") as stream:
            if mode is not None:
                temporary.chmod(mode)
            writer = csv.writer(stream, lineterminator="\n")
            writer.writerow(headers[0])
            rows: Iterator[list[str]] = merge(*tables, key=lambda row: plain(row[0]))
            writer.writerows(rows)


def edited_rows(path: Path) -> list[list[str]]:
    """Return the rows of a table, whatever a spreadsheet that people edited it with has made of the file.

    Read are commas, semicolons or tabs, any line ends, a byte order mark, UTF-8, UTF-16 or Windows-1252. Cells come
    without blanks around them, and without the apostrophes of `write_csv`.

    Raises
    ------
    OSError, csv.Error
        If the file can't be read, or is no table.
    """
    text = _decoded(path.read_bytes())
    delimiter = max(",;\t", key=text.partition("\n")[0].count)
    rows = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    return [[plain(cell.strip()) for cell in row] for row in rows]


def harmless(cell: object) -> object:
    """Return what may be written as a cell: text that would be run or steer a terminal is defused (`write_csv`)."""
    if not isinstance(cell, str):
        return cell
    text = printable(cell)
    return f"'{text}" if cell.startswith(FORMULA_STARTS) else text


def plain(cell: str) -> str:
    """Return a cell's text without the apostrophe that keeps a spreadsheet from running it."""
    return cell[1:] if cell.startswith("'") and cell[1:].startswith(FORMULA_STARTS) else cell


def _decoded(raw: bytes) -> str:
    if raw.startswith((b"\xff\xfe", b"\xfe\xff")):
        return raw.decode("utf-16", "replace")
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError:
        return raw.decode("cp1252", "replace")


def _rows(path: Path, files: ExitStack) -> Iterator[list[str]]:
    try:
        return csv.reader(files.enter_context(path.open(encoding="utf-8", newline="")))
    except OSError as error:
        raise OutputError(f"{path}: can't be read ({error.strerror}); write it again") from None
