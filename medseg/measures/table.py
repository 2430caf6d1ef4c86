"""The measures of many cases as one table: a row for each structure, and one for each lesion."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from medseg.measures.intensity import IntensityStatistics
from medseg.measures.measure import Measures
from medseg.text import significant

COLUMNS = (
    "case", "structure", "value", "lesion", "voxels", "volume_ml", "components", "incomplete",
    "long_mm", "short_mm", "plane", "slice", "diameter_mm", "centroid_x_mm", "centroid_y_mm", "centroid_z_mm",
    "centroid_i", "centroid_j", "centroid_k",
)  # fmt: skip
"""Columns of ``measures.csv`` before the intensities; `docs/outputs.md` says what each means."""

INTENSITIES = tuple(IntensityStatistics.model_fields)


def measure_rows(
    cases: Iterable[tuple[str, Sequence[Measures]]], channels: int = 1
) -> tuple[list[str], list[list[object]]]:
    """Return the header and the rows of ``measures.csv``.

    Parameters
    ----------
    cases : case ids with their measures.
    channels : of the scans; the columns of the first are called ``intensity_mean`` and so on, those of
        the second ``intensity_2_mean``.
    """
    prefixes = ["intensity_", *(f"intensity_{number}_" for number in range(2, channels + 1))]
    header = [*COLUMNS, *(prefix + name for prefix in prefixes for name in INTENSITIES)]
    rows = [_row(case, measures, channels) for case, found in cases for measures in found]
    return header, rows


def _row(case: str, measures: Measures, channels: int) -> list[object]:
    nothing: tuple[None, ...] = (None, None, None)
    intensities: list[object] = []
    for channel in range(channels):
        has = channel < len(measures.intensity)
        values = measures.intensity[channel].model_dump().values() if has else [None] * len(INTENSITIES)
        intensities += map(_cell, values)
    return [
        case,
        measures.structure,
        measures.value,
        measures.lesion,
        measures.voxels,
        _cell(measures.volume_ml),
        measures.components,
        str(measures.incomplete).lower(),
        _cell(measures.long_mm),
        _cell(measures.short_mm),
        measures.plane,
        measures.slice,
        _cell(measures.diameter_mm),
        *(measures.centroid_mm or nothing),
        *(measures.centroid_voxel or nothing),
        *intensities,
    ]


def _cell(value: float | None) -> float | None:
    return None if value is None else significant(value)
