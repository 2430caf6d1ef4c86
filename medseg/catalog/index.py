"""Say what is in a folder of scans: every file is accepted, refused with a reason, or skipped with one.

Only headers are read. A series is what its headers say, wherever its files lie; nothing is guessed from
names. NIfTI masks of other programs are NIfTI files like any other: the catalogue does not guess what a
file is for.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from os import fsencode
from os.path import commonpath
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from pydantic import TypeAdapter

from medseg.catalog.entries import Catalog, CatalogEntry, Places, Status, in_order
from medseg.catalog.identity import name_scans
from medseg.catalog.index_run import IndexRun
from medseg.catalog.memory import Kind, Memory
from medseg.catalog.unpack import Archives
from medseg.catalog.walk import Found, walk_files
from medseg.config import IngestConfig
from medseg.errors import ReasonCode, ScanError
from medseg.geometry import Grid
from medseg.io.header import ScanHeader
from medseg.io.nifti import inspect_nifti
from medseg.io.nifti_header import NIFTI_ENDINGS, ONE_FILE_ENDINGS, scan_files
from medseg.text import printable
from medseg.volume import Repair, Source

if TYPE_CHECKING:
    from medseg.catalog.series_rules import SeriesRules


@dataclass(frozen=True, slots=True)
class NiftiFacts:
    """What is remembered of a sound NIfTI header; `affine` row by row."""

    shape: tuple[int, int, int]
    affine: tuple[float, ...]
    flags: tuple[ReasonCode, ...] = ()
    repairs: tuple[Repair, ...] = ()


NIFTI = Kind("nifti", TypeAdapter(NiftiFacts))


def index_scans(
    root: Path,
    *,
    key: Path | None = None,
    policy: IngestConfig | None = None,
    rules: SeriesRules | None = None,
    archives: Archives | None = None,
    memory: Memory | None = None,
) -> Catalog:
    """Index a folder tree, a single DICOM folder, a single file or a zip archive.

    Parameters
    ----------
    root : where to look; links are followed, loops end.
    key : key file of the pseudonyms, made if missing; default: `identity.default_key_path`.
    policy : what is done about faults of scans; default: `IngestConfig`'s defaults.
    rules : choose one series of each DICOM study; default: every sound series is a scan.
    archives : unpacks zip archives, whose files stay as long as its folder does; default: they are left out.
    memory : what the last index read; default: every file is opened.

    Returns
    -------
    Catalog
        The `files` of its entries add up to the files under `root`, an unpacked archive counting as the files
        in it.

    Raises
    ------
    DatasetError
        If `root` does not exist or has too many files.
    OutputError
        If an archive can't be unpacked for want of room or permission.
    """
    root = Path(root)
    memory = memory or Memory()
    unpacked = {} if archives is None else archives.by_folder
    places = Places(root if root.is_dir() else root.parent, unpacked)
    run = IndexRun(places, key, policy or IngestConfig(), rules, archives, memory)
    found = walk_files(root)
    if archives is not None:
        found = archives.expand_all(found, places, memory)
    scans: list[Found] = []
    others: list[Found] = []
    for item in found:
        if not item.obstacle:
            (scans if item.path.name.lower().endswith(NIFTI_ENDINGS) else others).append(item)
    entries = [_unopened(item) for item in found if item.obstacle] + _index_nifti(scans, run)
    if others:
        from medseg.catalog.dicom_index import index_dicom  # pydicom costs 0.2 s that NIfTI folders need not pay

        entries += index_dicom(others, run)
    states = {item.path: item for item in found}
    finished = [_finish(entry, places, states) for entry in entries]
    return Catalog(root, in_order(finished), unpacked, run.policy)


def _unopened(item: Found) -> CatalogEntry:
    """Return the entry of what was not opened: refused if it might hide scans."""
    status: Status = "skipped" if item.code == ReasonCode.NOT_A_SCAN else "refused"
    return CatalogEntry(status, (item.path,), reason=item.code, message=item.obstacle)


def _index_nifti(found: Sequence[Found], run: IndexRun) -> list[CatalogEntry]:
    """Return an entry for each NIfTI scan, the two files of a pair being one."""
    known = {item.path: item for item in found}
    scans: defaultdict[Path, list[Path]] = defaultdict(list)
    for path in known:
        try:
            header_file = scan_files(path)[0]
        except ScanError:  # told again, with its reason, when its header is read
            header_file = path
        scans[header_file if header_file in known else path].append(path)
    names = name_scans([_naming(path, run.places) for path in scans])
    parts = zip(scans.items(), names, strict=True)
    return [_inspect(known[path], tuple(files), name, run) for (path, files), name in parts]


def _naming(path: Path, places: Places) -> Path:
    """Return the path that a scan is named after: of one in an archive, the archive's with the number."""
    place = places.of(path)
    if path.parent not in places.archives:
        return place
    return place.parent.with_name(f"{place.parent.stem}_{place.name}")


def _inspect(item: Found, files: tuple[Path, ...], name: str, run: IndexRun) -> CatalogEntry:
    is_single = item.path.name.lower().endswith(ONE_FILE_ENDINGS)  # a pair is judged by both its files
    facts = run.memory.recall(item, run.places, NIFTI) if is_single else None
    if facts is None:
        try:
            run.fetch(item.path)
            header = inspect_nifti(item.path, policy=run.policy)
        except ScanError as error:
            return CatalogEntry("refused", files, name, error.code, str(error))
        facts = NiftiFacts(header.grid.shape, tuple(header.grid.affine.ravel().tolist()), header.flags, header.repairs)
        run.memory.keep(item, run.places, NIFTI, facts)
    grid = Grid(facts.shape, np.reshape(facts.affine, (4, 4)))
    header = ScanHeader(grid, flags=facts.flags, repairs=facts.repairs)
    return CatalogEntry("accepted", files, name).accepted(Source("nifti", (item.path,), run.policy), header)


def _finish(entry: CatalogEntry, places: Places, states: Mapping[Path, Found]) -> CatalogEntry:
    """Add the digest and the place to look at; keep control characters of hostile names out of messages."""
    digest = sha256()
    for path in sorted(entry.files, key=str):
        state = states[path]
        digest.update(fsencode(path.name) + f"\0{state.size}\0{state.modified}\0".encode())
    first = min(entry.files)
    if len(entry.files) == 1 or first.name.lower().endswith(NIFTI_ENDINGS):  # a pair is found by its header
        place = places.of(first)
    else:
        place = Path(commonpath([places.of_folder(folder) for folder in {path.parent for path in entry.files}]))
    return replace(entry, path=place, message=printable(entry.message), digest=digest.hexdigest())
