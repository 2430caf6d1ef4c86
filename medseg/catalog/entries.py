"""What a catalogue says of every file under a folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from medseg.errors import ReasonCode
from medseg.text import printable
from medseg.volume import Case, Source

__all__ = ["Catalog", "CatalogEntry", "Status", "printable"]

Status = Literal["accepted", "refused", "skipped"]


@dataclass(frozen=True, slots=True)
class CatalogEntry:
    """One scan, or files that are none.

    Attributes
    ----------
    status : "accepted", "refused" (something is wrong with a scan) or "skipped" (not a scan, or a copy).
    files : the files that this entry accounts for.
    case_id : unique safe name; "" for what is not a scan.
    reason, message : why it was not accepted, as a word and as a sentence.
    source : where its pixels are; None unless accepted.
    shape, spacing, axcodes : its grid: voxels, mm, and direction of each axis.
    modality : "CT", "MR", "PT"; "" where unknown.
    flags : what was noticed that does not refuse it.
    patient : keyed pseudonym of the patient (DICOM); the case itself where unknown.
    path : where a person finds it, relative to the indexed folder: the file, or a series' folder.
    digest : changes when a file of the scan changes (from names, sizes and times, not from pixels).
    """

    status: Status
    files: tuple[Path, ...]
    case_id: str = ""
    reason: ReasonCode | None = None
    message: str = ""
    source: Source | None = None
    shape: tuple[int, int, int] | None = None
    spacing: tuple[float, float, float] | None = None
    axcodes: str = ""
    modality: str = ""
    flags: tuple[ReasonCode, ...] = ()
    patient: str = ""
    path: Path = Path()
    digest: str = ""


@dataclass(frozen=True, slots=True)
class Catalog:
    """What was found under `root`: accepted entries first, each kind by path."""

    root: Path
    entries: tuple[CatalogEntry, ...]

    def with_status(self, status: Status) -> tuple[CatalogEntry, ...]:
        """Return the entries of one status."""
        return tuple(entry for entry in self.entries if entry.status == status)

    def cases(self) -> tuple[Case, ...]:
        """Return the accepted scans as cases without masks."""
        return tuple(
            Case(entry.case_id, (entry.source,), patient=entry.patient, flags=entry.flags)
            for entry in self.entries
            if entry.source is not None
        )
