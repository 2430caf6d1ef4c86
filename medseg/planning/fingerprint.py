"""What a dataset is like, in numbers: the file that a plan is derived from.

One entry a case, none of them pixels: sizes and spacings in canonical (RAS) order, a summary of the
foreground's intensities, volumes of the structures. Entries are independent, so a fingerprint can be
restricted to some cases (a fold, a labelled subset) without another look at the scans.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, ValidationError

from medseg.config import Triple, describe_problems
from medseg.errors import DatasetError
from medseg.measures.features import StructureFeatures
from medseg.measures.intensity import Intensity
from medseg.plan import Sizes
from medseg.records import Record
from medseg.text import shown

PROBABILITIES = (
    0.0, 0.001, 0.0025, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5,
    0.6, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.9975, 0.999, 1.0,
)  # fmt: skip
"""Where each case's intensity distribution is kept; close at the ends, because clipping bounds lie there."""

DRAWS = 2001
"""Evenly spaced probabilities at which a case's distribution enters the dataset's."""


class ForegroundIntensities(Record):
    """Intensities of one channel inside the labelled structures of one case."""

    mean: float = Field(description="Mean, in the scan's units (HU for CT)")
    std: float = Field(ge=0, description="Standard deviation")
    quantiles: tuple[float, ...] = Field(
        min_length=len(PROBABILITIES), max_length=len(PROBABILITIES), description="Quantiles at `PROBABILITIES`"
    )


class CaseFingerprint(Record):
    """One case, in canonical (RAS) axis order."""

    id: str = Field(description="The case")
    shape: Sizes = Field(description="Voxels along x, y, z")
    content_shape: Sizes = Field(description="Voxels of the smallest box that holds all values other than 0")
    spacing: Triple = Field(description="Voxel spacing along x, y, z, mm")
    channels: int = Field(ge=1, description="Number of channels")
    modality: str = Field("", description="DICOM modality in the scan's header, such as CT; empty: it states none")
    constant_channels: tuple[int, ...] = Field((), description="Channels (from 0) with one value everywhere")
    foreground: tuple[ForegroundIntensities, ...] = Field((), description="For each channel; empty without foreground")
    volumes_ml: dict[str, float] = Field(default_factory=dict, description="Volume of each label that is present, ml")
    darkest: tuple[float, ...] = Field((), description="1st percentile of each whole channel")
    scan: tuple[Intensity, ...] = Field((), description="Intensities of the whole scan, one entry a channel")
    structures: dict[str, StructureFeatures] = Field(
        default_factory=dict, description="Each label that is present: size, components, place, intensities"
    )


@dataclass(frozen=True, slots=True)
class Intensities:
    """One channel's foreground over a dataset, every case with the same weight."""

    low: float
    median: float
    high: float
    mean: float
    std: float


class Fingerprint(Record):
    """All cases that a plan may look at."""

    cases: tuple[CaseFingerprint, ...] = Field(min_length=1, description="One entry a case")

    def select(self, ids: Iterable[str]) -> Fingerprint:
        """Return the fingerprint of these cases alone, such as the training cases.

        Raises
        ------
        DatasetError
            If a case has no entry, or `ids` is empty.
        """
        by_id = {case.id: case for case in self.cases}
        wanted = list(ids)
        missing = [id_ for id_ in wanted if id_ not in by_id]
        if missing or not wanted:
            raise DatasetError(f"the fingerprint has no entry for {shown(missing) or 'an empty list of cases'}")
        return Fingerprint(cases=tuple(by_id[id_] for id_ in wanted))

    def modalities(self, kinds: Iterable[str]) -> tuple[str, ...]:
        """Return the DICOM modalities of these scans; none where nothing states those of all of them.

        Parameters
        ----------
        kinds : what the dataset says of its channels: "ct", "mr" or "other".
        """
        of_dataset = {kind.upper() for kind in kinds if kind != "other"}
        of_headers = {case.modality for case in self.cases}
        if "" in of_headers and not of_dataset:
            return ()
        return tuple(sorted(of_dataset | of_headers - {""}))

    def spacings(self) -> NDArray[np.float64]:
        """Return (cases, 3) spacings, mm."""
        return np.array([case.spacing for case in self.cases])

    def median_content_shape(self, spacing: Triple) -> Sizes:
        """Return the median size of the scans' content on a grid of `spacing` mm, voxels."""
        sizes = np.array([case.content_shape for case in self.cases]) * self.spacings() / np.array(spacing)
        x, y, z = (int(np.ceil(size)) for size in np.median(np.maximum(1, np.round(sizes)), axis=0))
        return x, y, z

    def darkest(self, channel: int) -> float | None:
        """Return how dark a usual scan's darkest voxels are in one channel; None if that was not measured."""
        values = [case.darkest[channel] for case in self.cases if case.darkest]
        return float(np.median(values)) if values else None

    def intensities(self, channel: int) -> Intensities | None:
        """Return the foreground's statistics of one channel; None if no case has any foreground.

        Notes
        -----
        Mean and standard deviation are exact for equally weighted cases. Quantiles come from evenly
        spaced draws of every case's stored distribution, interpolated between `PROBABILITIES`.
        """
        parts = [case.foreground[channel] for case in self.cases if case.foreground]
        if not parts:
            return None
        means, stds = np.array([part.mean for part in parts]), np.array([part.std for part in parts])
        levels = np.linspace(0, 1, DRAWS)
        draws = np.concatenate([np.interp(levels, PROBABILITIES, part.quantiles) for part in parts])
        low, median, high = (float(value) for value in np.quantile(draws, [0.005, 0.5, 0.995]))
        mean = float(means.mean())
        std = float(np.sqrt(np.mean(stds**2 + (means - mean) ** 2)))
        return Intensities(low, median, high, mean, std)


def save_fingerprint(fingerprint: Fingerprint, path: Path) -> None:
    """Write a fingerprint as JSON."""
    path.write_text(fingerprint.model_dump_json(indent=1) + "\n", encoding="utf-8")


def load_fingerprint(path: Path) -> Fingerprint:
    """Read a fingerprint; raises `DatasetError` if the file is not one."""
    try:
        return Fingerprint.model_validate_json(path.read_text(encoding="utf-8"))
    except ValidationError as error:
        raise DatasetError(f"{path}: {describe_problems(error)}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise DatasetError(f"{path}: not a readable fingerprint ({error})") from None
