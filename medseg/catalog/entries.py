"""What a catalogue says of every file under a folder."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, get_args

from medseg.config import IngestConfig
from medseg.errors import ReasonCode
from medseg.io.header import ScanHeader
from medseg.volume import Case, Repair, Source

UNREAD_ENDINGS = (".nrrd", ".nhdr", ".mha", ".mhd", ".mgz", ".mgh", ".gipl", ".gipl.gz")
"""Volumes that medseg doesn't read; passing over them in silence would lose cases."""

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
    channels : in it; several only where the fourth axis of a file was taken as such.
    modality : "CT", "MR", "PT"; "" where unknown.
    flags : what was noticed that does not refuse it.
    repairs : what reading will do about some of it.
    patient : keyed pseudonym of the patient (DICOM); the case itself where unknown.
    study : keyed pseudonym of the study that a series belongs to; "" where there is none.
    rank : place among the series of its study, 1 for the chosen one; 0 where none was to be chosen.
    path : where a person finds it, relative to the indexed folder: the file, of a pair its header, or a series' folder.
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
    channels: int = 1
    modality: str = ""
    flags: tuple[ReasonCode, ...] = ()
    repairs: tuple[Repair, ...] = ()
    patient: str = ""
    study: str = ""
    rank: int = 0
    path: Path = Path()
    digest: str = ""

    def accepted(self, source: Source, header: ScanHeader) -> CatalogEntry:
        """Return the entry of a sound NIfTI scan, by what its header says."""
        grid = header.grid
        return replace(
            self,
            status="accepted",
            reason=None,
            message="",
            source=source,
            shape=grid.shape,
            spacing=grid.spacing,
            axcodes=grid.axcodes,
            channels=header.channels,
            flags=header.flags,
            repairs=header.repairs,
            patient=self.case_id,
        )


def in_order(entries: Iterable[CatalogEntry]) -> tuple[CatalogEntry, ...]:
    """Return entries as a catalogue has them: accepted ones first, then refused ones, each kind by path."""
    statuses = get_args(Status)
    return tuple(sorted(entries, key=lambda entry: (statuses.index(entry.status), entry.path)))


@dataclass(frozen=True, slots=True)
class Places:
    """Where a person finds files, relative to the indexed folder; the same wherever archives were unpacked.

    Attributes
    ----------
    base : the indexed folder.
    archives : the archive that each folder of unpacked files was made of.
    """

    base: Path
    archives: Mapping[Path, Path] = field(default_factory=dict)

    def of(self, file: Path) -> Path:
        """Return where a file is; of an unpacked one the archive's path and its name there, which is its number."""
        return self.of_folder(file.parent) / file.name

    def of_folder(self, folder: Path) -> Path:
        """Return where a folder is; of unpacked files the archive's path."""
        return self.archives.get(folder, folder).relative_to(self.base)


@dataclass(frozen=True, slots=True)
class Catalog:
    """What was found under `root`: accepted entries first, each kind by path.

    Attributes
    ----------
    root : the indexed folder, or file.
    entries : every scan and every file that is none.
    archives : see `Places`.
    policy : what was done about faults.
    """

    root: Path
    entries: tuple[CatalogEntry, ...]
    archives: Mapping[Path, Path] = field(default_factory=dict)
    policy: IngestConfig = field(default_factory=IngestConfig)

    @property
    def places(self) -> Places:
        """Where a person finds its files."""
        return Places(self.root if self.root.is_dir() else self.root.parent, self.archives)

    def with_status(self, status: Status) -> tuple[CatalogEntry, ...]:
        """Return the entries of one status."""
        return tuple(entry for entry in self.entries if entry.status == status)

    @property
    def unread(self) -> dict[str, int]:
        """Number of files of each image format that medseg doesn't read, by ending."""
        names = (path.name.lower() for entry in self.with_status("skipped") for path in entry.files)
        endings = (ending for name in names for ending in UNREAD_ENDINGS if name.endswith(ending))
        return dict(sorted(Counter(endings).items()))

    def cases(self) -> tuple[Case, ...]:
        """Return the accepted scans as cases without masks."""
        return tuple(
            Case(entry.case_id, (entry.source,), patient=entry.patient, flags=entry.flags)
            for entry in self.entries
            if entry.source is not None
        )
