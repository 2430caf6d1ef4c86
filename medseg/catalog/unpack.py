"""The archives of a scan folder: their files take their place in the catalogue.

An archive is unpacked into a folder of its own in a scratch folder. In names, tables and digests its files are
called by the archive's path and their number in it, so that the catalogue is the same wherever they were unpacked.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from pydantic import TypeAdapter

from medseg.catalog.entries import Places
from medseg.catalog.memory import Kind, Memory
from medseg.catalog.walk import Found, check_count
from medseg.errors import ReasonCode, ScanError
from medseg.io.archives import Member, list_archive, unpack_archive
from medseg.io.scratch import scratch_folder

ENDING = ".zip"
MEMBERS = Kind("archive", TypeAdapter(tuple[Member, ...]))


class Archives:
    """The archives met so far, each with the folder that its files are in; wiped at the end of a ``with`` block.

    Parameters
    ----------
    workdir : where the scratch folder is made when it is needed; default: the system's temporary folder.
    """

    def __init__(self, workdir: Path | None = None) -> None:
        self.workdir = workdir
        self.scratch = ExitStack()
        self.folder: Path | None = None
        self.by_folder: dict[Path, Path] = {}

    def __enter__(self) -> Archives:
        return self

    def __exit__(self, *error: object) -> None:
        self.scratch.close()

    def expand_all(self, found: Sequence[Found], places: Places, memory: Memory) -> list[Found]:
        """Return files with those of zip archives in the archives' places.

        Archives are unpacked, unless the memory knows what they hold.

        Raises
        ------
        DatasetError
            If there are too many files.
        OutputError
            If the scratch folder can't be written.
        """
        files: list[Found] = []
        for item in found:
            files += self._expand(item, places, memory)
            check_count(places.base, len(files))
        return files

    def _expand(self, item: Found, places: Places, memory: Memory) -> list[Found]:
        if item.obstacle or item.path.suffix.lower() != ENDING:
            return [item]
        self.folder = self.folder or self.scratch.enter_context(scratch_folder(self.workdir))
        folder = self.folder / f"{len(self.by_folder) + 1:06d}"
        members = memory.recall(item, places, MEMBERS)
        if members is None:
            try:
                members = list_archive(item.path)
                unpack_archive(item.path, folder)
            except ScanError as error:
                return [Found(item.path, str(error), error.code, item.size, item.modified, item.inode)]
            memory.keep(item, places, MEMBERS, members)
        self.by_folder[folder] = item.path
        found = [_found(member, folder, item) for member in members]
        return found or [Found(item.path, "an empty archive", size=item.size, modified=item.modified)]

    def fetch(self, file: Path) -> None:
        """Unpack the archive that a file belongs to, if it belongs to one that is not unpacked yet.

        Raises
        ------
        UnsupportedScanError, OutputError
            As `unpack_archive`.
        """
        archive = self.by_folder.get(file.parent)
        if archive is not None and not file.parent.exists():
            unpack_archive(archive, file.parent)


def _found(member: Member, folder: Path, archive: Found) -> Found:
    code = member.code or ReasonCode.NOT_A_SCAN
    return Found(
        folder / member.name, member.obstacle, code, member.size, archive.modified, archive.inode, archive.size
    )
