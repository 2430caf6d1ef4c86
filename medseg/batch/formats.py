"""What is written of a case beside its NIfTI mask, in the formats that a run asks for.

    OUT/cases/<case>/mask.seg.nrrd           for review in 3D Slicer
                     dicom/segmentation.dcm  for the PACS; all in here name the patient, as the series does
                     dicom/contours.dcm      the same as a structure set, for treatment planning
                     dicom/measurements.dcm  the measures as a structured report
                     classes/<label>.nii.gz  one binary mask a label
    OUT/labels.csv, labels.ctbl              names and colours of the labels, for 3D Slicer and for people
    OUT/measures.csv                         a row for each structure and lesion of each case

What a scan can't have, such as a DICOM segmentation of a NIfTI file, costs the case nothing: its record says so.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from medseg.batch.summary import CaseResult
from medseg.config import SegmentConfig
from medseg.errors import ReasonCode, ScanError
from medseg.io.label_tables import write_colour_csv, write_colour_table
from medseg.io.nifti import write_mask
from medseg.io.slicer import write_seg_nrrd
from medseg.io.tables import write_csv
from medseg.labels import Label, LabelMap
from medseg.measures.measure import Measures
from medseg.measures.table import measure_rows
from medseg.provenance import medseg_version
from medseg.volume import Mask, Source

if TYPE_CHECKING:
    from medseg.io.dicom_derived import Algorithm

SLICER_MASK = "mask.seg.nrrd"
DICOM_MASK = "dicom/segmentation.dcm"
CONTOURS = "dicom/contours.dcm"
REPORT = "dicom/measurements.dcm"
CLASSES = "classes"

UNSAFE = re.compile(r"[^A-Za-z0-9._-]+")
NAME_LIMIT = 64

DICOM = ("dicom-seg", "rtstruct", "dicom-sr")
"""Formats that only a DICOM series can have."""

LACKING = (ReasonCode.EMPTY, ReasonCode.NO_IDENTITY)
"""Why a sound DICOM series can't have them."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Formats:
    """What a run writes of each case beside ``mask.nii.gz``.

    Attributes
    ----------
    names : "seg-nrrd", and those of `DICOM`; "nifti" is always written.
    per_class : also one binary NIfTI mask a label.
    lesions : names of the labels whose components are measured singly; None: those that the model marks.
    """

    names: tuple[str, ...] = ("nifti",)
    per_class: bool = False
    lesions: tuple[str, ...] | None = None

    @classmethod
    def of(cls, config: SegmentConfig) -> Formats:
        """Return what a configuration asks for."""
        return cls(config.formats, config.per_class, config.lesions)

    def labels(self, labels: LabelMap) -> LabelMap:
        """Return a model's labels with the lesions of this run marked.

        Raises
        ------
        LabelError
            If a lesion is not a label of the model.
        """
        return labels if self.lesions is None else labels.with_lesions(self.lesions)

    def write(
        self,
        folder: Path,
        mask: Mask,
        labels: LabelMap,
        source: Source,
        model: str,
        measures: Sequence[Measures],
    ) -> dict[str, str]:
        """Write the formats of one case into its folder.

        Parameters
        ----------
        model : name of the model that made the mask.
        measures : of the mask, which the report holds.

        Returns
        -------
        dict
            Formats that this scan can't have, with the reason: code and sentence.

        Raises
        ------
        OutputError
            If a file can't be written.
        ScanError
            If the scan can't be read any more.
        """
        if self.per_class:
            write_classes(folder / CLASSES, mask, labels, source)
        if "seg-nrrd" in self.names:
            write_seg_nrrd(folder / SLICER_MASK, mask, labels)
        if not set(DICOM) & set(self.names):
            return {}
        from medseg.io.dicom_derived import Algorithm  # highdicom costs a second to import

        algorithm = Algorithm(model, medseg_version())
        return self._write_dicom(folder, mask, labels, source, algorithm, measures)

    def _write_dicom(
        self,
        folder: Path,
        mask: Mask,
        labels: LabelMap,
        source: Source,
        algorithm: Algorithm,
        measures: Sequence[Measures],
    ) -> dict[str, str]:
        """Write what belongs to the study of a DICOM series; the report refers to the segmentation beside it."""
        from medseg.io.dicom_rtstruct import write_rtstruct
        from medseg.io.dicom_seg import write_dicom_seg
        from medseg.io.dicom_sr import Segments, write_dicom_sr

        refused: dict[str, str] = {}

        def attempt(name: str, write: Callable[[], T]) -> T | None:
            try:
                return write() if name in self.names else None
            except ScanError as error:
                if source.kind == "dicom" and error.code not in LACKING:
                    raise  # it could be read before: another run may write what this one can't
                refused[name] = f"{error.code}: {error}"
                return None

        path = folder / DICOM_MASK
        names = attempt("dicom-seg", lambda: write_dicom_seg(path, mask, labels, source, algorithm))
        attempt("rtstruct", lambda: write_rtstruct(folder / CONTOURS, mask, labels, source, algorithm))
        segments = Segments(path, names) if names else None
        attempt("dicom-sr", lambda: write_dicom_sr(folder / REPORT, measures, labels, source, algorithm, segments))
        return refused


def write_classes(folder: Path, mask: Mask, labels: LabelMap, source: Source) -> None:
    """Write a mask of 0 and 1 for every label, found or not."""
    for label, name in zip(labels.labels, class_names(labels), strict=True):
        only = LabelMap(labels=(label.model_copy(update={"value": 1, "within": None}),))
        array = (mask.array == label.value).astype(np.uint8)
        write_mask(folder / f"{name}.nii.gz", Mask(array, mask.grid), source, only)


def class_names(labels: LabelMap) -> tuple[str, ...]:
    """Return a file name, without its ending, for each label: safe everywhere, and no two alike.

    Examples
    --------
    >>> class_names(LabelMap.parse({"liver": 1, "../x": 2, "X": 3}))
    ('liver', '2_x', '3_X')
    """
    safe = [UNSAFE.sub("_", label.name).strip("._")[:NAME_LIMIT] for label in labels.labels]
    numbered = [f"{label.value}_{name}".rstrip("_") for label, name in zip(labels.labels, safe, strict=True)]
    taken = Counter(name.lower() for name in (*safe, *numbered))  # some file systems take no notice of case

    def unique(label: Label, name: str, with_number: str) -> str:
        return name if name == label.name and taken[name.lower()] == 1 else with_number

    return tuple(map(unique, labels.labels, safe, numbered))


def write_tables(output: Path, labels: LabelMap, results: Iterable[CaseResult], channels: int) -> None:
    """Write ``labels.csv``, ``labels.ctbl`` and ``measures.csv`` of a run."""
    write_colour_csv(output / "labels.csv", labels)
    write_colour_table(output / "labels.ctbl", labels)
    cases = [(result.case, result.record.measures) for result in results if result.record]
    write_csv(output / "measures.csv", *measure_rows(cases, channels))
