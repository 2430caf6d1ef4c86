"""Unpack zip archives from strangers: bounded, under neutral names, nothing outside the given folder.

Nothing of an archive's names reaches the disk: its files are called by their number in it, with the ending
of a NIfTI file kept, because readers go by it. What an archive says of itself is judged before a byte is
unpacked: names that climb out, links, encryption, more files or bytes than an export has, more bytes than its
size can honestly hold, methods other than deflate. Archives within archives stay closed.
"""

from __future__ import annotations

import io
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from zipfile import ZIP_DEFLATED, ZIP_STORED, ZipFile, ZipInfo

from medseg.errors import MedsegError, ReasonCode, UnsupportedScanError
from medseg.io.files import atomic_folder
from medseg.io.nifti_header import split_ending

ARCHIVE_ENDINGS = (".zip", ".tar", ".gz", ".tgz", ".bz2", ".xz", ".7z", ".rar")
"""Endings of archives, of which only zip is unpacked."""

MAX_FILES = 200_000
MAX_BYTES = 64 << 30
"""A large study has some 10,000 files and 10 GB."""

MAX_RATIO = 200
HARMLESS_BYTES = 256 << 20
"""Scans shrink 2 to 10 times when they are packed, empty masks up to 1000 times: a ratio above `MAX_RATIO` is
held against an archive only when what comes out is larger than this."""

SPARE_BYTES = 1 << 30
"""Room that is left on the disk."""

DIRECTORY_BYTES = 32 << 20
"""Largest table of contents: Python builds an object of 0.7 kB from each 46 bytes of it."""

CHUNK = 1 << 20
ENCRYPTED = 0x1
ORDINARY = (0, stat.S_IFREG, stat.S_IFDIR)
"""Kinds of file that an archive may hold; 0: it does not say."""


@dataclass(frozen=True, slots=True)
class Member:
    """A file in an archive.

    Attributes
    ----------
    name : what it is called when unpacked: its number in the archive, from 1, and a NIfTI ending.
    size : its bytes.
    code, obstacle : why it is not unpacked, as a reason code and in words; None and "" if it is.
    """

    name: str
    size: int
    code: ReasonCode | None = None
    obstacle: str = ""


def list_archive(archive: Path) -> tuple[Member, ...]:
    """Return the files of a zip archive without unpacking any, folders left out.

    Raises
    ------
    UnsupportedScanError
        `ARCHIVE_UNSAFE`, `ARCHIVE_TOO_LARGE`, `ARCHIVE_ENCRYPTED`, or `UNREADABLE` if it is damaged.
    """
    with _opened(archive) as opened:
        return tuple(member for member, _ in _members(opened, archive))


def unpack_archive(archive: Path, folder: Path) -> None:
    """Unpack the files of a zip archive that may be into a new folder, verifying their checksums.

    Raises
    ------
    UnsupportedScanError
        As `list_archive`, and `ARCHIVE_TOO_LARGE` if the disk has no room for it. No folder is left then.
    OutputError
        If the folder can't be written.
    """
    with _opened(archive) as opened:
        wanted = [(member, info) for member, info in _members(opened, archive) if member.code is None]
        _check_room(sum(member.size for member, _ in wanted), folder.parent)
        with atomic_folder(folder) as target:
            for member, info in wanted:
                with (target / member.name).open("xb") as stream:
                    for piece in _content(opened, info):
                        stream.write(piece)


class _BoundedReader(io.BufferedReader):
    """Gives no more at once than an honest archive needs: zipfile reads a table of contents whole."""

    def read(self, size: int | None = -1, /) -> bytes:
        most = DIRECTORY_BYTES + 1
        data = super().read(most if size is None or size < 0 else min(size, most))
        if len(data) == most:
            raise _too_large(f"its table of contents is larger than {DIRECTORY_BYTES >> 20} MB")
        return data


@contextmanager
def _judged() -> Iterator[None]:
    """Turn whatever zipfile raises into a refusal; its own messages quote names."""
    try:
        yield
    except MedsegError:
        raise
    except OSError as error:
        raise UnsupportedScanError(
            ReasonCode.UNREADABLE, f"a zip archive can't be read ({error.strerror or type(error).__name__})"
        ) from None
    except Exception as error:  # a parser of hostile files may fail in any way
        raise UnsupportedScanError(
            ReasonCode.UNREADABLE, f"a zip archive is damaged ({type(error).__name__}); export it again"
        ) from None


@contextmanager
def _opened(archive: Path) -> Iterator[ZipFile]:
    with _judged():
        stream = _BoundedReader(io.FileIO(archive))
    with stream:
        with _judged():
            opened = ZipFile(stream)
        with opened:
            yield opened


def _members(opened: ZipFile, archive: Path) -> list[tuple[Member, ZipInfo]]:
    """Return the files, after judging the whole archive."""
    files = [(number, info) for number, info in enumerate(opened.infolist(), start=1) if _parts(info)[-1]]
    with _judged():
        _check_size([info for _, info in files], archive.stat().st_size)
    for _, info in files:
        _check_entry(info)
    members: list[tuple[Member, ZipInfo]] = []
    pairs: dict[str, int] = {}
    taken: set[str] = set()
    for number, info in files:
        stem, ending = split_ending(info.filename)
        name = f"{number:06d}{ending}"
        if ending and not ending.startswith(".nii"):  # header and voxels of a pair find each other by their name
            shared = f"{pairs.setdefault(stem, number):06d}{ending}"
            name = name if shared in taken else shared
        taken.add(name)
        members.append((Member(name, info.file_size, *_obstacle(info)), info))
    return members


def _check_size(files: list[ZipInfo], packed: int) -> None:
    total = sum(info.file_size for info in files)
    if len(files) > MAX_FILES:
        raise _too_large(f"it holds {len(files)} files, more than {MAX_FILES}")
    if total > MAX_BYTES:
        raise _too_large(f"it would unpack to {total / 1e9:.0f} GB, more than {MAX_BYTES / 1e9:.0f} GB")
    if total > max(HARMLESS_BYTES, MAX_RATIO * packed):
        raise _too_large(f"it would unpack to {total // packed} times its size, as scans never do")


def _check_entry(info: ZipInfo) -> None:
    parts = _parts(info)
    if not parts[0] or parts[0][1:2] == ":" or ".." in parts or "\0" in info.orig_filename:
        raise _refused(ReasonCode.ARCHIVE_UNSAFE, "it names files outside of itself")
    if stat.S_IFMT(info.external_attr >> 16) not in ORDINARY:
        raise _refused(ReasonCode.ARCHIVE_UNSAFE, "it holds links or devices")
    if info.flag_bits & ENCRYPTED:
        raise _refused(ReasonCode.ARCHIVE_ENCRYPTED, "it is encrypted")
    if info.compress_type not in (ZIP_STORED, ZIP_DEFLATED):
        raise _refused(ReasonCode.UNREADABLE, "it is packed by another method than deflate")


def _check_room(wanted: int, folder: Path) -> None:
    free = shutil.disk_usage(folder).free
    if wanted + SPARE_BYTES > free:
        raise UnsupportedScanError(
            ReasonCode.ARCHIVE_TOO_LARGE,
            f"a zip archive needs {wanted / 1e9:.1f} GB to be unpacked, and the disk for temporary files has "
            f"{free / 1e9:.1f} GB; name a folder on another one with --workdir",
        )


def _obstacle(info: ZipInfo) -> tuple[ReasonCode | None, str]:
    parts = _parts(info)
    if parts[-1].startswith(".") or "__MACOSX" in parts:
        return ReasonCode.NOT_A_SCAN, "a hidden file"
    if parts[-1].lower().endswith(ARCHIVE_ENDINGS) and not split_ending(parts[-1])[1]:
        return ReasonCode.ARCHIVE_NESTED, "an archive within an archive is not opened; unpack it"
    return None, ""


def _content(opened: ZipFile, info: ZipInfo) -> Iterator[bytes]:
    """Yield a file's bytes: no more than the archive says, and an error where its checksum is wrong."""
    with _judged(), opened.open(info) as packed:
        while piece := packed.read(CHUNK):
            yield piece


def _parts(info: ZipInfo) -> list[str]:
    return info.orig_filename.replace("\\", "/").split("/")


def _refused(code: ReasonCode, what: str) -> UnsupportedScanError:
    message = f"a zip archive is not unpacked, because {what}; unpack it yourself if you trust it"
    return UnsupportedScanError(code, message)


def _too_large(what: str) -> UnsupportedScanError:
    return _refused(ReasonCode.ARCHIVE_TOO_LARGE, what)
