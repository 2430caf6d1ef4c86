"""Turn a path of a dataset into the `Source` of a scan: a NIfTI file, or a folder with one DICOM series."""

from __future__ import annotations

from pathlib import Path

from medseg.errors import DatasetError, ScanError
from medseg.io.nifti_header import scan_files
from medseg.volume import Source


def scan_source(path: Path, case: str) -> Source:
    """Return where a scan's pixels are.

    Parameters
    ----------
    path : a NIfTI file, or a folder of DICOM slices.
    case : id of the case, for messages.

    Raises
    ------
    DatasetError
        If a folder doesn't hold exactly one sound DICOM series.
    """
    if path.is_dir():
        return _series_source(path, case)
    return Source("nifti", (path,))


def content_files(source: Source) -> tuple[Path, ...]:
    """Return the files that hold a scan's voxels.

    Of a NIfTI pair that is the ``.img`` file: two scans on equal grids have equal headers.
    """
    if source.kind == "dicom":
        return source.files
    return tuple(scan_files(path)[1] for path in source.files)


def _series_source(folder: Path, case: str) -> Source:
    files = tuple(path for path in sorted(folder.rglob("*")) if path.is_file() and not path.name.startswith("."))
    if not files:
        raise DatasetError(f"case {case}: its folder {folder.name}/ is empty; it needs the slices of one DICOM series")
    from medseg.io.dicom import open_series  # late: pydicom costs 0.2 s that NIfTI datasets need not pay

    try:
        return open_series(Source("dicom", files)).source
    except ScanError as error:
        raise DatasetError(f"case {case}: {folder.name}/ is not one sound DICOM series: {error}") from None
