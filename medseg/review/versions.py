"""What was taken from reviewers, for good: one folder a version, never written over.

    REVIEW/reviews/<case>/v001/review.json   the record: who, when, of which prediction, how much was changed
                               mask.nii.gz   the mask, where it was accepted or corrected
                               comment.txt   mode 0600, because a comment may name a patient
    REVIEW/reviews/<case>/chosen.json        which version holds, where reviewers disagree

A newer version of the same reviewer takes the place of the older. Two reviewers whose versions differ are a
conflict, and neither holds until a person chooses; a version that comes after the choice is a new conflict. A flag
asks that somebody else look, and a later verdict of somebody else answers it; a flag that comes later is a conflict.
A version holds for the scan that it is of, not for another one that has come under the same name; a rejection or a
flag is of one prediction, and says nothing of a later one.
"""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError

from medseg.errors import ConfigError, OutputError
from medseg.io.files import atomic_folder, write_text
from medseg.io.nifti import write_mask
from medseg.provenance import digest_files, timestamp
from medseg.quality.metrics import State, StructureScore
from medseg.records import Record
from medseg.review.folder import REVIEWS, ReviewCase, ReviewFolder
from medseg.volume import Mask, Source

RECORD = "review.json"
MASK = "mask.nii.gz"
COMMENT = "comment.txt"
CHOICE = "chosen.json"
PRIVATE = 0o600

Status = Literal["accepted", "corrected", "rejected", "flagged"]


class Change(Record):
    """How far one structure of the prediction is from what the reviewer left."""

    structure: str = Field(description="Label or region")
    state: State = Field(description="Whether it is in both masks, in one, or in none")
    dice: float | None = Field(description="Dice of prediction and reviewed mask; null if both are empty")
    iou: float | None = Field(description="Intersection over union")
    hd95_mm: float | None = Field(description="95th percentile of the surface distance, mm")
    nsd: float | None = Field(description="Normalised surface Dice")
    before_ml: float = Field(description="Volume as predicted, ml")
    after_ml: float = Field(description="Volume after the review, ml")

    @classmethod
    def of(cls, score: StructureScore) -> Change:
        """Return what a comparison of prediction and reviewed mask says."""
        return cls(
            structure=score.target,
            state=score.state,
            dice=score.dice,
            iou=score.iou,
            hd95_mm=score.hd95_mm,
            nsd=score.nsd,
            before_ml=score.volume_ml,
            after_ml=score.true_ml,
        )

    def score(self, case: str) -> StructureScore:
        """Return the comparison that this was made of."""
        measured = (self.dice, self.iou, self.hd95_mm, self.nsd)
        return StructureScore(case, self.structure, self.state, *measured, self.before_ml, self.after_ml)

    @property
    def kept_ml(self) -> float:
        """Volume that both masks have, ml: half the Dice of their sum."""
        return (self.dice or 0.0) * (self.before_ml + self.after_ml) / 2


class Version(Record):
    """The record of one verdict that was taken. It names no person and holds no comment."""

    case: str = Field(description="Case id")
    number: int = Field(ge=1, description="Number of the version, from 1")
    status: Status = Field(description="What the reviewer said, or what the mask shows: accepted means unchanged")
    reviewer: str = Field(description="Who, as a keyed pseudonym; empty if unsaid")
    decided: str = Field("", description="When, by the reviewer's clock")
    imported: str = Field(description="When it was taken, UTC")
    source: str = Field(description="Digest of the scan's files")
    prediction: str = Field(description="Digest of the mask that the model drew")
    model: str = Field(description="Digest of the model's files")
    mask: str = Field("", description="Digest of the reviewed mask; empty without one")
    submission: str = Field(description="Digest of what was handed in: the same again is not a new version")
    has_comment: bool = Field(False, description="Whether a comment is kept beside this record")
    changes: tuple[Change, ...] = Field((), description="Prediction against reviewed mask")
    versions: dict[str, str] = Field(description="Versions of the packages")

    @property
    def name(self) -> str:
        """The version's folder."""
        return f"v{self.number:03d}"

    @property
    def is_usable(self) -> bool:
        """Whether a person stands behind its mask."""
        return self.status in ("accepted", "corrected")


class Choice(Record):
    """A person's choice between versions of a case."""

    version: int = Field(description="Number of the chosen version")
    among: int = Field(description="Number of the last version there was; later ones were not considered")
    chosen: str = Field(description="When, UTC")


@dataclass(frozen=True, slots=True)
class Standing:
    """What holds of a case: a version, or several that disagree."""

    version: Version | None
    rivals: tuple[Version, ...] = ()


def store(review: ReviewFolder, case: ReviewCase, version: Version, mask: Mask | None, comment: str) -> Version:
    """Keep a version under the next free number, whole or not at all.

    Raises
    ------
    OutputError
        If it can't be written.
    """
    folder = review.path / REVIEWS / case.case
    number = max((known.number for known in versions_of(review.path, case.case)), default=0) + 1
    incoming = folder / f".incoming-{secrets.token_hex(4)}"
    try:
        while True:
            numbered = version.model_copy(update={"number": number})
            kept = _fill(incoming, review, case, numbered, mask, comment)
            if _renamed(incoming, folder / kept.name):
                return kept
            number += 1  # another import was faster
    finally:
        shutil.rmtree(incoming, ignore_errors=True)


def versions_of(folder: Path, case: str) -> tuple[Version, ...]:
    """Return the versions of a case, oldest first; raises `OutputError` if a record can't be read."""
    found = []
    for path in sorted((folder / REVIEWS / case).glob(f"v*/{RECORD}")):
        try:
            found.append(Version.model_validate_json(path.read_bytes()))
        except (OSError, ValidationError):
            raise OutputError(f"{path}: the record of a review can't be read; restore it from a backup") from None
    return tuple(sorted(found, key=lambda version: version.number))


def standing(review: ReviewFolder, case: str) -> Standing:
    """Return what holds of a case: of its present scan, because its name may have gone to another one."""
    shown = next((known for known in review.manifest.cases if known.case == case), None)
    if shown is None:
        return Standing(None)
    versions = versions_of(review.path, case)
    choice = _read_choice(review, case)
    considered = versions
    if choice:
        chosen = [version for version in versions if version.number == choice.version]
        if not chosen:
            raise OutputError(f"{case}: {CHOICE} names version {choice.version}, which is not there; choose again")
        considered = (*chosen, *(version for version in versions if version.number > choice.among))
    of_scan = [version for version in considered if version.source == shown.source]
    latest_by_reviewer = {version.reviewer: version for version in of_scan}.values()
    latest = _unanswered(one for one in latest_by_reviewer if one.is_usable or one.prediction == shown.prediction)
    if len({version.mask or version.status for version in latest}) > 1:
        return Standing(None, latest)
    return Standing(max(latest, key=lambda version: version.number, default=None))


def _unanswered(versions: Iterable[Version]) -> tuple[Version, ...]:
    """Return versions but the flags, which ask that somebody else look, after which somebody else gave a verdict."""
    versions = tuple(versions)
    last = max((version.number for version in versions if version.status != "flagged"), default=0)
    return tuple(version for version in versions if version.status != "flagged" or version.number > last)


def choose(review: ReviewFolder, case: str, number: int) -> None:
    """Let a version hold against the others of its case.

    Raises
    ------
    ConfigError
        If the case has no such version.
    OutputError
        If the choice can't be written.
    """
    versions = versions_of(review.path, case)
    if number not in {version.number for version in versions}:
        there = ", ".join(version.name for version in versions) or "none"
        raise ConfigError(f"{case} has no version {number}; its versions are: {there}")
    choice = Choice(version=number, among=versions[-1].number, chosen=timestamp())
    write_text(review.path / REVIEWS / case / CHOICE, choice.model_dump_json(indent=1) + "\n")


def mask_path(review: ReviewFolder, version: Version) -> Path:
    """Return where the mask of a version is."""
    return review.path / REVIEWS / version.case / version.name / MASK


def _fill(
    target: Path, review: ReviewFolder, case: ReviewCase, version: Version, mask: Mask | None, comment: str
) -> Version:
    with atomic_folder(target) as folder:
        if mask is not None:
            write_mask(folder / MASK, mask, Source("nifti", (review.path / case.images[0],)), review.labels)
            version = version.model_copy(update={"mask": digest_files([folder / MASK])})
        if comment:
            (folder / COMMENT).touch(PRIVATE)
            (folder / COMMENT).write_text(comment + "\n", encoding="utf-8")
        (folder / RECORD).write_text(version.model_dump_json(indent=1) + "\n", encoding="utf-8")
    return version


def _renamed(folder: Path, target: Path) -> bool:
    """Rename a folder unless the target is there: a rename never replaces a folder that has files."""
    try:
        os.rename(folder, target)
    except OSError as error:
        if target.exists():
            return False
        raise OutputError(f"can't write {target}: {error.strerror}") from None
    return True


def _read_choice(review: ReviewFolder, case: str) -> Choice | None:
    path = review.path / REVIEWS / case / CHOICE
    if not path.is_file():
        return None
    try:
        return Choice.model_validate_json(path.read_bytes())
    except (OSError, ValidationError):
        raise OutputError(f"{path}: the choice can't be read; delete it and choose again") from None
