"""``medseg index --html``: every scan of a folder on one page, with a picture, and what is wrong with the others.

The page names no path and nothing of a DICOM header but modality and geometry: it can be passed on where the file
names of NIfTI scans may be.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from medseg.catalog.entries import Catalog, CatalogEntry, Status
from medseg.config import IngestConfig
from medseg.errors import ReasonCode
from medseg.io.files import write_text
from medseg.quality.page import render_page
from medseg.quality.thumbnails import thumbnail

MOST_PICTURES = 2000
"""Scans that get a picture, the first ones: about 8 MB."""

LEVELS: dict[Status, str] = {"accepted": "good", "skipped": "fair", "refused": "bad"}
STATUSES: dict[Status, str] = {"accepted": "accepted", "refused": "refused", "skipped": "not chosen"}


@dataclass(frozen=True, slots=True)
class ScanRow:
    """One scan, as the page shows it."""

    rank: int
    name: str
    entry: CatalogEntry
    level: str
    picture: str
    flags: tuple[str, ...]


def write_catalog_page(catalog: Catalog, path: Path, fetch: Callable[[Path], None]) -> None:
    """Write the page.

    Parameters
    ----------
    fetch : makes sure that a file of an archive is unpacked.

    Raises
    ------
    OutputError
        If it can't be written.
    """
    write_text(path, render_catalog(catalog, fetch))


def render_catalog(catalog: Catalog, fetch: Callable[[Path], None]) -> str:
    """Return the page: a row for each entry that is a scan, in the catalogue's order."""
    scans = [(n, entry) for n, entry in enumerate(catalog.entries, 1) if entry.status != "skipped" or entry.rank]
    rows = [_row(number, entry, fetch, pictured=place < MOST_PICTURES) for place, (number, entry) in enumerate(scans)]
    left_out: Counter[str] = Counter()
    for entry in catalog.with_status("skipped"):
        if not entry.rank:
            left_out[str(entry.reason)] += len(entry.files)
    return render_page(
        "catalog.html",
        rows=rows,
        tiles=_tiles(rows, left_out),
        counts=Counter(word for row in rows for word in (row.entry.status, *row.flags)),
        statuses=STATUSES,
        meanings=_meanings(rows),
        meaning=meaning,
        left_out=left_out.most_common(),
    )


def _row(number: int, entry: CatalogEntry, fetch: Callable[[Path], None], *, pictured: bool) -> ScanRow:
    codes = (entry.reason, *entry.flags) if entry.reason else entry.flags
    return ScanRow(
        rank=number,
        name=entry.case_id or f"row {number}",
        entry=entry,
        level=LEVELS[entry.status],
        picture=thumbnail(entry, fetch) if pictured else "",
        flags=tuple(map(str, codes)),
    )


def _tiles(rows: list[ScanRow], left_out: Counter[str]) -> list[tuple[int, str, str]]:
    counts: Counter[Status] = Counter(row.entry.status for row in rows)
    patients = len({row.entry.patient for row in rows if row.entry.status == "accepted"})
    remarks: dict[Status, str] = {"accepted": f"of {patients} patients" if patients else ""}
    tiles = [(counts[status], words, remarks.get(status, "")) for status, words in STATUSES.items() if counts[status]]
    if left_out:
        tiles.append((left_out.total(), "files left out", "listed at the end"))
    return tiles


def _meanings(rows: list[ScanRow]) -> dict[str, str]:
    """Return what the chips say: the statuses, then what each code means."""
    codes = sorted({flag for row in rows for flag in row.flags})
    return {str(status): words for status, words in STATUSES.items()} | {code: meaning(code) for code in codes}


def meaning(code: str) -> str:
    """Return a reason code in words.

    Examples
    --------
    >>> meaning("MISSING_SLICE"), meaning("ARCHIVE_ENCRYPTED")
    ('slices are missing', 'archive encrypted')
    """
    field = IngestConfig.model_fields.get(ReasonCode(code).value.lower())
    words = (field.description or "").partition(";")[0] if field else code.lower().replace("_", " ")
    return words[:1].lower() + words[1:]
