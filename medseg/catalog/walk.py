"""List the files under a folder, each exactly once, without opening any."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from medseg.errors import DatasetError, ReasonCode
from medseg.io.files import LEFTOVER

MAX_FILES = 2_000_000
MAX_DEPTH = 64


@dataclass(frozen=True, slots=True)
class Found:
    """A file, and why it is not even opened ("" if it may be).

    Attributes
    ----------
    path : its path.
    obstacle : a sentence such as "a hidden file"; "" for ordinary files.
    code : the reason that goes with it; any but `NOT_A_SCAN` means that there might be scans behind it.
    size, modified, inode : bytes, nanoseconds since 1970, and the file's number on its disk. Of a file in an
        archive its own size, and time and number of the archive.
    packed : size of the archive that it is in, if it is in one.
    """

    path: Path
    obstacle: str = ""
    code: ReasonCode = ReasonCode.NOT_A_SCAN
    size: int = 0
    modified: int = 0
    inode: int = 0
    packed: int = 0


def walk_files(root: Path) -> list[Found]:
    """Return every file under `root` (or `root` itself), sorted by path.

    Links to folders are followed, each folder once, so that loops end. Links to files count as files.

    Raises
    ------
    DatasetError
        If `root` does not exist, can't be opened, or holds more than `MAX_FILES` files.
    """
    if not root.exists():
        raise DatasetError(f"{root} does not exist; name the folder or file that holds the scans")
    if not root.is_dir():
        return [_describe(root)]
    try:
        os.scandir(root).close()
    except OSError as error:
        raise DatasetError(f"{root} can't be opened ({error.strerror}); ask for the right to read it") from None
    found: list[Found] = []
    for item in _walk(root):
        found.append(item)
        check_count(root, len(found))
    return sorted(found, key=lambda item: str(item.path))  # comparing paths takes ten times as long


def check_count(root: Path, files: int) -> None:
    """Refuse more than `MAX_FILES` files."""
    if files > MAX_FILES:
        raise DatasetError(f"{root} holds more than {MAX_FILES} files; index its subfolders one by one")


def _walk(root: Path) -> Iterator[Found]:
    seen: set[tuple[int, int]] = set()
    folders = [(root, 0)]
    while folders:
        folder, depth = folders.pop()
        try:
            state = folder.stat()
            entries = list(os.scandir(folder))
        except OSError as error:
            yield Found(folder, f"a folder that can't be opened ({error.strerror})", ReasonCode.UNREADABLE)
            continue
        if (state.st_dev, state.st_ino) in seen:
            continue
        seen.add((state.st_dev, state.st_ino))
        for entry in entries:
            path = Path(entry.path)
            if not _is_folder(entry):
                yield _describe(path)
            elif entry.name.startswith(LEFTOVER):
                yield Found(path, "a folder that was not finished")
            elif depth < MAX_DEPTH:
                folders.append((path, depth + 1))
            else:
                yield Found(path, f"a folder more than {MAX_DEPTH} levels deep", ReasonCode.UNREADABLE)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        return False


def _describe(path: Path) -> Found:
    try:
        state = path.stat()
    except OSError as error:
        return Found(path, f"a file that can't be opened ({error.strerror})", ReasonCode.UNREADABLE)
    if not stat.S_ISREG(state.st_mode):  # opening a pipe would wait for ever
        return Found(path, "not an ordinary file")
    hidden = "a hidden file" if path.name.startswith(".") else ""
    return Found(path, hidden, size=state.st_size, modified=state.st_mtime_ns, inode=state.st_ino)
