"""Look at every case once, before anything is planned or trained: measure it, and refuse what is unsound.

A case is unsound when its scan can't be read (NaN voxels included), when its mask lies on another
grid, or when the mask holds values that the label map doesn't know. All unsound cases are named in
one error. Cases are read a few at a time, and only their summaries are kept.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
from numpy.typing import NDArray

from medseg.errors import DatasetError, LabelError, MedsegError
from medseg.io.scan import read_case
from medseg.labels import LabelMap
from medseg.measures.features import measure_structures
from medseg.measures.intensity import measure_scan
from medseg.planning.fingerprint import PROBABILITIES, CaseFingerprint, Fingerprint, ForegroundIntensities
from medseg.provenance import usable_cores
from medseg.text import significant
from medseg.volume import Case, Mask, Volume

SAMPLE = 200_000
"""At most this many voxels of a case are looked at, evenly spaced: a 0.5 percentile is then
known to about 0.02 %, and sorting them takes 10 ms."""

MAX_THREADS = 4
"""Scans in memory at once; beyond four the decompression no longer gains."""

SHOWN_PROBLEMS = 10
"""Unsound cases that an error spells out; the rest are counted."""


def fingerprint_cases(cases: Sequence[Case], labels: LabelMap) -> Fingerprint:
    """Measure every case.

    Parameters
    ----------
    cases : the cases to look at; those without a mask give sizes and spacings only.
    labels : the label map that the masks must keep to.

    Raises
    ------
    DatasetError
        If there is no case, or any is unsound; all unsound ones are named, with the reason for each.
    """
    if not cases:
        raise DatasetError("there is no case to look at; a plan needs at least one labelled scan")
    with ThreadPoolExecutor(min(MAX_THREADS, usable_cores())) as threads:
        results = list(threads.map(partial(_examine_or_explain, labels=labels), cases))
    problems = [result for result in results if isinstance(result, str)]
    if problems:
        shown = "; ".join(problems[:SHOWN_PROBLEMS])
        more = f"; and {len(problems) - SHOWN_PROBLEMS} more" if len(problems) > SHOWN_PROBLEMS else ""
        raise DatasetError(f"{len(problems)} of {len(cases)} cases can't be used: {shown}{more}")
    measured = tuple(result for result in results if isinstance(result, CaseFingerprint))
    _check_channels(measured)
    return Fingerprint(cases=measured)


def examine_case(case: Case, labels: LabelMap) -> CaseFingerprint:
    """Read and measure one case.

    Raises
    ------
    ScanError
        If it can't be read, or its parts lie on different grids.
    LabelError
        If the mask holds values that `labels` doesn't know.
    """
    volume, mask = read_case(case)
    straight = volume.grid.straightened()  # as the network will see it
    orientation = straight.to_canonical()
    canonical = orientation.apply_to_grid(straight)
    content = _content_shape(volume.array)
    x, y, z = (content[axis] for axis in orientation.axes)
    return CaseFingerprint(
        id=case.id,
        shape=canonical.shape,
        content_shape=(x, y, z),
        spacing=canonical.spacing,
        channels=volume.channels,
        modality=volume.modality,
        constant_channels=_constant_channels(volume.array),
        foreground=_foreground(volume, mask, labels) if mask else (),
        volumes_ml=_volumes_ml(mask, labels) if mask else {},
        darkest=tuple(_darkest(channel) for channel in volume.array),
        scan=measure_scan(volume),
        structures=measure_structures(volume, mask, labels) if mask else {},
    )


def _examine_or_explain(case: Case, labels: LabelMap) -> CaseFingerprint | str:
    try:
        return examine_case(case, labels)
    except MedsegError as error:
        return f"case {case.id}: {str(error).removeprefix(f'case {case.id}: ')}"


def _check_channels(cases: Sequence[CaseFingerprint]) -> None:
    usual, _ = Counter(case.channels for case in cases).most_common(1)[0]
    odd = [f"{case.id} has {case.channels}" for case in cases if case.channels != usual]
    if odd:
        raise DatasetError(
            f"every case needs the same channels: most have {usual}, but {', '.join(odd[:SHOWN_PROBLEMS])}; "
            "complete these cases or leave them out"
        )


def _constant_channels(array: NDArray[np.float32]) -> tuple[int, ...]:
    return tuple(number for number, channel in enumerate(array) if channel.min() == channel.max())


def _darkest(channel: NDArray[np.float32]) -> float:
    """Return the 1st percentile of a channel (X, Y, Z), which single odd voxels don't move."""
    return significant(np.percentile(_spread(channel.ravel(order="F")), 1))


def _content_shape(array: NDArray[np.float32]) -> tuple[int, int, int]:
    """Size of the smallest box that holds every non-zero value of any channel; the whole scan if there is none."""
    extent = list(array.shape[1:])
    for axis in range(3):
        others = tuple(other for other in range(4) if other != axis + 1)
        filled = np.flatnonzero(array.any(axis=others))
        if filled.size:
            extent[axis] = int(filled[-1] - filled[0]) + 1
    x, y, z = extent
    return x, y, z


def _foreground(volume: Volume, mask: Mask, labels: LabelMap) -> tuple[ForegroundIntensities, ...]:
    inside = mask.array != 0
    if labels.ignore is not None:
        inside &= mask.array != labels.ignore
    voxels = np.flatnonzero(inside.ravel(order="F"))  # X varies fastest in memory: nothing is copied
    if not voxels.size:
        return ()
    voxels = _spread(voxels)
    return tuple(_summarise(channel.ravel(order="F")[voxels]) for channel in volume.array)


def _spread(values: NDArray) -> NDArray:
    """Return `SAMPLE` of the values, evenly spaced; all of them where there are fewer."""
    if values.size <= SAMPLE:
        return values
    return values[np.linspace(0, values.size - 1, SAMPLE).astype(np.intp)]


def _summarise(values: NDArray[np.float32]) -> ForegroundIntensities:
    exact = values.astype(np.float64)
    return ForegroundIntensities(
        mean=float(exact.mean()),
        std=float(exact.std()),
        quantiles=tuple(map(significant, np.quantile(exact, PROBABILITIES))),
    )


def _volumes_ml(mask: Mask, labels: LabelMap) -> dict[str, float]:
    counts = _count_values(mask.array)
    known = {0, *labels.values, labels.ignore}
    unknown = sorted(set(counts) - known)
    if unknown:
        raise LabelError(
            f"the mask holds values {unknown[:8]} that the label map doesn't know ({labels.describe()}); name them, "
            "too, in dataset.labels"
        )
    return {label.name: counts[label.value] * mask.grid.voxel_ml for label in labels.labels if label.value in counts}


def _count_values(array: NDArray[np.uint8] | NDArray[np.uint16]) -> dict[int, int]:
    """Voxels of each value that occurs, plane by plane: bincount makes an 8-byte copy of what it counts."""
    counts = np.zeros(np.iinfo(array.dtype).max + 1, dtype=np.int64)
    for plane in np.moveaxis(array, -1, 0):
        counts += np.bincount(plane.ravel(order="K"), minlength=counts.size)
    return {int(value): int(counts[value]) for value in np.flatnonzero(counts)}
