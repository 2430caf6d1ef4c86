"""From a catalogue to the cases of a batch: what is to be segmented, what is rejected, what is no scan.

For a model of several channels, NIfTI files named as nnU-Net does (``case_0000``, ``case_0001``, ...)
in one folder are one case.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from medseg.batch.summary import CaseResult
from medseg.catalog.entries import Catalog, CatalogEntry
from medseg.catalog.listing import CHANNEL_SUFFIX
from medseg.errors import ReasonCode
from medseg.volume import Case


@dataclass(frozen=True, slots=True)
class Listing:
    """The cases of a batch.

    Attributes
    ----------
    cases : to be segmented.
    rejected : scans that can't be.
    sources : where each of both is found below the scan folder: the file, or a series' folder; of
        several channels the first.
    left_out : files that are no scan, by reason code.
    unread : those of them that are images of formats that medseg doesn't read, by ending.
    """

    cases: tuple[Case, ...]
    rejected: tuple[CaseResult, ...]
    sources: dict[str, Path]
    left_out: dict[str, int]
    unread: dict[str, int]


def list_cases(catalog: Catalog, channels: int = 1) -> Listing:
    """Sort a catalogue into cases for a model of so many channels, rejections, and files left out."""
    groups, singles = _grouped(catalog.with_status("accepted"), channels)
    cases, rejected, sources = [], [], {}
    for entry in singles:
        if entry.source:
            cases.append(Case(entry.case_id, (entry.source,), patient=entry.patient, flags=entry.flags))
        sources[entry.case_id] = entry.path
    for case, members in groups:
        sources[case] = members[0].path
        if len(members) == channels:
            sources_of_case = tuple(entry.source for entry in members if entry.source)
            flags = tuple(dict.fromkeys(flag for entry in members for flag in entry.flags))
            cases.append(Case(case, sources_of_case, patient=case, flags=flags))
        else:
            message = f"{case} has {len(members)} channel files, the model takes {channels}; add the missing ones"
            rejected.append(CaseResult(case, "rejected", str(ReasonCode.CHANNELS_MISMATCH), message))
    for case, entry in _named(catalog.with_status("refused")):
        rejected.append(CaseResult(case, "rejected", str(entry.reason or ""), entry.message))
        sources[case] = entry.path
    left_out = _count_files(catalog.with_status("skipped"))
    return Listing(tuple(cases), tuple(rejected), sources, left_out, catalog.unread)


def _grouped(
    scans: Sequence[CatalogEntry], channels: int
) -> tuple[list[tuple[str, list[CatalogEntry]]], list[CatalogEntry]]:
    """Return groups of channel files with the name of their case, and the scans that stand alone."""
    groups: dict[tuple[Path, str], list[CatalogEntry]] = defaultdict(list)
    singles = []
    for entry in scans:
        match = CHANNEL_SUFFIX.match(entry.path.name.partition(".nii")[0])
        if channels > 1 and match and entry.source and entry.source.kind == "nifti":
            groups[entry.path.parent, match["case"]].append(entry)
        else:
            singles.append(entry)
    ordered = [sorted(members, key=lambda entry: entry.path) for members in groups.values()]
    taken = {entry.case_id for entry in singles}
    first = [members[0].case_id for members in ordered]
    names = [case.rpartition("_")[0] or case for case in first]  # a pseudonym has no number to take off
    unique = [names.count(name) == 1 and name not in taken for name in names]
    return [
        (name if alone else members[0].case_id, members)
        for name, alone, members in zip(names, unique, ordered, strict=True)
    ], singles


def _named(entries: Iterable[CatalogEntry]) -> Iterator[tuple[str, CatalogEntry]]:
    """Yield scans with their case id; those without one, because nothing in them can be read, are numbered."""
    number = 0
    for entry in entries:
        number += not entry.case_id
        yield entry.case_id or f"unreadable_{number}", entry


def _count_files(entries: Iterable[CatalogEntry]) -> dict[str, int]:
    counts: Counter[str] = Counter()
    for entry in entries:
        counts[str(entry.reason)] += len(entry.files)
    return dict(counts.most_common())
