"""What is kept of a case: ``case.json``, written last, is the record that the case is done.

A case counts as done when its record names the same source, model and settings as would be used now,
and the files beside it still have the digests that the record gives.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from medseg.geometry import Grid
from medseg.inference.ladder import Rung
from medseg.measures.features import CaseFeatures
from medseg.measures.measure import Measures
from medseg.provenance import digest_files
from medseg.records import Record, find_record
from medseg.text import shown_sizes

RECORD = "case.json"
MASK = "mask.nii.gz"
PICTURE = "overlay.png"


class Inputs(Record):
    """Everything that decides the result; equal inputs need no second run."""

    source: str = Field(description="Digest of the scan's files")
    model: str = Field(description="Digest of the model's files")
    settings: str = Field(description="Digest of the settings and of medseg's version")


class Geometry(Record):
    """Grid of scan and mask."""

    shape: tuple[int, int, int] = Field(description="Voxels along each index axis")
    spacing: tuple[float, float, float] = Field(description="Voxel spacing, mm")
    axcodes: str = Field(description="Closest anatomical direction of each index axis")
    affine: list[list[float]] = Field(description="Voxel index to world mm, RAS+")

    @classmethod
    def of(cls, grid: Grid) -> Geometry:
        """Return the geometry of a grid."""
        return cls(shape=grid.shape, spacing=grid.spacing, axcodes=grid.axcodes, affine=grid.affine.tolist())

    @property
    def shape_text(self) -> str:
        """The shape as tables show it, such as 512x512x40."""
        return shown_sizes(self.shape)

    @property
    def spacing_text(self) -> str:
        """The spacing as tables show it, such as 0.75x0.75x3."""
        return shown_sizes(self.spacing, ".4g")


class CaseRecord(Record):
    """The record of one segmented case."""

    case: str = Field(description="Case id: a file's name, or the pseudonym of a DICOM series")
    kind: Literal["nifti", "dicom"] = Field(description="Kind of the source")
    files: int = Field(description="Number of the source's files")
    inputs: Inputs = Field(description="Digests of what the result was made from")
    model: str = Field(description="Name of the model")
    geometry: Geometry = Field(description="Grid of scan and mask")
    volumes_ml: dict[str, float] = Field(description="Volume of each label in the mask, ml")
    confidence: float = Field(description="The network's mean confidence in the mask, 0 to 1")
    flags: tuple[str, ...] = Field((), description="Reason codes noticed that did not refuse the scan")
    repairs: dict[str, str] = Field(default_factory=dict, description="What was done about some of these flags")
    measures: tuple[Measures, ...] = Field((), description="Structures and lesions, measured")
    not_written: dict[str, str] = Field(
        default_factory=dict, description="Formats that were asked for but this scan can't have, with the reason"
    )
    features: CaseFeatures | None = Field(None, description="What quality is judged by without a true mask")
    device: str = Field("", description="Where the network ran")
    rung: Rung = Field(Rung.FULL, description="How much memory could be had; see docs/hospital.md")
    attempts: int = Field(1, description="How often it was tried; more than once if a worker process ended")
    memory_mb: dict[str, float] = Field(
        default_factory=dict,
        description="Highest use of memory while the network ran: resident (of the process) and gpu, MB",
    )
    seconds: dict[str, float] = Field(description="Time of each stage, s")
    outputs: dict[str, str] = Field(description="Digest of each file of the case")
    versions: dict[str, str] = Field(description="Versions of the packages")
    finished: str = Field(description="When, UTC")


def write_record(record: CaseRecord, folder: Path) -> None:
    """Write the record of a case into its folder."""
    (folder / RECORD).write_text(record.model_dump_json(indent=2) + "\n", encoding="utf-8")


def read_record(folder: Path) -> CaseRecord | None:
    """Return the record of a case's folder; None if there is none, or it can't be read."""
    return find_record(folder / RECORD, CaseRecord)


def finished_record(folder: Path, inputs: Inputs) -> CaseRecord | None:
    """Return the record if `folder` holds exactly what `inputs` would give again; else None."""
    record = read_record(folder)
    if record is None or record.inputs != inputs:
        return None
    try:
        whole = all(digest_files([folder / name]) == digest for name, digest in record.outputs.items())
    except OSError:
        return None
    return record if whole else None
