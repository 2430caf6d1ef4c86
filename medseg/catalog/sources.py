"""Turn a path of a dataset into the `Source` of a scan: a NIfTI file, or a folder with one DICOM series."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from medseg.config import IngestConfig
from medseg.errors import DatasetError, ScanError
from medseg.io.nifti_header import read_nifti_header, scan_files
from medseg.io.scan import case_files
from medseg.provenance import digest_files
from medseg.volume import Case, Source


def scan_source(path: Path, case: str) -> Source:
    """Return where a scan's pixels are, by names alone.

    Parameters
    ----------
    path : a NIfTI file, or a folder of DICOM slices.
    case : id of the case, for messages.

    Raises
    ------
    DatasetError
        If a folder is empty.
    """
    if not path.is_dir():
        return Source("nifti", (path,))
    files = tuple(file for file in sorted(path.rglob("*")) if file.is_file() and not file.name.startswith("."))
    if not files:
        raise DatasetError(f"case {case}: its folder {path.name}/ is empty; it needs the slices of one DICOM series")
    return Source("dicom", files)


def sound_case(case: Case, policy: IngestConfig) -> tuple[Case, str]:
    """Return a case whose scans are read by `policy`, the slices of its DICOM series in order, and whose it is.

    The latter is what DICOM headers say, to be compared and never kept; "" where they say nothing.

    Raises
    ------
    DatasetError
        If the files of a folder are not exactly one DICOM series that the policy accepts.
    """
    sound = [_sound(source, case.id, policy) for source in case.images]
    whose = next((patient for _, patient in sound if patient), "")
    return replace(case, images=tuple(source for source, _ in sound)), whose


def content_files(source: Source) -> tuple[Path, ...]:
    """Return the files that hold a scan's voxels.

    Of a NIfTI pair that is the ``.img`` file: two scans on equal grids have equal headers.
    """
    if source.kind == "dicom":
        return source.files
    return tuple(scan_files(path)[1] for path in source.files)


def scan_digest(case: Case) -> str:
    """Return the digest of the files of a case's scans, as the records of segmentations and pseudo-labels have it.

    Raises
    ------
    DatasetError
        If a file can't be read.
    """
    try:
        return digest_files(case_files(case))
    except OSError as error:
        raise DatasetError(f"case {case.id}: its scan can't be read ({error.strerror}); restore it") from None


def voxels_from(path: Path) -> int:
    """Return where the voxels of a NIfTI file begin; 0 for the second file of a pair, or if the header is damaged."""
    try:
        header = read_nifti_header(path)
    except ScanError:
        return 0
    return header.offset if header.data_file == path else 0


def _sound(source: Source, case: str, policy: IngestConfig) -> tuple[Source, str]:
    chosen = replace(source, policy=policy)
    if source.kind == "nifti":
        return chosen, ""
    from medseg.io.dicom import open_series  # late: pydicom costs 0.2 s that NIfTI datasets need not pay

    try:
        series = open_series(chosen)
    except ScanError as error:
        raise DatasetError(f"case {case}: its folder is not one sound DICOM series: {error}") from None
    return series.source, series.patient
