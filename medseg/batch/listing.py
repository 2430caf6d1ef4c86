"""From a catalogue to the cases of a batch: what is to be segmented, what is rejected, what is no scan."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Set
from dataclasses import dataclass
from itertools import count
from pathlib import Path

from medseg.batch.summary import CaseResult
from medseg.catalog.channels import join_channels, with_stacks
from medseg.catalog.entries import Catalog, CatalogEntry
from medseg.errors import ReasonCode
from medseg.io.tables import OWNER_ONLY, write_csv
from medseg.volume import Case


@dataclass(frozen=True, slots=True)
class Listing:
    """The cases of a batch.

    Attributes
    ----------
    cases : to be segmented.
    entries : what the catalogue says of each of them.
    rejected : scans that can't be.
    sources : where each of both is found below the scan folder: the file, or a series' folder; of
        several channels the first.
    left_out : files that are no scan, by reason code.
    unread : those of them that are images of formats that medseg doesn't read, by ending.
    """

    cases: tuple[Case, ...]
    entries: dict[str, tuple[CatalogEntry, ...]]
    rejected: tuple[CaseResult, ...]
    sources: dict[str, Path]
    left_out: dict[str, int]
    unread: dict[str, int]


def list_cases(catalog: Catalog, channels: int = 1) -> Listing:
    """Sort a catalogue into cases for a model of so many channels, rejections, and files left out."""
    catalog = with_stacks(catalog, channels)
    cases, entries, rejected, sources = [], {}, [], {}
    refused = list(_named(catalog.with_status("refused"), {entry.case_id for entry in catalog.entries}))
    for scan in join_channels(catalog.with_status("accepted"), channels, [case for case, _ in refused]):
        sources[scan.name] = scan.entries[0].path
        if scan.has(channels):
            cases.append(scan.case())
            entries[scan.name] = scan.entries
        else:
            message = scan.mismatch(channels)
            rejected.append(CaseResult(scan.name, "rejected", str(ReasonCode.CHANNELS_MISMATCH), message))
    for case, entry in refused:
        rejected.append(CaseResult(case, "rejected", str(entry.reason or ""), entry.message))
        sources[case] = entry.path
    left_out = _count_files(catalog.with_status("skipped"))
    return Listing(tuple(cases), entries, tuple(rejected), sources, left_out, catalog.unread)


def write_sources(folder: Path, sources: Iterable[tuple[str, Path]]) -> None:
    """Write ``sources.csv``, which case is which file or folder, for its owner only: paths may name patients.

    Raises
    ------
    OutputError
        If it can't be written.
    """
    rows = ((case, str(path)) for case, path in sources)
    write_csv(folder / "sources.csv", ["case", "source"], rows, mode=OWNER_ONLY)


def _named(entries: Iterable[CatalogEntry], taken: Set[str]) -> Iterator[tuple[str, CatalogEntry]]:
    """Yield scans with their case id; those without one, because nothing in them can be read, are numbered."""
    names = (name for number in count(1) if (name := f"unreadable_{number}") not in taken)
    for entry in entries:
        yield entry.case_id or next(names), entry


def _count_files(entries: Iterable[CatalogEntry]) -> dict[str, int]:
    counts: Counter[str] = Counter()
    for entry in entries:
        counts[str(entry.reason)] += len(entry.files)
    return dict(counts.most_common())
