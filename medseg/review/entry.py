"""Write scan and prediction of one case into a review folder."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from medseg.batch.record import Geometry
from medseg.catalog.identity import pseudonym
from medseg.io.nifti import write_volume
from medseg.io.nrrd import write_volume_nrrd
from medseg.io.slicer import write_seg_nrrd
from medseg.labels import LabelMap
from medseg.provenance import digest_files
from medseg.quality.review import ReviewedCase
from medseg.quality.slices import display_window
from medseg.review.focus import focus_of
from medseg.review.folder import CASE_TAG, MASKS, SCANS, ReviewCase
from medseg.review.session import ENDING
from medseg.volume import Case, Mask, Volume


@dataclass(frozen=True, slots=True)
class Origin:
    """What scan and prediction are, as digests: of the scan's files, of the mask, of the model's files."""

    source: str
    prediction: str = ""
    model: str = ""


@dataclass(frozen=True, slots=True)
class WrittenScan:
    """A scan in a review folder: a NIfTI file a channel, and the file that Slicer opens. Paths are relative to it."""

    images: tuple[str, ...]
    shown: str


@dataclass(frozen=True, slots=True)
class EntryWriter:
    """Writes cases into a review folder.

    Attributes
    ----------
    folder : the review folder.
    labels : of the masks.
    key : of the pseudonyms of series.
    """

    folder: Path
    labels: LabelMap
    key: bytes

    def write(self, case: Case, volume: Volume, mask: Mask, origin: Origin) -> ReviewCase:
        """Write a case, and return its record, which has no priority yet.

        Raises
        ------
        OutputError
            If it can't be written.
        """
        scan = self.write_scan(case.id, volume)
        target = f"{MASKS}/{case.id}{ENDING}"
        write_seg_nrrd(self.folder / target, mask, self.labels, {CASE_TAG: case.id})
        return ReviewCase(
            case=case.id,
            images=scan.images,
            shown=scan.shown,
            mask=target,
            mask_digest=digest_files([self.folder / target]),
            patient=case.patient,
            priority=0.0,
            window=display_window(volume, volume.array[0]),
            focus_mm=focus_of(mask, self.labels),
            geometry=Geometry.of(volume.grid),
            source=origin.source,
            prediction=origin.prediction,
            model=origin.model,
            series=self._series(case),
        )

    def redraw(self, entry: ReviewCase, mask: Mask, origin: Origin) -> ReviewCase:
        """Write another mask of a case, and return its record."""
        write_seg_nrrd(self.folder / entry.mask, mask, self.labels, {CASE_TAG: entry.case})
        changes = {
            "mask_digest": digest_files([self.folder / entry.mask]),
            "focus_mm": focus_of(mask, self.labels),
            "source": origin.source,
            "prediction": origin.prediction,
            "model": origin.model,
        }
        return entry.model_copy(update=changes)

    def write_scan(self, case: str, volume: Volume) -> WrittenScan:
        """Write a scan; one with a sheared grid is shown as NRRD, because Slicer opens no sheared NIfTI."""
        single = volume.channels == 1
        names = tuple(f"{SCANS}/{case}{'' if single else f'_{n:04d}'}.nii.gz" for n in range(volume.channels))
        for number, name in enumerate(names):
            write_volume(self.folder / name, _channel(volume, number))
        if volume.grid.is_orthogonal:
            return WrittenScan(names, names[0])
        sheared = f"{SCANS}/{case}.nrrd"
        write_volume_nrrd(self.folder / sheared, _channel(volume, 0))
        return WrittenScan(names, sheared)

    def _series(self, case: Case) -> str:
        if case.images[0].kind != "dicom":
            return ""
        from medseg.io.dicom_seg_read import series_of  # pydicom costs 0.2 s that NIfTI scans need not pay

        return pseudonym(self.key, series_of(case.images[0].files[0]), "series")


def with_priority(case: ReviewCase, reviewed: ReviewedCase) -> ReviewCase:
    """Return a case's record with what its checks say."""
    changes = {
        "priority": reviewed.priority,
        "expected_dice": reviewed.expected_dice,
        "flags": tuple(map(str, reviewed.flags)),
        "findings": tuple(finding.sentence for finding in reviewed.findings),
    }
    return case.model_copy(update=changes)


def _channel(volume: Volume, number: int) -> Volume:
    return replace(volume, array=volume.array[number : number + 1])
