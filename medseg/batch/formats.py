"""What is written of a case beside its NIfTI mask, in the formats that a run asks for.

    OUT/cases/<case>/mask.seg.nrrd           for review in 3D Slicer
                     dicom/segmentation.dcm  for the PACS; names the patient, as its series does
                     classes/<label>.nii.gz  one binary mask a label
    OUT/labels.csv, labels.ctbl              names and colours of the labels, for 3D Slicer and for people
    OUT/measures.csv                         a row for each structure and lesion of each case

What a scan can't have, such as a DICOM segmentation of a NIfTI file, costs the case nothing: its record says so.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from medseg.batch.summary import CaseResult
from medseg.config import SegmentConfig
from medseg.errors import ScanError
from medseg.io.label_tables import write_colour_csv, write_colour_table
from medseg.io.nifti import write_mask
from medseg.io.slicer import write_seg_nrrd
from medseg.io.tables import write_csv
from medseg.labels import Label, LabelMap
from medseg.measures.table import measure_rows
from medseg.provenance import package_versions
from medseg.volume import Mask, Source

SLICER_MASK = "mask.seg.nrrd"
DICOM_MASK = "dicom/segmentation.dcm"
CLASSES = "classes"

UNSAFE = re.compile(r"[^A-Za-z0-9._-]+")
NAME_LIMIT = 64


@dataclass(frozen=True, slots=True)
class Formats:
    """What a run writes of each case beside ``mask.nii.gz``.

    Attributes
    ----------
    names : "seg-nrrd", "dicom-seg"; "nifti" is always written.
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

    def write(self, folder: Path, mask: Mask, labels: LabelMap, source: Source, model: str) -> dict[str, str]:
        """Write the formats of one case into its folder.

        Returns
        -------
        dict
            Formats that this scan can't have, with the reason: code and sentence.

        Raises
        ------
        OutputError
            If a file can't be written.
        """
        if self.per_class:
            write_classes(folder / CLASSES, mask, labels, source)
        if "seg-nrrd" in self.names:
            write_seg_nrrd(folder / SLICER_MASK, mask, labels)
        if "dicom-seg" not in self.names:
            return {}
        from medseg.io.dicom_derived import Algorithm  # highdicom costs a second to import
        from medseg.io.dicom_seg import write_dicom_seg

        try:
            version = package_versions(["medseg"])["medseg"]
            write_dicom_seg(folder / DICOM_MASK, mask, labels, source, Algorithm(model, version))
        except ScanError as error:
            return {"dicom-seg": f"{error.code}: {error}"}
        return {}


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
    folded = [name.lower() for name in safe]  # some file systems take no notice of case

    def unique(label: Label, name: str) -> str:
        plain = name == label.name and folded.count(name.lower()) == 1
        return name if plain else f"{label.value}_{name}".rstrip("_")

    return tuple(unique(label, name) for label, name in zip(labels.labels, safe, strict=True))


def write_tables(output: Path, labels: LabelMap, results: Iterable[CaseResult], channels: int) -> None:
    """Write ``labels.csv``, ``labels.ctbl`` and ``measures.csv`` of a run."""
    write_colour_csv(output / "labels.csv", labels)
    write_colour_table(output / "labels.ctbl", labels)
    cases = [(result.case, result.record.measures) for result in results if result.record]
    write_csv(output / "measures.csv", *measure_rows(cases, channels))
