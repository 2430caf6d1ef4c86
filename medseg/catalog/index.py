"""Say what is in a folder of scans: every file is accepted, refused with a reason, or skipped with one.

Only headers are read. A series is what its headers say, wherever its files lie; nothing is guessed from
names. NIfTI masks of other programs are NIfTI files like any other: the catalogue does not guess what a
file is for.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from hashlib import sha256
from os import fsencode
from os.path import commonpath
from pathlib import Path

from medseg.catalog.entries import Catalog, CatalogEntry
from medseg.catalog.identity import name_scans
from medseg.catalog.table import write_catalog
from medseg.catalog.walk import Found, walk_files
from medseg.errors import ReasonCode, ScanError
from medseg.io.nifti import inspect_nifti
from medseg.io.nifti_header import NIFTI_ENDINGS, scan_files
from medseg.text import printable
from medseg.volume import Source

__all__ = ["Catalog", "CatalogEntry", "index_scans", "write_catalog"]

ORDER = ("accepted", "refused", "skipped")


def index_scans(root: Path, *, key: Path | None = None) -> Catalog:
    """Index a folder tree, a single DICOM folder or a single file.

    Parameters
    ----------
    root : where to look; links are followed, loops end.
    key : key file of the pseudonyms, made if missing; default: `identity.default_key_path`.

    Returns
    -------
    Catalog
        The `files` of its entries add up to the files under `root`.

    Raises
    ------
    DatasetError
        If `root` does not exist or has too many files.
    """
    root = Path(root)
    base = root if root.is_dir() else root.parent
    found = walk_files(root)
    scans: list[Path] = []
    others: list[Path] = []
    for item in found:
        if not item.obstacle:
            (scans if item.path.name.lower().endswith(NIFTI_ENDINGS) else others).append(item.path)
    entries = [_unopened(item) for item in found if item.obstacle] + _index_nifti(scans, base)
    if others:
        from medseg.catalog.dicom_index import index_dicom  # pydicom costs 0.2 s that NIfTI folders need not pay

        entries += index_dicom(others, key)
    states = {item.path: item for item in found}
    finished = [_finish(entry, base, states) for entry in entries]
    return Catalog(root, tuple(sorted(finished, key=lambda entry: (ORDER.index(entry.status), entry.path))))


def _unopened(item: Found) -> CatalogEntry:
    """Return the entry of what was not opened: refused if it might hide scans."""
    if item.hides:
        return CatalogEntry("refused", (item.path,), reason=ReasonCode.UNREADABLE, message=item.obstacle)
    return CatalogEntry("skipped", (item.path,), reason=ReasonCode.NOT_A_SCAN, message=item.obstacle)


def _index_nifti(paths: Sequence[Path], base: Path) -> list[CatalogEntry]:
    """Return an entry for each NIfTI scan, the two files of a pair being one."""
    known, scans = set(paths), defaultdict(list)
    for path in paths:
        try:
            header_file = scan_files(path)[0]
        except ScanError:  # told again, with its reason, when its header is read
            header_file = path
        scans[header_file if header_file in known else path].append(path)
    names = name_scans([path.relative_to(base) for path in scans])
    return [_inspect(path, tuple(files), name) for (path, files), name in zip(scans.items(), names, strict=True)]


def _inspect(path: Path, files: tuple[Path, ...], name: str) -> CatalogEntry:
    try:
        header = inspect_nifti(path)
    except ScanError as error:
        return CatalogEntry("refused", files, name, error.code, str(error))
    grid = header.grid
    return CatalogEntry(
        "accepted",
        files,
        name,
        source=Source("nifti", (path,)),
        shape=grid.shape,
        spacing=grid.spacing,
        axcodes=grid.axcodes,
        flags=header.flags,
        patient=name,
    )


def _finish(entry: CatalogEntry, base: Path, states: Mapping[Path, Found]) -> CatalogEntry:
    """Add the digest and the place to look at; keep control characters of hostile names out of messages."""
    digest = sha256()
    for path in sorted(entry.files, key=str):
        state = states[path]
        digest.update(fsencode(path.name) + f"\0{state.size}\0{state.modified}\0".encode())
    place = Path(commonpath([path.parent for path in entry.files])) if len(entry.files) > 1 else entry.files[0]
    return replace(entry, path=place.relative_to(base), message=printable(entry.message), digest=digest.hexdigest())
