"""Pixels with a place in space. Images and masks are different types on purpose.

A `Volume` holds intensities and may be interpolated; a `Mask` holds label values and may not.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from medseg.config import IngestConfig
from medseg.errors import GeometryError, LabelError, ReasonCode
from medseg.geometry import Grid


@dataclass(frozen=True, slots=True)
class Source:
    """Where a scan's pixels are: one NIfTI file, or the files of one DICOM series in slice order.

    Attributes
    ----------
    kind : "nifti" or "dicom".
    files : the files; for DICOM ordered along the slice normal.
    policy : what is done about faults, so that a scan is read as it was catalogued.
    """

    kind: Literal["nifti", "dicom"]
    files: tuple[Path, ...]
    policy: IngestConfig = field(default_factory=IngestConfig)


@dataclass(frozen=True, slots=True)
class Repair:
    """What was done about a fault of a scan.

    Attributes
    ----------
    code : the fault.
    what : what was done, in words and numbers.
    """

    code: ReasonCode
    what: str


@dataclass(frozen=True, slots=True)
class Case:
    """What belongs together: the scans of one examination, and the mask if a person drew one.

    Attributes
    ----------
    id : name of the case, unique in its dataset or run; safe as a file name.
    images : one source a channel (T1, T2, ...), or a single source that holds all channels.
    mask : file of the label map on the images' grid; None: unlabelled.
    patient : who was scanned, for splitting; equal for the cases of one person.
    flags : reason codes noticed when the scans were catalogued that did not refuse them.
    weight : file of how much each voxel of the mask counts, 0 to 255, on the images' grid, which makes the
        mask a pseudo-label whose value 255 is ignored; None: every voxel counts fully.
    """

    id: str
    images: tuple[Source, ...]
    mask: Path | None = None
    patient: str = ""
    flags: tuple[ReasonCode, ...] = ()
    weight: Path | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Volume:
    """Intensities on a grid.

    Parameters
    ----------
    array : (C, X, Y, Z) float32, in the modality's units (HU for CT) until preprocessing.
    grid : the grid shared by all channels.
    modality : DICOM modality word such as "CT" or "MR"; "" where unknown (most NIfTI files).
    flags : reason codes noticed while reading that did not refuse the scan.
    repairs : what was done about some of them.
    """

    array: NDArray[np.float32]
    grid: Grid
    modality: str = ""
    flags: tuple[ReasonCode, ...] = ()
    repairs: tuple[Repair, ...] = ()

    def __post_init__(self) -> None:
        if self.array.ndim != 4 or self.array.shape[1:] != self.grid.shape:
            raise GeometryError(
                ReasonCode.GRID_MISMATCH,
                f"an image array of shape {self.array.shape} does not fit a grid of {self.grid.shape}",
            )

    @property
    def channels(self) -> int:
        """Number of channels."""
        return int(self.array.shape[0])


@dataclass(frozen=True, slots=True, eq=False)
class Mask:
    """Label values on a grid, one per voxel.

    Parameters
    ----------
    array : (X, Y, Z) uint8, or uint16 above 255 labels.
    grid : its grid.
    """

    array: NDArray[np.uint8] | NDArray[np.uint16]
    grid: Grid

    def __post_init__(self) -> None:
        if self.array.dtype not in (np.uint8, np.uint16):
            raise LabelError(f"a mask holds uint8 or uint16 values, not {self.array.dtype}")
        if self.array.shape != self.grid.shape:
            raise GeometryError(
                ReasonCode.GRID_MISMATCH,
                f"a mask array of shape {self.array.shape} does not fit a grid of {self.grid.shape}",
            )
