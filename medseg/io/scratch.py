"""A folder for what is unpacked: for its owner only, and gone when the work ends, however it ends.

A process that is killed can't wipe its folder. Each folder is locked as long as its process lives, so that the
next run finds the folders that nobody uses any more, and wipes them.
"""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from medseg.errors import OutputError
from medseg.io.files import lock_file

PREFIX = "medseg-scratch-"
LOCK = ".lock"


@contextmanager
def scratch_folder(parent: Path | None = None) -> Iterator[Path]:
    """Give an empty folder (mode 0700); it and all in it are removed at the end.

    Parameters
    ----------
    parent : where to make it; default: the system's folder for temporary files.

    Raises
    ------
    OutputError
        If it can't be made.
    """
    place = parent or Path(tempfile.gettempdir())
    try:
        place.mkdir(parents=True, exist_ok=True)
        _wipe_abandoned(place)
        new = Path(tempfile.mkdtemp(prefix=".medseg-", dir=place))
        lock = lock_file(new / LOCK)
        folder = new.rename(place / (PREFIX + new.name.rpartition("-")[2]))  # seen by others only when it is locked
    except OSError as error:
        raise OutputError(
            f"can't make a folder for temporary files in {place} ({error.strerror}); name another one with --workdir"
        ) from None
    try:
        yield folder
    finally:
        if lock is not None:
            os.close(lock)
        shutil.rmtree(folder, ignore_errors=True)


def _wipe_abandoned(place: Path) -> None:
    """Remove the folders of this user's processes that were killed, where the system has locks to know them by."""
    if os.name != "posix":
        return
    for folder in place.glob(f"{PREFIX}*"):
        with suppress(OSError):  # another run is wiping it, or it is somebody else's
            state = folder.lstat()
            if not stat.S_ISDIR(state.st_mode) or state.st_uid != os.getuid():
                continue
            lock = lock_file(folder / LOCK)  # made anew where a process was killed while it wiped the folder
            if lock is not None:
                shutil.rmtree(folder, ignore_errors=True)
                os.close(lock)
