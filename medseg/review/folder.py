"""A review folder: what `medseg review export` writes, reviewers work in, and `medseg review import` reads.

    REVIEW/review.json            the record of the export: labels, and for each case its grid and digests
           worklist.csv           the cases for people and for SlicerCaseIterator, the most doubtful first
           review_in_slicer.py    for ``Slicer --python-script``, with review_session.py beside it
           scans/<case>.nii.gz    the scan, without any text of its header
           masks/<case>.seg.nrrd  what the model drew
           corrected/             what reviewers save
           reviews/<case>/v001/   what was taken back, each version for good
           dataset/               the reviewed cases, to train on

It is complete: it may be copied to a reviewer's computer and back. It names no patient; case ids of NIfTI
scans are their file names, unless the run gave them pseudonyms.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
from pydantic import Field, StringConstraints, ValidationError

from medseg.batch.record import Geometry
from medseg.errors import DatasetError, OutputError, ScanError
from medseg.geometry import Grid
from medseg.io.files import write_text
from medseg.io.slicer import read_seg_nrrd
from medseg.labels import LabelMap
from medseg.provenance import digest_files
from medseg.records import Record
from medseg.review.refusal import Refusal, ReviewError
from medseg.text import printable
from medseg.volume import Mask

MANIFEST = "review.json"
WORKLIST = "worklist.csv"
SCANS, MASKS, CORRECTED, REVIEWS, DATASET = "scans", "masks", "corrected", "reviews", "dataset"

PLAIN_NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]*$"
"""How case ids look; a folder that comes back must not make us read or write outside of it."""

Inside = Annotated[str, StringConstraints(pattern=r"^(scans|masks)/[A-Za-z0-9][A-Za-z0-9._-]*$")]

CASE_TAG = "medseg.Case"
"""Tag of every segment that says which case it belongs to; Slicer keeps it."""


class ReviewCase(Record):
    """One case to review. Paths are relative to the review folder."""

    case: str = Field(pattern=PLAIN_NAME, description="Case id")
    images: tuple[Inside, ...] = Field(min_length=1, description="The scan, one NIfTI file a channel")
    shown: Inside = Field(description="The file that Slicer opens: the first image, as NRRD where its grid is sheared")
    mask: Inside = Field(description="The prediction as .seg.nrrd")
    mask_digest: str = Field(description="Digest of that file, as it was exported")
    patient: str = Field("", description="Who was scanned, as a pseudonym; equal for the cases of one person")
    priority: float = Field(description="0 to 1, the larger the sooner a person should look")
    expected_dice: float | None = Field(None, description="Calibrated expectation of the Dice")
    flags: tuple[str, ...] = Field((), description="What is unusual, as words")
    findings: tuple[str, ...] = Field((), description="The same as sentences")
    window: tuple[float, float] = Field(description="Intensities shown as black and white")
    focus_mm: tuple[float, float, float] = Field(description="Where to look first: world mm, RAS+")
    geometry: Geometry = Field(description="Grid of scan and mask")
    source: str = Field(description="Digest of the scan's files")
    prediction: str = Field(description="Digest of the mask that the model drew, as its case.json has it")
    model: str = Field(description="Digest of the model's files")
    series: str = Field("", description="Keyed hash of the DICOM series, by which its segmentations are known")

    @property
    def grid(self) -> Grid:
        """The grid of scan and mask."""
        return Grid(self.geometry.shape, np.array(self.geometry.affine))


class Manifest(Record):
    """The record of an export."""

    format: int = Field(1, description="Version of this file's layout")
    exported: str = Field(description="When, UTC")
    model: str = Field(description="Name of the model")
    labels: LabelMap = Field(description="What the values of the masks mean")
    cases: tuple[ReviewCase, ...] = Field(description="The cases, the highest priority first")


@dataclass(frozen=True, slots=True)
class ReviewFolder:
    """A review folder and its record."""

    path: Path
    manifest: Manifest

    @property
    def labels(self) -> LabelMap:
        """What the values of the masks mean."""
        return self.manifest.labels

    def case(self, name: str) -> ReviewCase:
        """Return a case; raises `ReviewError` (`UNKNOWN_CASE`) if it is not part of this review."""
        for case in self.manifest.cases:
            if case.case == name:
                return case
        raise ReviewError(
            Refusal.UNKNOWN_CASE,
            f"{printable(name)!r} is none of the {len(self.manifest.cases)} cases of this review; call the file after "
            "its case, as worklist.csv has it",
        )

    def check_labels(self, labels: LabelMap, whose: str) -> None:
        """Refuse labels that are not those of the masks here.

        Parameters
        ----------
        whose : whose they are, for the message.

        Raises
        ------
        DatasetError
            If a value or a name differs.
        """
        theirs, mine = ({label.value: label.name for label in some.labels} for some in (labels, self.labels))
        if mine != theirs:
            raise DatasetError(
                f"the labels of {whose} ({labels.describe()}) are not those of the review ({self.labels.describe()}); "
                "masks of both would not mean the same: keep them apart, in folders of their own"
            )

    def prediction(self, case: ReviewCase) -> Mask:
        """Return what the model drew.

        Raises
        ------
        ReviewError
            `CHANGED_PREDICTION` if the file is not what was exported.
        """
        path = self.path / case.mask
        try:
            if digest_files([path]) == case.mask_digest:
                return read_seg_nrrd(path).mask
        except (OSError, ScanError):
            pass  # told below, like every other change
        raise ReviewError(
            Refusal.CHANGED_PREDICTION,
            f"{case.case}: {case.mask} is not what was exported; if a correction was saved over it, copy it to "
            f"{CORRECTED}/{case.case}.seg.nrrd, and export again",
        )


def open_review(folder: Path) -> ReviewFolder:
    """Read a review folder.

    Raises
    ------
    OutputError
        If it is none.
    """
    try:
        content = (folder / MANIFEST).read_bytes()
    except OSError:
        raise OutputError(
            f"{folder}: no {MANIFEST} is there; give the folder that medseg review export wrote"
        ) from None
    try:
        return ReviewFolder(folder, Manifest.model_validate_json(content))
    except ValidationError as error:
        raise OutputError(
            f"{folder / MANIFEST}: not what this medseg writes ({error.error_count()} problems); export again"
        ) from None


def write_manifest(folder: Path, manifest: Manifest) -> ReviewFolder:
    """Write the record of an export, last of all; raises `OutputError` if that can't be done."""
    write_text(folder / MANIFEST, manifest.model_dump_json(indent=1) + "\n")
    return ReviewFolder(folder, manifest)
