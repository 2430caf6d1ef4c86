"""The sample data: a training set, the unseen scans of a small hospital, and the truth about them.

::

    FOLDER/train/images/case_01.nii.gz ...    scans; those without a mask are unlabelled
    FOLDER/train/labels/case_01.nii.gz ...    masks
    FOLDER/train/labels.json                  names, colours, codes
    FOLDER/scans/outpatients/*.nii.gz         unseen scans as files; one is cut short
    FOLDER/scans/radiology/patient_*/...      unseen scans as DICOM series
    FOLDER/truth/*.nii.gz, truth.csv          masks of the unseen scans, and which belongs to which
"""

from __future__ import annotations

import csv
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from medseg.errors import OutputError
from medseg.io.dicom_write import write_series
from medseg.io.files import atomic_file, atomic_folder, is_empty_folder, write_text
from medseg.io.nifti import write_mask, write_volume
from medseg.labels import Code, Label, LabelMap
from medseg.phantom.body import KIDNEY, LIVER, SPLEEN, TUMOUR
from medseg.phantom.protocols import DICOM_PROTOCOLS, NIFTI_PROTOCOLS, Protocol, draw_scan
from medseg.volume import Source

LABELS = LabelMap(
    labels=(
        Label(value=LIVER, name="liver", colour=(221, 130, 101), code=Code(value="10200004", meaning="Liver")),
        Label(value=KIDNEY, name="kidney", colour=(128, 174, 128), code=Code(value="64033007", meaning="Kidney")),
        Label(value=SPLEEN, name="spleen", colour=(144, 120, 200), code=Code(value="78961009", meaning="Spleen")),
        Label(value=TUMOUR, name="tumour", colour=(244, 214, 49), code=Code(value="4147007", meaning="Mass")),
    )
)
"""What the sample masks mean. Both kidneys share a label, so that mirrored patches may train."""

CUT_SHORT = "scans/outpatients/cut_short.nii.gz"
"""The one scan that can't be read: a folder run must say so and do the others."""

TRAIN, TEST, BROKEN = 0, 1, 2
"""Part of each case's seed: a case stays the same however many others are asked for."""


@dataclass(frozen=True, slots=True)
class SampleCounts:
    """How many scans to make: training scans with and without a mask, and unseen ones."""

    labelled: int = 12
    unlabelled: int = 4
    test: int = 5


@dataclass(frozen=True, slots=True)
class Unseen:
    """A scan for testing and its truth.

    Attributes
    ----------
    scan : NIfTI file, or folder of a DICOM series.
    truth : NIfTI mask on the scan's grid.
    """

    scan: Path
    truth: Path


def make_sample_data(folder: Path, seed: int = 0, counts: SampleCounts | None = None) -> tuple[Unseen, ...]:
    """Write the sample data into a new folder; the same arguments always give the same scans.

    Parameters
    ----------
    folder : new or empty; it appears when all is written.
    seed : of everything that is drawn.

    Returns
    -------
    tuple of Unseen
        The unseen scans that can be read, each with its truth.

    Raises
    ------
    OutputError
        If the folder holds something already, or can't be written.
    """
    counts = counts or SampleCounts()
    if folder.exists() and not is_empty_folder(folder):
        raise OutputError(f"{folder} is not empty; choose a new folder for the sample data, or remove it")
    unseen = _unseen_orders(seed, counts.test)
    with atomic_folder(folder) as target:
        with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as workers:
            list(workers.map(lambda order: order.write(target), [*_training_orders(seed, counts), *unseen]))
        _cut_short(target / CUT_SHORT, seed)
        write_text(target / "train" / "labels.json", LABELS.model_dump_json(indent=2, exclude_defaults=True) + "\n")
        with atomic_file(target / "truth.csv") as path, path.open("w", newline="") as file:
            rows = [("scan", "truth"), *((order.scan, order.mask) for order in unseen)]
            csv.writer(file, lineterminator="\n").writerows(rows)
    return read_truth(folder)


def read_truth(folder: Path) -> tuple[Unseen, ...]:
    """Return the unseen scans of a sample data folder, each with its true mask."""
    with (folder / "truth.csv").open(newline="") as file:
        return tuple(Unseen(folder / row["scan"], folder / row["truth"]) for row in csv.DictReader(file))


@dataclass(frozen=True, slots=True)
class _Order:
    """One scan to make, and where it goes within the folder; without a mask it is unlabelled."""

    protocol: Protocol
    seed: tuple[int, ...]
    scan: str
    mask: str | None

    def write(self, folder: Path) -> None:
        phantom = draw_scan(self.protocol, self.seed)
        if self.scan.endswith(".nii.gz"):
            write_volume(folder / self.scan, phantom.volume)
            source = Source("nifti", (folder / self.scan,))
        else:
            series = folder / self.scan
            source = write_series(
                phantom.volume, series, seed=self.seed[0], description=series.name, patient=series.parent.name
            )
        if self.mask:
            write_mask(folder / self.mask, phantom.mask, source)


def _training_orders(seed: int, counts: SampleCounts) -> list[_Order]:
    orders = []
    for number in range(counts.labelled + counts.unlabelled):
        protocol = NIFTI_PROTOCOLS[number % len(NIFTI_PROTOCOLS)]
        name = f"case_{number + 1:02d}.nii.gz"
        mask = f"train/labels/{name}" if number < counts.labelled else None
        orders.append(_Order(protocol, (seed, TRAIN, number), f"train/images/{name}", mask))
    return orders


def _unseen_orders(seed: int, test: int) -> list[_Order]:
    """Return the unseen scans; every second one is a DICOM series."""
    orders = []
    for number in range(test):
        protocols = DICOM_PROTOCOLS if number % 2 else NIFTI_PROTOCOLS
        protocol = protocols[(number // 2) % len(protocols)]
        name = f"patient_{number + 1:02d}"
        scan = f"scans/radiology/{name}/abdomen" if number % 2 else f"scans/outpatients/{name}.nii.gz"
        orders.append(_Order(protocol, (seed, TEST, number), scan, f"truth/{name}.nii.gz"))
    return orders


def _cut_short(path: Path, seed: int) -> None:
    """Write a scan whose transfer broke off, as every large folder has one."""
    write_volume(path, draw_scan(NIFTI_PROTOCOLS[-1], (seed, BROKEN, 0)).volume)
    os.truncate(path, path.stat().st_size // 3)
