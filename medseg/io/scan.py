"""Read any scan by its `Source`, and the scans and mask of a case on one common grid."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from medseg.errors import GeometryError, LabelError, ScanError
from medseg.geometry import Grid, reorder
from medseg.io.header import ScanHeader
from medseg.io.nifti import inspect_nifti, read_mask, read_nifti
from medseg.io.nifti_header import scan_files
from medseg.volume import Case, Mask, Source, Volume


def inspect_scan(source: Source, *, channels_last: bool = False) -> ScanHeader:
    """Return grid, channels, modality and flags of a scan from its headers.

    Raises
    ------
    ScanError
        If the headers show that the scan can't be read.
    """
    if source.kind == "nifti":
        return inspect_nifti(source.files[0], channels_last=channels_last, policy=source.policy)
    from medseg.io.dicom import inspect_series  # pydicom costs 0.2 s that NIfTI-only runs need not pay

    return inspect_series(source)


def read_scan(source: Source, *, channels_last: bool = False) -> Volume:
    """Read one scan.

    Parameters
    ----------
    source : where its pixels are.
    channels_last : take a NIfTI file's fourth axis as channels instead of refusing it.

    Raises
    ------
    ScanError
        If it is not a sound volume; the code says why.
    """
    if source.kind == "nifti":
        return read_nifti(source.files[0], channels_last=channels_last, policy=source.policy)
    from medseg.io.dicom import read_series

    return read_series(source)


def source_files(source: Source) -> tuple[Path, ...]:
    """Return every file that a scan is made of: of a NIfTI pair both, of a series all slices in order."""
    if source.kind == "nifti":
        return tuple(dict.fromkeys(scan_files(source.files[0])))
    return source.files


def case_files(case: Case) -> list[Path]:
    """Return every file that a case's scans are made of, without its mask."""
    return [file for source in case.images for file in source_files(source)]


def read_case(case: Case) -> tuple[Volume, Mask | None]:
    """Read the scans of a case as the channels of one volume, and its mask where there is one.

    A single source may hold several channels in one file; several sources are stacked in their order.
    Channels and mask may be stored in another order or direction of axes than the first scan, as masks of
    DICOM series are: they come on its grid.

    Raises
    ------
    ScanError
        If a scan can't be read, or (`GRID_MISMATCH`) scans or mask lie on different grids.
    LabelError
        If the mask holds what no mask holds.
    """
    volumes = [read_scan(source, channels_last=len(case.images) == 1) for source in case.images]
    first = volumes[0]
    arrays = [first.array]
    for number, volume in enumerate(volumes[1:], start=2):
        arrays.append(_laid_on(first.grid, volume, f"case {case.id}: channel {number}"))
    flags = tuple(dict.fromkeys(flag for volume in volumes for flag in volume.flags))
    repairs = tuple(dict.fromkeys(repair for volume in volumes for repair in volume.repairs))
    array = first.array if len(arrays) == 1 else np.concatenate(arrays)
    drawn = read_case_mask(case)
    mask = Mask(_laid_on(first.grid, drawn, f"case {case.id}: the mask"), first.grid) if drawn else None
    return Volume(array, first.grid, first.modality, flags, repairs), mask


def read_case_mask(case: Case) -> Mask | None:
    """Read the mask of a case, if there is one, as it is stored; raises as `read_case` does."""
    if case.mask is None:
        return None
    try:
        return read_mask(case.mask, policy=case.images[0].policy)
    except ScanError as error:
        raise ScanError(error.code, f"case {case.id}: its mask {error}") from None
    except LabelError as error:
        raise LabelError(f"case {case.id}: its mask {error}") from None


def _laid_on(target: Grid, part: Volume | Mask, what: str) -> NDArray:
    """Return the part's voxels in the target's order."""
    try:
        return reorder(part.array, part.grid, target)
    except GeometryError as error:
        raise GeometryError(
            error.code, f"{what} is on another grid than the scan ({error}); both must be drawn on the same voxels"
        ) from None
