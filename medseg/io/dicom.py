"""Read DICOM series: from files to a volume in the modality's units.

pydicom parses and decodes, `medseg.io.dicom_series` decides what a series is. Stored values become HU, MR
units or the counts of a PET scan (no SUV is computed) by each slice's own slope and intercept, in float32.
MONOCHROME1 says how a viewer paints the image, not what its values mean (PS3.3 C.7.6.3.1.2): values are
kept, the scan flagged.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from hashlib import sha256
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.pixels.decoders.base import get_decoder

from medseg.errors import ReasonCode, ScanError, SeriesError
from medseg.io.dicom_geometry import interpolate_planes
from medseg.io.dicom_headers import CT, SliceHeader, quiet_pydicom, read_headers
from medseg.io.dicom_series import Refusal, Series, arrange
from medseg.io.findings import Findings
from medseg.io.header import ScanHeader
from medseg.io.nifti_header import MAX_VALUES
from medseg.io.streams import BoundedReader
from medseg.volume import Repair, Source, Volume

DECODE_THREADS = 2
"""Slices decoded at a time; more do not help, because parsing holds Python's lock."""

SAFE_DECODERS = ("pylibjpeg", "pyjpegls")
"""Used wherever they can: on a damaged JPEG 2000 stream GDCM, pydicom's first choice, ends the whole process."""

AIR = {CT: -1024.0}
"""What pixels outside the field of view are set to, in the modality's units; 0 for the others."""


def inspect_series(source: Source) -> ScanHeader:
    """Return grid, modality and flags of a series from its headers.

    Raises
    ------
    ScanError
        If its files do not make one sound volume.
    """
    series = open_series(source)
    return ScanHeader(series.grid, 1, series.modality, series.flags, series.repairs)


def read_series(source: Source) -> Volume:
    """Read a series as (1, X, Y, Z) float32; X runs along rows, Y along columns, Z along the normal.

    Raises
    ------
    ScanError
        If its files do not make one sound volume, with the reason code; `DECODE_FAILED` and `TRUNCATED`
        name the slice by its number.
    """
    series = open_series(source)
    _check_size(series)
    stack = np.empty((len(series.slices), series.grid.shape[1], series.grid.shape[0]), dtype=np.float32)
    with ThreadPoolExecutor(DECODE_THREADS) as pool:  # drawing the results raises the first file's error
        padded = list(pool.map(lambda numbers: _decode_file(series, numbers, stack), _by_file(series)))
    name = f"the {series.modality} series"
    if not np.isfinite(stack.max()) or not np.isfinite(stack.min()):
        raise SeriesError(ReasonCode.NOT_FINITE, f"{name} rescales to values that are not finite")
    findings = Findings(series.policy, list(series.flags), list(series.repairs))
    if any(padded) and series.policy.pixel_padding == "repair":  # every day's work of some scanners: no flag
        what = f"set to {AIR.get(series.modality, 0):g} what its headers call padding"
        findings.repairs.append(Repair(ReasonCode.PIXEL_PADDING, what))
    elif any(padded):
        findings.note(ReasonCode.PIXEL_PADDING, f"{name} holds padding below the value of air")
    findings.check_values(stack.transpose(2, 1, 0), series.modality, name)
    if not series.line.is_even:
        stack = interpolate_planes(stack, series.line)
    array = stack.transpose(2, 1, 0)[None]
    return Volume(array, series.grid, series.modality, tuple(findings.flags), tuple(findings.repairs))


def _check_size(series: Series) -> None:
    columns, rows, planes = series.grid.shape
    if columns * rows * planes > MAX_VALUES:
        raise SeriesError(
            ReasonCode.UNREADABLE, f"a series of {planes} slices of {rows}x{columns} pixels is larger than can be read"
        )


def open_series(source: Source) -> Series:
    """Return the one series that a source's files make.

    Raises
    ------
    ScanError
        If they make none (with the first reason) or several (`AMBIGUOUS_SERIES`).
    """
    quiet_pydicom()
    headers: list[SliceHeader] = []
    for number, path in enumerate(source.files, start=1):
        planes = read_headers(path)
        if not planes:
            raise SeriesError(ReasonCode.NOT_DICOM, f"file {number} of {len(source.files)} of the series is not DICOM")
        headers += planes
    results = arrange(headers, same_pixels, source.policy)
    found = [result for result in results if isinstance(result, Series)]
    refused = [result for result in results if isinstance(result, Refusal) and not result.skipped]
    if len(found) == 1 and not refused:
        return found[0]
    if found:
        raise SeriesError(
            ReasonCode.AMBIGUOUS_SERIES,
            f"{len(source.files)} files make {len(found) + len(refused)} series; index their folder to tell them apart",
        )
    worst = next(iter(refused or (result for result in results if isinstance(result, Refusal))), None)
    if worst is None:
        raise SeriesError(ReasonCode.EMPTY, "a scan without files can't be read")
    raise SeriesError(worst.code, worst.message)


def same_pixels(one: SliceHeader, other: SliceHeader, digest: Callable[[Path], bytes] | None = None) -> bool:
    """Whether two slices hold the same stored image with the same rescaling; unreadable ones don't.

    Parameters
    ----------
    digest : gives the digest of a file's stored pixels; default: `pixel_digest`.
    """
    if (one.slope, one.intercept, one.frames) != (other.slope, other.intercept, other.frames):
        return False
    if one.frames > 1 and (one.path == other.path or one.frame != other.frame):
        return False
    digest = digest or pixel_digest
    return digest(one.path) == digest(other.path)


def pixel_digest(path: Path) -> bytes:
    """Return the digest of a file's stored pixels, remembered for as long as the file stays the same."""
    state = path.stat()
    return _digest_once(path, state.st_mtime_ns, state.st_size)


@lru_cache(maxsize=4096)
def _digest_once(path: Path, modified: int, size: int) -> bytes:
    try:
        return sha256(_parse(path).PixelData).digest()
    except Exception:  # reported as undecodable when the slice is read; here it only equals nothing
        return f"{path} {modified} {size}".encode(errors="surrogateescape")


def _parse(path: Path) -> Dataset:
    with BoundedReader(path) as stream:
        return dcmread(stream, force=True)


def _by_file(series: Series) -> list[list[int]]:
    """Return the numbers of the slices that each file holds; an enhanced series may have several files."""
    numbers: dict[Path, list[int]] = {}
    for number, header in enumerate(series.slices):
        numbers.setdefault(header.path, []).append(number)
    return list(numbers.values())


def _decode_file(series: Series, numbers: Sequence[int], stack: NDArray[np.float32]) -> bool:
    """Write the slices of one file into the stack; return whether any has padding below the value of air."""
    pixels = _pixels(series, numbers[0])
    frames = pixels if pixels.ndim == 3 else pixels[None]
    if len(frames) != series.slices[numbers[0]].frames:
        raise _undecodable(series, numbers[0], ValueError("frames"))
    padded = [_place(series, number, frames[series.slices[number].frame], stack) for number in numbers]
    return any(padded)


def _pixels(series: Series, number: int) -> NDArray:
    try:
        dataset = _parse(series.slices[number].path)
        available = get_decoder(dataset.file_meta.TransferSyntaxUID).available_plugins
        plugin = next((name for name in SAFE_DECODERS if name in available), "")
        dataset.pixel_array_options(decoding_plugin=plugin)
        return np.asarray(dataset.pixel_array)
    except (KeyboardInterrupt, SystemExit, MemoryError):
        raise
    except BaseException as error:  # decoders are foreign code; a panic of those in Rust is no Exception
        raise _undecodable(series, number, error) from None


def _place(series: Series, number: int, pixels: NDArray, stack: NDArray[np.float32]) -> bool:
    """Write a slice's rescaled values into the stack; return whether it has padding below the value of air."""
    if pixels.shape != stack.shape[1:]:
        raise _undecodable(series, number, ValueError("shape"))
    header, plane = series.slices[number], stack[number]
    plane[...] = pixels
    if header.slope != 1.0:
        plane *= np.float32(header.slope)
    if header.intercept != 0.0:
        plane += np.float32(header.intercept)
    if header.padding is None:
        return False
    # padding that rescales to real values, such as 0 HU, is a frequent mistake of exports: it would take tissue away
    air = AIR.get(series.modality, 0.0)
    padded = (pixels >= header.padding[0]) & (pixels <= header.padding[1]) & (plane < air)
    if series.policy.pixel_padding == "repair":
        plane[padded] = air
    return bool(padded.any())


def _undecodable(series: Series, number: int, error: BaseException) -> ScanError:
    return SeriesError(
        ReasonCode.DECODE_FAILED,
        f"slice {number + 1} of {len(series.slices)} of the {series.modality} series can't be decoded "
        f"({type(error).__name__}); export the series again",
    )
