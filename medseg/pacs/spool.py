"""The queue on disk: what is acknowledged is there, and stays there until it is done or has failed.

A step from state to state is one rename, flushed, so that a crash leaves a study in the state before or in the
state after. Instances are written to ``incoming/``, flushed, and then renamed into the folder of their study. Names
of folders and files are keyed hashes of UIDs: what a sender says is never a path.
"""

from __future__ import annotations

import os
import re
import secrets
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Lock
from time import monotonic, time, time_ns

from medseg.catalog.identity import pseudonym
from medseg.errors import ConfigError, OutputError, ScanError
from medseg.io.dicom_headers import read_headers
from medseg.io.files import cause_of, flush_file, flush_folder, lock_file
from medseg.pacs.refusal import RefusedError, Status
from medseg.pacs.settings import Limits
from medseg.pacs.study import SCANS, STATES, State, Study

UID = re.compile(r"[0-9]+(\.[0-9]+)*")
UID_LETTERS = 64
INSTANCE_DIGITS = 32

INCOMING, RECEIVED, WORK, LOCK = "incoming", "received", "work", ".lock"


class Spool:
    """The folder of the queue; every method may be called from any thread.

    Parameters
    ----------
    root : made if needed, for its owner only.
    key : of the pseudonyms.
    limits : of an instance's size and the folder's.

    Raises
    ------
    ConfigError
        If others can read the folder, or another process uses it.
    OutputError
        If it can't be made.
    """

    def __init__(self, root: Path, key: bytes, limits: Limits) -> None:
        self.root, self._key, self._limits = root, key, limits
        self._changes = Lock()
        self._last: dict[str, float] = {}
        self._writing: dict[str, int] = {}
        try:
            self._open()
        except OSError as error:
            raise OutputError(f"can't use {root} as the queue: {cause_of(error)}") from None
        self._used = self.measure()

    def _open(self) -> None:
        self.root.mkdir(parents=True, exist_ok=True, mode=0o700)
        mode = self.root.stat().st_mode & 0o777
        if mode & 0o077:
            raise ConfigError(f"others can enter the queue {self.root} (mode {mode:o}); run chmod 700 on it")
        handle = lock_file(self.root / LOCK)
        if handle is None:
            raise ConfigError(f"another medseg listen uses the queue {self.root}; give each one its own")
        self._handle = handle
        for name in (INCOMING, WORK):
            shutil.rmtree(self.root / name, ignore_errors=True)
        for name in (INCOMING, RECEIVED, *STATES):
            (self.root / name).mkdir(exist_ok=True)
        for folder in (self.root.parent, self.root, self.root / RECEIVED):  # what a killed process may not have flushed
            flush_folder(folder)
        for folder in (self.root / RECEIVED).iterdir():
            if any(Study(folder).scans.glob("*.dcm")):
                self._last[folder.name] = monotonic()

    @property
    def work(self) -> Path:
        """Where a study's results are made; what lies there belongs to nobody after a crash."""
        return self.root / WORK

    def close(self) -> None:
        """Let another process use the folder."""
        os.close(self._handle)

    # ---- receiving

    def store(self, pieces: Sequence[bytes | memoryview], sop_class: str, instance: str) -> str:
        """Write one instance and return its study's pseudonym; when this returns, it is safely on disk.

        Parameters
        ----------
        pieces : the parts of a DICOM file, one after the other.
        sop_class, instance : UIDs that the sender gave for it.

        Raises
        ------
        RefusedError
            With the DICOM status: no room, no UIDs, other UIDs than announced, no DICOM.
        """
        size = sum(len(piece) for piece in pieces)
        with self._reserved(size):
            path = self.root / INCOMING / f"{secrets.token_hex(8)}.dcm"
            try:
                _write(path, pieces)
                study = self._study_of(path, sop_class, instance)
                self._file(path, study, pseudonym(self._key, instance, "instance", INSTANCE_DIGITS))
            except OSError as error:
                raise RefusedError(Status.NO_ROOM, f"an instance can't be written: {cause_of(error)}") from None
            finally:
                path.unlink(missing_ok=True)
        return study

    @contextmanager
    def _reserved(self, size: int) -> Iterator[None]:
        """Count the bytes of an instance before it is written, so that many at once stay within the quota."""
        if size > self._limits.instance_bytes:
            raise RefusedError(
                Status.NO_ROOM,
                f"an instance has more than {self._limits.instance_mb:g} MB, the limit of --max-instance-mb",
            )
        with self._changes:
            if self._used + size > self._limits.quota_gb * 1e9:
                raise RefusedError(
                    Status.NO_ROOM, f"the queue is full ({self._limits.quota_gb:g} GB, the limit of --quota-gb)"
                )
            if shutil.disk_usage(self.root).free - size < self._limits.free_gb * 1e9:
                raise RefusedError(
                    Status.NO_ROOM, f"less than {self._limits.free_gb:g} GB would be free on the queue's disk"
                )
            self._used += size
        try:
            yield
        except BaseException:
            with self._changes:
                self._used -= size
            raise

    def _study_of(self, path: Path, sop_class: str, instance: str) -> str:
        """Return the pseudonym of the study that an instance belongs to by its own header."""
        try:
            headers = read_headers(path)
        except ScanError as error:
            raise RefusedError(Status.NOT_UNDERSTOOD, str(error)) from None
        if not headers:
            raise RefusedError(Status.NOT_UNDERSTOOD, "an instance has no DICOM header")
        header = headers[0]
        if header.instance != instance or header.sop_class != sop_class:
            raise RefusedError(Status.MISMATCH, "an instance's own UIDs are not those that the sender announced")
        for what, uid in (("SOP instance", instance), ("study", header.study)):
            if len(uid) > UID_LETTERS or not UID.fullmatch(uid):
                raise RefusedError(Status.NOT_UNDERSTOOD, f"an instance has no valid UID of its {what}")
        return pseudonym(self._key, f"study|{header.study}", "study")

    def _file(self, path: Path, study: str, name: str) -> None:
        folder = self.root / RECEIVED / study / SCANS
        with self._changes:
            if not folder.exists():
                folder.mkdir(parents=True)
                flush_folder(folder.parent)
                flush_folder(folder.parent.parent)
            self._writing[study] = self._writing.get(study, 0) + 1
        try:
            os.replace(path, folder / f"{name}.dcm")
            flush_folder(folder)
            self._last[study] = monotonic()
        finally:
            with self._changes:
                self._writing[study] -= 1

    # ---- from state to state

    def complete(self, quiet_seconds: float) -> list[Study]:
        """Move on the studies for which nothing came for so long; returns them.

        Instances that came earlier and are still in the queue are joined: a late slice must not be segmented alone.
        """
        studies = []
        with self._changes:
            now = monotonic()
            for name, last in list(self._last.items()):
                if now - last >= quiet_seconds and not self._writing.get(name):
                    studies.append(self._complete(name))
                    del self._last[name]
                    self._writing.pop(name, None)
        return studies

    def _complete(self, name: str) -> Study:
        received = Study(self.root / RECEIVED / name)
        queued = self._all(name)
        for earlier in queued:
            for scan in earlier.scans.glob("*.dcm"):
                self._link(scan, received.scans / scan.name)
        flush_folder(received.scans)
        waiting = [study for study in queued if study.folder.parent.name == "complete"]
        for earlier in waiting:  # all it has is received
            self._remove(earlier)
        study = Study(self.root / "complete" / f"{name}.{time_ns():x}")
        _rename(received.folder, study.folder)
        return study

    def _link(self, scan: Path, target: Path) -> None:
        """Have a file in a second folder, whole: at no cost where the file system can, else as a flushed copy."""
        if target.exists():
            return
        try:
            os.link(scan, target)
        except OSError:
            copy = self.root / INCOMING / target.name
            shutil.copyfile(scan, copy)
            flush_file(copy)
            os.replace(copy, target)

    def _all(self, name: str) -> list[Study]:
        """Return what is in the queue of a study, the latest first: of an instance that came twice it is the truth."""
        found = [path for state in STATES for path in (self.root / state).glob(f"{name}.*")]
        return [Study(path) for path in sorted(found, key=lambda path: path.name, reverse=True)]

    def listed(self, state: State) -> list[Study]:
        """Return the studies in a state, the one that waits longest first."""
        with self._changes:
            paths = [path for path in (self.root / state).iterdir() if not path.name.startswith(".")]
        return [Study(path) for path in sorted(paths, key=lambda path: path.name.partition(".")[2])]

    def move(self, study: Study, state: State) -> Study:
        """Bring a study into a state; its record must have been written before."""
        target = self.root / state / study.folder.name
        with self._changes:
            _rename(study.folder, target)
        return Study(target)

    def end(self, study: Study, state: State, **changes: object) -> Study:
        """Bring a study to its end, done or failed."""
        study.note(ended=time(), **changes)
        return self.move(study, state)

    def expired(self, state: State, hours: float) -> list[Study]:
        """Remove the studies that ended in a state so long ago; returns them."""

        def ended(study: Study) -> float:
            return study.record.ended or study.folder.stat().st_mtime

        old = [study for study in self.listed(state) if time() - ended(study) >= hours * 3600]
        for study in old:
            self._remove(study)
        if old:
            self.measure()
        return old

    def _remove(self, study: Study) -> None:
        """Delete a study; no half of it may be taken for a whole one after a crash."""
        aside = self.root / INCOMING / study.folder.name
        _rename(study.folder, aside)
        shutil.rmtree(aside)

    def measure(self) -> int:
        """Count what the folder holds, bytes."""
        with self._changes:
            self._used = sum(_sizes(self.root).values())
        return self._used


def _sizes(folder: Path) -> dict[tuple[int, int], int]:
    """Return the bytes of each file by its device and number: one that several folders hold takes room once."""
    sizes = {}
    for parent, _, files in os.walk(folder):
        for name in files:
            with suppress(OSError):  # moved on meanwhile
                state = os.lstat(Path(parent, name))
                sizes[state.st_dev, state.st_ino] = state.st_size
    return sizes


def _write(path: Path, pieces: Sequence[bytes | memoryview]) -> None:
    with open(path, "xb") as stream:
        for piece in pieces:
            stream.write(piece)
        stream.flush()
        os.fsync(stream.fileno())


def _rename(folder: Path, target: Path) -> None:
    os.rename(folder, target)
    flush_folder(target.parent)
    flush_folder(folder.parent)
