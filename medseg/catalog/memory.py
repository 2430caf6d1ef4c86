"""What the last index of a folder read, so that the next one opens only what changed since.

A file counts as unchanged when path, size, time of change and number on its disk are the same. The memory is a
small database beside the catalogue. It holds what series are told apart by, patients' identifiers included, and
is readable by its owner only; one that others could read or write, that is damaged, or that another version,
policy or folder made, is not believed: everything is read again, and `Memory.note` says why.
"""

from __future__ import annotations

import os
import sqlite3
import stat
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from time import time_ns
from typing import Generic, TypeVar

from pydantic import TypeAdapter, ValidationError

from medseg.catalog.entries import Places
from medseg.catalog.walk import Found
from medseg.config import IngestConfig
from medseg.errors import OutputError
from medseg.io.files import atomic_file
from medseg.io.tables import OWNER_ONLY
from medseg.provenance import digest_json, package_versions

ENDING = ".memory"
"""Added to the name of the catalogue."""

MEMORY_VERSION = 5
"""Raised with every change of what files are judged by."""

SETTLED_NS = 2_000_000_000
"""A file that changed less than this before it was indexed is read again: it may have changed once more within the
same tick of the clock, which on some disks is two seconds (FAT)."""

DAMAGED = "it is damaged"
TABLES = """
PRAGMA journal_mode = OFF;
PRAGMA synchronous = OFF;
CREATE TABLE made (by TEXT);
CREATE TABLE facts (place BLOB, kind TEXT, state TEXT, facts TEXT, PRIMARY KEY (place, kind)) WITHOUT ROWID;
"""


T = TypeVar("T")


class Kind(Generic[T]):
    """A kind of facts, stored as JSON.

    Parameters
    ----------
    name : its name.
    adapter : what the facts are; changes of their fields make another kind of it.
    """

    def __init__(self, name: str, adapter: TypeAdapter[T]) -> None:
        self.adapter = adapter
        self.name = f"{name} {digest_json(adapter.json_schema())[:16]}"


class Memory:
    """Facts about files from the last index, and those of this one.

    Parameters
    ----------
    old, new : databases to look facts up in and to write them to; None: nothing is known, or kept.
    note : why the last index's facts are not used; "" if they are, or there were none.
    """

    def __init__(
        self, old: sqlite3.Connection | None = None, new: sqlite3.Connection | None = None, note: str = ""
    ) -> None:
        self.old, self.new, self.note = old, new, note
        self.settled = time_ns() - SETTLED_NS

    def recall(self, item: Found, places: Places, kind: Kind[T]) -> T | None:
        """Return the facts of one kind about a file that has not changed; None if there are none.

        They are kept for the next time, too.
        """
        if self.old is None:
            return None
        place = places.of(item.path)
        question = "SELECT facts FROM facts WHERE place = ? AND kind = ? AND state = ?"
        try:
            row = self.old.execute(question, (os.fsencode(place), kind.name, _state(item))).fetchone()
            facts = None if row is None else kind.adapter.validate_json(row[0])
        except sqlite3.Error:
            self.old, self.note = None, DAMAGED
            return None
        except ValidationError:  # a number that JSON does not know, say: this file is read again
            return None
        if facts is not None:
            self._write(item, place, kind, row[0])
        return facts

    def keeps(self, item: Found) -> bool:
        """Whether facts about a file are remembered: not if it changed only just now."""
        return self.new is not None and item.modified < self.settled

    def keep(self, item: Found, places: Places, kind: Kind[T], facts: T) -> None:
        """Remember facts about a file where that may be done."""
        if self.keeps(item):
            self._write(item, places.of(item.path), kind, kind.adapter.dump_json(facts, exclude_defaults=True))

    def _write(self, item: Found, place: Path, kind: Kind[T], facts: bytes) -> None:
        if self.new is not None:
            row = (os.fsencode(place), kind.name, _state(item), facts)
            self.new.execute("INSERT OR REPLACE INTO facts VALUES (?, ?, ?, ?)", row)


@contextmanager
def remembering(catalog: Path, root: Path, policy: IngestConfig) -> Iterator[Memory]:
    """Open the memory beside a catalogue; when the block ends without an error, it holds what this index has met.

    Parameters
    ----------
    catalog : the catalogue's file.
    root : the indexed folder.
    policy : what is done about faults, which some facts follow from.

    Raises
    ------
    OutputError
        If it can't be written.
    """
    path = catalog.with_name(catalog.name + ENDING)
    place, wishes = os.fsencode(root.resolve()).hex(), policy.model_dump(mode="json")
    made = digest_json([MEMORY_VERSION, place, package_versions(), wishes])
    old, note = _open(path, made)
    try:
        with atomic_file(path) as temporary:
            temporary.touch(OWNER_ONLY)
            with closing(sqlite3.connect(temporary)) as new:
                new.executescript(TABLES)
                new.execute("INSERT INTO made VALUES (?)", (made,))
                yield Memory(old, new, note)
                new.commit()
    except sqlite3.Error as error:
        raise OutputError(f"can't write {path} ({error}); free some space or choose another folder") from None
    finally:
        if old is not None:
            old.close()


def _open(path: Path, made: str) -> tuple[sqlite3.Connection | None, str]:
    """Return the database of the last index, or why it is not to be used."""
    try:
        state = path.lstat()
    except OSError:
        return None, ""
    is_private = os.name != "posix" or (not state.st_mode & 0o077 and state.st_uid == os.getuid())
    if not (stat.S_ISREG(state.st_mode) and is_private):
        return None, "others can read or write it"
    try:
        old = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro&immutable=1", uri=True)
    except sqlite3.Error:
        return None, "it can't be opened"
    try:
        if old.execute("SELECT by FROM made").fetchall() == [(made,)]:
            return old, ""
        note = "another folder, version of medseg or policy made it"
    except sqlite3.Error:
        note = DAMAGED
    old.close()
    return None, note


def _state(item: Found) -> str:
    return f"{item.size} {item.modified} {item.inode} {item.packed}"
