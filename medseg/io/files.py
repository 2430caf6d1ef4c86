"""Write files and folders so that a half-written one is never seen.

Everything is written beside its target under a hidden temporary name and renamed; a crash leaves at most
a hidden leftover, which no reader of medseg looks at and `remove_leftovers` takes away. Single files are
flushed to the disk before the rename, so that a power cut can't leave an empty one under the final name. The
files of a folder are not: a flush costs 10 ms and more, a scan has hundreds of slices, and whoever relies on a
folder checks its digests.
"""

from __future__ import annotations

import errno
import os
import platform
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from hashlib import sha256
from pathlib import Path
from time import time

from medseg.errors import OutputError

CAUSES = {
    errno.ENOSPC: "the disk is full; free some space",
    errno.EDQUOT: "the disk quota is used up; free some space",
    errno.EACCES: "there is no permission to write there; choose another folder or change its permissions",
    errno.EPERM: "there is no permission to write there; choose another folder or change its permissions",
    errno.EROFS: "the file system is read-only; choose another folder",
    errno.EEXIST: "a part of that path is a file, not a folder; choose another folder",
    errno.ENOTDIR: "a part of that path is a file, not a folder; choose another folder",
    errno.ENAMETOOLONG: "the name is too long; choose a shorter one",
}

LEFTOVER = ".tmp-"
"""How the names of files and folders begin that are being written."""

STALE_SECONDS = 24 * 3600
"""Age from which a leftover of another machine is taken away: nothing is written for that long."""


@contextmanager
def atomic_file(target: Path) -> Iterator[Path]:
    """Give a temporary path to write; it becomes `target` when the block ends without an error.

    The temporary name keeps the target's ending (``.nii.gz``), because writers choose their format by
    it. Missing parent folders are made.

    Raises
    ------
    OutputError
        If anything in the block or the renaming fails with an `OSError` (disk full, no permission).
    """
    temporary = _temporary_name(target)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        flush_file(temporary)
        os.replace(temporary, target)
    except OSError as error:
        raise _output_error(target, error) from error
    finally:
        _discard(temporary)


def write_text(target: Path, text: str) -> None:
    """Write a text file, UTF-8, whole or not at all; raises `OutputError` as `atomic_file`."""
    with atomic_file(target) as path:
        path.write_text(text, encoding="utf-8")


@contextmanager
def atomic_folder(target: Path) -> Iterator[Path]:
    """Give a temporary folder to fill; it becomes `target` when the block ends without an error.

    An existing `target` is replaced: it is moved aside first and deleted last, so that at no moment
    a mixture of old and new files is visible. Of several processes that make it at once, the last one's stays.

    Raises
    ------
    OutputError
        If anything in the block or the renaming fails with an `OSError` (disk full, no permission).
    """
    temporary, old = _temporary_name(target), _temporary_name(target)
    try:
        temporary.mkdir(parents=True)
        yield temporary
        _replace_folder(temporary, target, old)
    except OSError as error:
        raise _output_error(target, error) from error
    finally:
        if old.exists() and not target.exists():  # stopped in between, by whatever it was
            os.replace(old, target)
        _discard(temporary)
        _discard(old)


def _replace_folder(new: Path, target: Path, old: Path) -> None:
    """Rename `new` to `target`, and what was there to `old`; another process may put its own there in between."""
    while True:
        with suppress(FileNotFoundError):
            os.replace(target, old)
        try:
            os.replace(new, target)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST) or not target.exists():
                raise
            _discard(old)
        else:
            return


def is_empty_folder(folder: Path) -> bool:
    """Whether this is a folder with nothing in it."""
    return folder.is_dir() and next(folder.iterdir(), None) is None


def append_line(path: Path, line: bytes, *, mode: int = 0o644) -> None:
    """Add a line to a log; a part of one that a full disk or a kill left behind gets a line of its own.

    Lines of several processes come one after the other, whole, because the file is opened anew for each of them.

    Raises
    ------
    OSError
        If it can't be written, or not whole.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, mode)
    try:
        size = os.lseek(descriptor, 0, os.SEEK_END)
        os.lseek(descriptor, max(size - 1, 0), os.SEEK_SET)
        is_cut = os.read(descriptor, 1) not in (b"", b"\n")
        whole = (b"\n" if is_cut else b"") + line + b"\n"
        if os.write(descriptor, whole) < len(whole):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    finally:
        os.close(descriptor)


def lock_file(path: Path) -> int | None:
    """Lock a file, made if needed, for as long as its descriptor, which is returned, is open; None if others have it.

    Where the system has no such locks, everybody gets one.

    Raises
    ------
    OSError
        If the file can't be opened.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    if os.name == "posix":
        import fcntl

        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(descriptor)
            return None
    return descriptor


def flush_file(path: Path) -> None:
    """Have what was written to a file on the disk."""
    with path.open("rb" if os.name == "posix" else "r+b") as stream:  # Windows flushes only what is open for writing
        os.fsync(stream.fileno())


def flush_folder(folder: Path) -> None:
    """Have the names in a folder written to the disk; without this a power cut can undo a rename."""
    if os.name != "posix":  # Windows opens no folders
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove_leftovers(folder: Path) -> None:
    """Delete what crashed processes left half-written in a folder.

    Those of this machine are known by their process numbers. Other machines may be writing into the same
    folder, so what comes from them is deleted after a day only.
    """
    for path in folder.glob(f"{LEFTOVER}*-*-*"):
        with suppress(OSError, ValueError):  # another process may be tidying up, too
            place, process = path.name.split("-")[1:3]
            is_dead = place == _place() and not _is_running(int(process))
            if is_dead or time() - path.stat().st_mtime > STALE_SECONDS:
                _discard(path)


def _temporary_name(target: Path) -> Path:
    ending = "".join(target.suffixes[-2:]) if target.name.endswith(".gz") else target.suffix
    return target.with_name(f"{LEFTOVER}{_place()}-{os.getpid()}-{secrets.token_hex(4)}{ending}")


@cache
def _place() -> str:
    """Return a word for where process numbers are unique: the machine since its start, or a container on it."""
    parts = [platform.node()]
    with suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii"))
        parts.append(str(os.stat("/proc/self/ns/pid").st_ino))
    return sha256("\0".join(parts).encode()).hexdigest()[:8]


def _is_running(process: int) -> bool:
    if os.name != "posix":
        return True  # signal 0 is no question there but a signal
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return not _is_zombie(process)


def _is_zombie(process: int) -> bool:
    """Tell whether a process has ended and nobody has asked how: in a container without an init, orphans stay so."""
    try:
        facts = Path(f"/proc/{process}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False  # no Linux, or taken away since
    return facts.rpartition(")")[2].split()[0] == "Z"  # the name in parentheses may hold some itself


def _discard(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink()


def cause_of(error: OSError) -> str:
    """Return why a file can't be written, and what to do about it where that is known."""
    return CAUSES.get(error.errno or 0, error.strerror or type(error).__name__)


def read_back_error(target: Path) -> OutputError:
    """Return the error of a file that does not hold what was written."""
    return OutputError(f"{target} reads back differently from what was written; check the disk and try again")


def _output_error(target: Path, error: OSError) -> OutputError:
    return OutputError(f"can't write {target}: {cause_of(error)}")
