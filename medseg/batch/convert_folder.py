"""Write every sound scan of a folder as a NIfTI volume; say of every other one why it is none.

    OUT/<case>.nii.gz    the scan with its true affine, int16 where that is exact, else float32
    OUT/<case>.json      geometry, modality, flags, digests; written last: the record that the scan is done
    OUT/conversion.csv   every scan with status, reason, geometry
    OUT/selection.csv    if rules choose one series of each study: every series, and why it was chosen or not
    OUT/sources.csv      which case is which file, readable by its owner only

Each file appears whole or not at all. The same command again skips the scans that are unchanged. A volume
of an earlier run whose scan is refused now is left where it is; ``conversion.csv`` says what holds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from medseg.batch.convert_record import ScanRecord, finished_scan, write_scan_record
from medseg.batch.faults import fault_of
from medseg.batch.intake import open_catalog, write_selection
from medseg.batch.listing import Listing, list_cases, write_sources
from medseg.batch.places import check_names, check_places, check_writable
from medseg.batch.record import Geometry
from medseg.batch.summary import Failure, Outcome, exit_code
from medseg.catalog.anonymous import without_file_names
from medseg.catalog.entries import Catalog, CatalogEntry
from medseg.config import BatchConfig
from medseg.errors import OutputError, ScanError
from medseg.io.nifti import read_nifti, write_volume
from medseg.io.scan import read_scan, source_files
from medseg.io.tables import write_csv
from medseg.provenance import digest_files, package_versions, timestamp
from medseg.volume import Source, Volume

TABLE = "conversion.csv"
VOLUME = ".nii.gz"
HEADER = (
    "case", "status", "reason", "message", "kind", "files", "modality", "shape", "spacing_mm", "axcodes", "flags",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Conversion(Outcome[ScanRecord]):
    """What became of one scan that was to be converted."""


@dataclass(frozen=True, slots=True)
class ConversionSummary:
    """The outcome of a conversion.

    Attributes
    ----------
    output : the folder that holds the volumes, their records and the tables.
    results : one a scan, ordered by case id.
    left_out : files that are no scan, by reason code.
    unread : those of them that are images of formats that medseg doesn't read, by ending.
    """

    output: Path
    results: tuple[Conversion, ...]
    left_out: dict[str, int]
    unread: dict[str, int]

    @property
    def exit_code(self) -> int:
        """0: all scans converted; 1: some not; 3: none."""
        return exit_code([result.status for result in self.results])


Watcher = Callable[[Conversion], None]
"""Called with what became of each scan, as it ends."""


def convert_folder(
    scans: Path, output: Path, config: BatchConfig | None = None, *, watcher: Watcher | None = None
) -> ConversionSummary:
    """Convert every accepted scan below `scans` to NIfTI and return what became of each.

    Parameters
    ----------
    scans : a NIfTI file, a zip archive, a folder of one DICOM series, or any tree of these; never written to.
    output : made if needed; must not lie inside `scans`.
    config : how scans are named and chosen, and what is done again.
    watcher : told of each scan as it ends.

    Raises
    ------
    OutputError
        If `output` lies inside `scans` or a link leads there, nothing can be written there (any more), or it holds
        scans called by their names and pseudonyms are wanted.
    ConfigError
        If `scans` is missing, or the key or the rules file is wrong.
    DatasetError
        If it has too many files.
    """
    config = config or BatchConfig()
    check_places(scans, output)
    check_writable(output)
    if config.pseudonymize:
        check_names(output, ending=VOLUME)
    results = []
    with open_catalog(scans, output, config) as catalog:
        listing = list_cases(catalog)
        for result in _conversions(catalog, listing, output, config):
            results.append(result)
            if watcher:
                watcher(result)
        write_selection(catalog, output)
    ordered = tuple(sorted(results, key=lambda result: result.case))
    summary = ConversionSummary(output, ordered, listing.left_out, listing.unread)
    write_csv(output / TABLE, HEADER, map(_row, summary.results))
    write_sources(output, sorted(listing.sources.items()))
    return summary


def _conversions(catalog: Catalog, listing: Listing, output: Path, config: BatchConfig) -> Iterator[Conversion]:
    """Yield the scans that the catalogue refuses, then the others as they are converted."""
    for refusal in listing.rejected:
        yield Conversion(refusal.case, refusal.status, refusal.reason, refusal.message)
    scans = ((entry, entry.source) for entry in catalog.entries if entry.source)
    for entry, source in scans:
        result = _attempt(entry, source, output, redo=config.redo)
        if config.pseudonymize:
            result = replace(result, message=without_file_names(result.message, entry.files, entry.case_id))
        yield result
        if result.reason == Failure.OUTPUT:
            check_writable(output)


def _attempt(entry: CatalogEntry, source: Source, output: Path, *, redo: bool) -> Conversion:
    """Convert a scan; whatever goes wrong costs this scan only."""
    try:
        return _convert(entry, source, output, redo=redo)
    except Exception as error:
        fault = fault_of(entry.case_id, error)
        return Conversion(entry.case_id, fault.status, fault.reason, fault.message)


def _convert(entry: CatalogEntry, source: Source, output: Path, *, redo: bool) -> Conversion:
    case, files = entry.case_id, source_files(source)
    target, beside = output / f"{case}{VOLUME}", output / f"{case}.json"
    if target.resolve() in {file.resolve() for file in files}:
        raise OutputError(f"{case}: its volume would replace the scan itself; choose another output folder")
    try:
        digest = digest_files(files)
    except OSError as error:
        return Conversion(case, "rejected", "UNREADABLE", f"{case}: can't be read ({error.strerror})")
    versions = package_versions()
    before = None if redo else finished_scan(beside, target, digest, source.policy, versions.get("medseg", ""))
    if before:
        return Conversion(case, "done", record=before, was_done=True)
    volume = read_scan(source)
    if target.exists() and not beside.exists() and not _holds(target, volume):
        raise OutputError(f"{case}: {target} is there already and is another volume; choose another output folder")
    write_volume(target, volume)
    record = ScanRecord(
        case=case,
        kind=source.kind,
        files=len(files),
        modality=volume.modality,
        geometry=Geometry.of(volume.grid),
        flags=tuple(dict.fromkeys(map(str, (*entry.flags, *volume.flags)))),
        repairs={str(repair.code): repair.what for repair in volume.repairs},
        ingest=source.policy,
        source_digest=digest,
        volume_digest=digest_files([target]),
        versions=versions,
        finished=timestamp(),
    )
    write_scan_record(beside, record)
    return Conversion(case, "done", record=record)


def _holds(path: Path, volume: Volume) -> bool:
    """Whether a file is the volume that would be written: what a run was stopped behind."""
    try:
        there = read_nifti(path)
    except ScanError:
        return False
    return there.grid.matches(volume.grid) and np.array_equal(there.array, volume.array)


def _row(result: Conversion) -> list[object]:
    start: list[object] = [result.case, result.status, result.reason, result.message]
    record = result.record
    if record is None:
        return start + [""] * (len(HEADER) - len(start))
    shape, spacing = record.geometry.shape_text, record.geometry.spacing_text
    flags = " ".join(record.flags)
    return [*start, record.kind, record.files, record.modality, shape, spacing, record.geometry.axcodes, flags]
