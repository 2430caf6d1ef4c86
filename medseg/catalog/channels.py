"""Scans of several channels.

They are NIfTI files in one folder, named as nnU-Net does (``case_0000``, ``case_0001``, ...), or one file whose
fourth axis holds them, as the Decathlon's do.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from medseg.catalog.entries import Catalog, CatalogEntry, in_order
from medseg.catalog.listing import CHANNEL_SUFFIX, stem
from medseg.errors import ReasonCode, ScanError
from medseg.io.nifti import inspect_nifti
from medseg.io.nifti_header import NIFTI_ENDINGS
from medseg.volume import Case, Source


@dataclass(frozen=True, slots=True)
class Joined:
    """One scan.

    Attributes
    ----------
    name : of its case.
    entries : its files; those of several channels in the order of their numbers.
    numbers : of the channels that the files are named after; empty: the scan is one file, or a series.
    """

    name: str
    entries: tuple[CatalogEntry, ...]
    numbers: tuple[int, ...] = ()

    def has(self, channels: int) -> bool:
        """Whether each channel is there once: one that is missing must not move the others up."""
        return not self.numbers or self.numbers == tuple(range(channels))

    def mismatch(self, channels: int) -> str:
        """Return a sentence about the channels that are there and those that a model takes."""
        return (
            f"{self.name} has the channel files {_shown(self.numbers)}, the model takes {_shown(range(channels))}; "
            "let each of these be there once"
        )

    def case(self) -> Case:
        """Return it as a case without a mask."""
        sources = tuple(entry.source for entry in self.entries if entry.source)
        flags = tuple(dict.fromkeys(flag for entry in self.entries for flag in entry.flags))
        return Case(self.name, sources, patient=self.name if self.numbers else self.entries[0].patient, flags=flags)


def with_stacks(catalog: Catalog, channels: int) -> Catalog:
    """Return a catalogue that accepts the NIfTI files whose fourth axis holds the channels of a model.

    By themselves they are refused (`NOT_3D`), because that axis may as well be time.
    """
    if channels == 1:
        return catalog
    entries = [_judge_stack(entry, channels, catalog) if _may_be_stack(entry) else entry for entry in catalog.entries]
    return replace(catalog, entries=in_order(entries))


def join_channels(scans: Sequence[CatalogEntry], channels: int, taken: Iterable[str] = ()) -> list[Joined]:
    """Return accepted scans for a model of so many channels: those that stand alone, then those of several files.

    Parameters
    ----------
    taken : case ids that none of them may have, such as those of refused scans.
    """
    groups: dict[tuple[Path, str], list[tuple[int, CatalogEntry]]] = defaultdict(list)
    singles = []
    for entry in scans:
        match = CHANNEL_SUFFIX.match(stem(entry.path))
        is_one_file = entry.channels == channels  # whatever number its name ends with
        if match and not is_one_file and entry.source and entry.source.kind == "nifti":
            groups[entry.path.parent, match["case"]].append((int(match["channel"]), entry))
        else:
            singles.append(Joined(entry.case_id, (entry,)))
    ordered = [sorted(members, key=lambda member: member[1].path) for members in groups.values()]
    first = [members[0][1].case_id for members in ordered]
    names = [case.rpartition("_")[0] or case for case in first]  # a pseudonym has no number to take off
    used = Counter(name.casefold() for name in [*names, *taken, *(scan.name for scan in singles)])
    unique = [used[name.casefold()] == 1 for name in names]  # some file systems take no notice of case
    return singles + [
        Joined(name if alone else case, tuple(entry for _, entry in members), tuple(number for number, _ in members))
        for name, case, alone, members in zip(names, first, unique, ordered, strict=True)
    ]


def _may_be_stack(entry: CatalogEntry) -> bool:
    return entry.reason == ReasonCode.NOT_3D and entry.files[0].name.lower().endswith(NIFTI_ENDINGS)


def _judge_stack(entry: CatalogEntry, channels: int, catalog: Catalog) -> CatalogEntry:
    file = entry.files[0]
    try:
        header = inspect_nifti(file, channels_last=True, policy=catalog.policy)
    except ScanError:
        return entry
    if header.channels == channels:
        return entry.accepted(Source("nifti", (file,), catalog.policy), header)
    found = f"{entry.case_id} holds {header.channels} volumes along its fourth axis"
    message = f"{found}, the model takes {channels} channels"
    return replace(entry, reason=ReasonCode.CHANNELS_MISMATCH, message=message)


def _shown(numbers: Iterable[int]) -> str:
    return ", ".join(f"{number:04d}" for number in numbers)
