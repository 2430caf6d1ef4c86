"""What is kept of a converted scan: ``<case>.json``, written last, is the record that the scan is done."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError

from medseg.batch.record import Geometry
from medseg.config import IngestConfig
from medseg.io.files import write_text
from medseg.provenance import digest_files
from medseg.records import Record


class ScanRecord(Record):
    """The record of one converted scan; it names neither patients nor paths."""

    case: str = Field(description="Case id: a file's name, or the pseudonym of a DICOM series")
    kind: Literal["nifti", "dicom"] = Field(description="Kind of the source")
    files: int = Field(description="Number of the source's files")
    modality: str = Field(description="DICOM modality such as CT; empty where unknown, as in NIfTI")
    geometry: Geometry = Field(description="Grid of the scan")
    flags: tuple[str, ...] = Field((), description="Reason codes noticed that did not refuse the scan")
    repairs: dict[str, str] = Field(default_factory=dict, description="What was done about some of these flags")
    ingest: IngestConfig = Field(description="Policies by which it was read")
    source_digest: str = Field(description="Digest of the source's files")
    volume_digest: str = Field(description="Digest of the written volume")
    versions: dict[str, str] = Field(description="Versions of the packages")
    finished: str = Field(description="When, UTC")


def write_scan_record(path: Path, record: ScanRecord) -> None:
    """Write the record of a scan; raises `OutputError` if that can't be done."""
    write_text(path, record.model_dump_json(indent=2) + "\n")


def finished_scan(
    record: Path, volume: Path, source_digest: str, ingest: IngestConfig, version: str
) -> ScanRecord | None:
    """Return the record if `volume` is what this version of medseg would make of the source again; else None."""
    try:
        found = ScanRecord.model_validate_json(record.read_bytes())
        whole = found.volume_digest == digest_files([volume])
    except (OSError, ValidationError):
        return None
    made_from = (found.source_digest, found.ingest, found.versions.get("medseg", ""))
    return found if whole and made_from == (source_digest, ingest, version) else None
