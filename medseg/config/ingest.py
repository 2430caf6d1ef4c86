"""What is done about faults of scans."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from pydantic import Field, ValidationError

from medseg.config.stage import Stage
from medseg.errors import ConfigError, ReasonCode


class IngestConfig(Stage):
    """What is done about each fault of a scan: reject it, warn (use it as it is, flagged), or repair it (flagged).

    A field is the reason code in lower case; codes that are not here always refuse a scan (docs/ingest.md).
    """

    missing_slice: Literal["reject", "repair"] = Field(
        "reject", description="Slices are missing; repair: interpolate them"
    )
    variable_spacing: Literal["reject", "repair"] = Field(
        "reject", description="Slices are unevenly spaced; repair: interpolate evenly spaced ones"
    )
    gantry_tilt: Literal["reject", "repair"] = Field(
        "repair", description="Slices are sheared by a tilted gantry; repair: the network sees them straightened"
    )
    nonorthonormal_affine: Literal["reject", "repair"] = Field(
        "repair", description="The axes of a scan are not perpendicular; repair: the network sees it straightened"
    )
    phases: Literal["reject", "repair"] = Field(
        "repair", description="A series holds several images at each position; repair: each phase is a scan"
    )
    duplicate: Literal["reject", "warn"] = Field("warn", description="Slices are there twice; warn: use each once")
    pixel_padding: Literal["warn", "repair"] = Field(
        "repair", description="Pixels outside the field of view hold a padding value; repair: they become air"
    )
    no_rescale: Literal["reject", "warn"] = Field(
        "reject",
        description="A CT or PET has no rescale slope and intercept; warn: take stored values for HU, or PET's unit",
    )
    hu_suspect: Literal["reject", "warn"] = Field("warn", description="A CT's values don't look like HU")
    spacing_suspect: Literal["reject", "warn"] = Field(
        "warn",
        description="Pixel spacing differs from the detector's (ImagerPixelSpacing), or a single slice has no "
        "thickness; warn: take PixelSpacing, and 1 mm",
    )
    monochrome1: Literal["reject", "warn"] = Field(
        "warn", description="The grey scale is inverted for display; warn: keep the values"
    )
    empty: Literal["reject", "warn"] = Field("warn", description="The scan, or a slice within it, is of one value")
    fov_truncated: Literal["reject", "warn"] = Field("warn", description="The body is cut by a CT's field of view")
    qform_sform_disagree: Literal["reject", "warn"] = Field(
        "warn", description="A NIfTI file gives two places; warn: take the sform"
    )
    no_spatial_codes: Literal["reject", "warn"] = Field(
        "reject", description="A NIfTI file gives no place; warn: take its axes for L, A, S, as nibabel does"
    )
    not_finite: Literal["reject", "repair"] = Field(
        "reject", description="A NIfTI file holds NaN or infinity; repair: they become its smallest value"
    )
    min_slices: int = Field(1, ge=1, description="A DICOM series of fewer slices is refused (TOO_FEW_SLICES)")

    def choice(self, code: ReasonCode) -> str:
        """Return what is done about a fault; "reject" for one that allows nothing else."""
        return str(getattr(self, code.value.lower(), "reject"))


def parse_policies(choices: Iterable[str]) -> IngestConfig:
    """Return the ingest of words such as ``MISSING_SLICE=repair`` and ``MIN_SLICES=10``.

    Raises
    ------
    ConfigError
        If a word is malformed, its code has no policy, or the policy makes no sense for its code.
    """
    values: dict[str, str] = {}
    for choice in choices:
        code, equals, policy = choice.partition("=")
        field = code.strip().lower()
        if not equals or field not in IngestConfig.model_fields:
            codes = ", ".join(name.upper() for name in IngestConfig.model_fields)
            raise ConfigError(f"--policy {choice}: write it as CODE=policy, such as MISSING_SLICE=repair, of {codes}")
        values[field] = policy.strip().lower()
    try:
        return IngestConfig.model_validate(values)
    except ValidationError as error:
        problems = "; ".join(f"{str(e['loc'][0]).upper()}={e['input']}: {e['msg']}" for e in error.errors())
        raise ConfigError(f"--policy {problems}") from None
