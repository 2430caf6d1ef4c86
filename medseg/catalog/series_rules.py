"""Rules for choosing one series of each DICOM study: what a series must be, and what is preferred.

A rules file is YAML (configs/series_rules/ has examples). Descriptions and kernels are matched, never shown: they
are free text, which may name a patient. Patterns run in Rust's regex engine, whose time is linear in the text,
because descriptions come from strangers and Python's own engine can be kept busy for ever.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from pydantic import AfterValidator, Field, ValidationError, model_validator

from medseg.catalog.documents import read_object
from medseg.config import Stage, describe_problems
from medseg.errors import ConfigError, DatasetError
from medseg.geometry import Grid
from medseg.io.dicom_series import Series

Orientation = Literal["axial", "sagittal", "coronal", "oblique"]
ORIENTATIONS: tuple[Orientation, ...] = ("sagittal", "coronal", "axial")
"""By the world axis that the slices are stacked along."""

OBLIQUE_DEGREES = 25.0
"""Largest angle between the stack and an axis of the patient; head scans along the skull base have up to 20."""

PATTERN_LETTERS = 200


def _checked(pattern: str) -> str:
    """Return a pattern that the matcher understands."""
    import polars

    try:
        matches(pattern, "")
    except polars.exceptions.PolarsError as error:
        raise ValueError(f"not a pattern: {str(error).splitlines()[-1]}") from None
    return pattern


def matches(pattern: str, text: str) -> bool:
    """Whether `pattern` (syntax of Rust's regex, upper and lower case alike) is found in `text`.

    Examples
    --------
    >>> matches("venous|portal", "Abd PORTAL 1.0"), matches("^(a+)+$", "a" * 60 + "b")
    (True, False)
    """
    import polars

    return bool(polars.Series([text]).str.contains(f"(?i){pattern}").item())


Pattern = Annotated[str, Field(max_length=PATTERN_LETTERS), AfterValidator(_checked)]


class Range(Stage):
    """Smallest and largest value, both allowed."""

    min: float | None = Field(None, ge=0, description="Smallest value; default: none")
    max: float | None = Field(None, ge=0, description="Largest value; default: none")

    @model_validator(mode="after")
    def _is_ordered(self) -> Range:
        if self.min is not None and self.max is not None and self.min > self.max:
            raise ValueError(f"min {self.min:g} is above max {self.max:g}")
        return self

    def holds(self, value: float) -> bool:
        """Whether `value` lies within."""
        return (self.min is None or value >= self.min) and (self.max is None or value <= self.max)

    def __str__(self) -> str:
        if self.min is None:
            return f"at most {self.max:g}" if self.max is not None else "any"
        return f"{self.min:g} to {self.max:g}" if self.max is not None else f"at least {self.min:g}"


class SeriesRule(Stage):
    """What a series must be; what is left out makes no difference."""

    modality: tuple[Literal["CT", "MR", "PT"], ...] = Field((), description="Any of these")
    orientation: tuple[Orientation, ...] = Field((), description="Any of these, the first preferred")
    spacing_mm: Range = Field(default_factory=Range, description="Distance between slices")
    thickness_mm: Range = Field(default_factory=Range, description="Thickness of a slice, as its header states it")
    min_slices: int = Field(1, ge=1, description="Fewest slices")
    original: bool | None = Field(None, description="true: as the scanner made it; false: derived; default: both")
    contrast: bool | None = Field(None, description="Whether the header names a contrast agent; default: either")
    kernel: Pattern | None = Field(None, description="Pattern found in the reconstruction kernel")
    not_kernel: Pattern | None = Field(None, description="Pattern not found in it")
    description: Pattern | None = Field(None, description="Pattern found in the series' description")
    not_description: Pattern | None = Field(None, description="Pattern not found in it")

    def objection(self, series: Series) -> str:
        """Return the first condition that a series does not meet, in words without its free text; "" if none."""
        header, plane = series.slices[0], orientation_of(series.grid)
        spacing, slices, thickness = series.grid.spacing[2], series.grid.shape[2], header.slice_thickness
        kernel, description = header.kernel, header.description
        conditions = (
            (not self.modality or series.modality in self.modality, f"it is {series.modality}"),
            (not self.orientation or plane in self.orientation, f"it is {plane}"),
            (self.spacing_mm.holds(spacing), f"its slices are {spacing:.3g} mm apart, not {self.spacing_mm}"),
            (
                self.thickness_mm == Range() or (thickness > 0 and self.thickness_mm.holds(thickness)),
                f"its slices are {f'{thickness:.3g}' if thickness else 'any'} mm thick, not {self.thickness_mm}",
            ),
            (slices >= self.min_slices, f"it has {slices} slices, fewer than {self.min_slices}"),
            (self.original in (None, is_original(series)), "it is derived" if self.original else "it is original"),
            (self.contrast in (None, header.contrast), f"it is {'with' if header.contrast else 'without'} contrast"),
            (self.kernel is None or matches(self.kernel, kernel), "its kernel does not fit"),
            (self.not_kernel is None or not matches(self.not_kernel, kernel), "its kernel is ruled out"),
            (self.description is None or matches(self.description, description), "its description does not fit"),
            (
                self.not_description is None or not matches(self.not_description, description),
                "its description is ruled out",
            ),
        )
        return next((words for holds, words in conditions if not holds), "")


class SeriesRules(Stage):
    """How one series of each study is chosen."""

    rules: tuple[SeriesRule, ...] = Field(
        min_length=1, description="A series must meet one; earlier ones are preferred"
    )
    margin: float = Field(
        0.1, ge=0, lt=1, description="Relative difference in spacing, or in number of slices, that decides nothing"
    )


def read_series_rules(path: Path) -> SeriesRules:
    """Read a rules file.

    Raises
    ------
    ConfigError
        If it can't be read, or a field is unknown or wrong.
    """
    try:
        return SeriesRules.model_validate(read_object(path))
    except DatasetError as error:
        raise ConfigError(str(error)) from None
    except ValidationError as error:
        raise ConfigError(f"{path}: {describe_problems(error)}") from None


def orientation_of(grid: Grid) -> Orientation:
    """Return the anatomical plane of the slices, which are stacked along the third axis.

    Examples
    --------
    >>> orientation_of(Grid((2, 2, 2), np.eye(4)))
    'axial'
    """
    normal = np.cross(grid.directions[:, 0], grid.directions[:, 1])  # of a tilted stack the planes count, not the stack
    along = np.abs(normal) / np.linalg.norm(normal)
    if along.max() < np.cos(np.deg2rad(OBLIQUE_DEGREES)):
        return "oblique"
    return ORIENTATIONS[int(along.argmax())]


def is_original(series: Series) -> bool:
    """Whether a series is as the scanner made it: ORIGINAL and PRIMARY come first in its image type."""
    return series.slices[0].phase[0].upper().split("\\")[:2] == ["ORIGINAL", "PRIMARY"]
