"""Decide which DICOM slices make one sound volume, and refuse what does not.

Files are grouped by study, series and frame of reference, never by folder or name; ordered by their
position along the slice normal, never by number; and checked. A group is split only where positions
repeat and an attribute explains why. Everything handed in comes out again, in a series or a refusal.
Works on headers alone.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from medseg.config import IngestConfig
from medseg.errors import ReasonCode, ScanError, SeriesError
from medseg.geometry import ORTHOGONALITY_TOLERANCE, Grid
from medseg.io.dicom_geometry import Line, are_torn, fit_line, slice_normal, unit_directions
from medseg.io.dicom_headers import CT, PT, SliceHeader
from medseg.io.dicom_repeats import grouped, split_phases, without_copies
from medseg.io.findings import Findings
from medseg.volume import Repair, Source

SPACING_TOLERANCE = 1e-4
"""Largest relative difference of pixel spacings within one series."""


@dataclass(frozen=True, slots=True)
class Series:
    """Slices that make one volume.

    Attributes
    ----------
    slices : in order along the slice axis.
    grid : where the volume lies, RAS+; index axes are column, row, plane.
    line : the planes of the grid, and where the slices lie among them.
    modality : "CT", "MR" or "PT".
    policy : by which it was accepted.
    flags : what was noticed that does not refuse it.
    repairs : what is done about some of it.
    identity : text that names the series in the hospital; only ever used under a keyed hash.
    patient : the same for the patient.
    """

    slices: tuple[SliceHeader, ...]
    grid: Grid
    line: Line
    modality: str
    policy: IngestConfig
    flags: tuple[ReasonCode, ...] = ()
    repairs: tuple[Repair, ...] = ()
    identity: str = field(default="", repr=False)
    patient: str = field(default="", repr=False)

    @property
    def source(self) -> Source:
        """The files in slice order."""
        return Source("dicom", tuple(dict.fromkeys(header.path for header in self.slices)), self.policy)

    def on_slices(self, array: NDArray) -> NDArray:
        """Return the planes (X, Y, N) of an array (X, Y, P) on `grid` that are nearest to the slices.

        Where no slice had to be interpolated, these are all.
        """
        return array[..., np.rint(self.line.places).astype(int)]


@dataclass(frozen=True, slots=True)
class Refusal:
    """Slices that make no volume, and why.

    Attributes
    ----------
    code, message : the reason, as a word and as a sentence without patient data.
    files : the files concerned.
    skipped : whether nothing is wrong with them: they are simply not a scan, or copies.
    modality : "CT", "MR", "PT" or what the files say.
    identity : as of `Series`; "" where there is none to name.
    """

    code: ReasonCode
    message: str
    files: tuple[Path, ...]
    skipped: bool = False
    modality: str = ""
    identity: str = field(default="", repr=False)


def arrange(
    headers: Iterable[SliceHeader],
    same_pixels: Callable[[SliceHeader, SliceHeader], bool],
    policy: IngestConfig | None = None,
) -> list[Series | Refusal]:
    """Sort slices into series and refusals.

    Parameters
    ----------
    headers : any slices, in any order.
    same_pixels : tells whether two slices at one position hold the same image; asked only there.
    policy : what is done about faults; default: `IngestConfig`'s defaults.

    Returns
    -------
    list
        Every header is in exactly one series or refusal.
    """
    policy = policy or IngestConfig()
    results: list[Series | Refusal] = []
    groups = grouped(sorted(headers, key=lambda header: (str(header.path), header.frame)), _series_key)
    volumes: list[list[SliceHeader]] = []
    for slices in groups.values():
        results += _skip_non_images(slices)
        images = [header for header in slices if header.supported and not header.is_localizer]
        if images:
            volumes.append(images)
    for parts in _of_one_series(volumes):
        if _is_torn(parts):
            results.append(_torn([header for part in parts for header in part]))
        else:
            for images in parts:
                results += _arrange_series(images, same_pixels, Findings(policy))
    return results


def _of_one_series(volumes: Iterable[list[SliceHeader]]) -> Iterable[list[list[SliceHeader]]]:
    """Return volumes of a patient that share a series together: in several studies or frames of reference."""
    groups: dict[tuple[str, ...], list[list[SliceHeader]]] = defaultdict(list)
    patients: dict[tuple[str, ...], str] = {}
    for images in volumes:
        study, series, _, folder = _series_key(images[0])
        patient = patients.setdefault((study, series, folder), images[0].patient)
        groups[series or study, folder, patient].append(images)
    return groups.values()


def _is_torn(parts: Sequence[Sequence[SliceHeader]]) -> bool:
    """Whether one volume seems torn to pieces by studies or frames of reference that a program made up or lost."""
    slices = [header for part in parts for header in part]
    if len(parts) < 2 or any(not (header.position and header.orientation) for header in slices):
        return False
    if not all(header.frame_of_reference for header in slices):
        return True
    normal = slice_normal(np.array(slices[0].orientation).reshape(2, 3))
    return are_torn([np.array([header.position for header in part]) @ normal for part in parts])


def _torn(slices: Sequence[SliceHeader]) -> Refusal:
    error = SeriesError(
        ReasonCode.CONFLICT,
        "states several studies or frames of reference, or one for some slices only, for what looks like one volume; "
        "export the series again",
    )
    return _refusal(error, slices, _identity(slices))


def _series_key(header: SliceHeader) -> tuple[str, ...]:
    folder = "" if header.series else str(header.path.parent)
    return header.study, header.series, header.frame_of_reference if header.supported else "", folder


def _skip_non_images(slices: Sequence[SliceHeader]) -> list[Refusal]:
    others = [header for header in slices if not header.supported]
    scouts = [header for header in slices if header.supported and header.is_localizer]
    refusals = []
    for modality, part in grouped(others, lambda header: header.modality).items():
        message = f"{len(part)} DICOM file(s) of a kind that holds no CT, MR or PET image"
        refusals.append(Refusal(ReasonCode.SKIPPED_SOP_CLASS, message, _files(part), skipped=True, modality=modality))
    if scouts:
        message = f"{len(scouts)} scout view(s), which are not part of a volume"
        modality = scouts[0].modality
        refusals.append(Refusal(ReasonCode.LOCALIZER, message, _files(scouts), skipped=True, modality=modality))
    return refusals


def _arrange_series(
    slices: list[SliceHeader], same_pixels: Callable[[SliceHeader, SliceHeader], bool], findings: Findings
) -> list[Series | Refusal]:
    results: list[Series | Refusal] = []
    identity = _identity(slices)
    modality = slices[0].modality
    try:
        directions = _check_slices(slices)
        _check_values(slices, findings)
        slices, copies = without_copies(slices, directions, same_pixels)
        if copies:
            findings.note(ReasonCode.DUPLICATE, f"repeats slices in {len(copies)} more file(s)")
            message = f"{len(copies)} file(s) that repeat slices of a {modality} series"
            results.append(Refusal(ReasonCode.DUPLICATE, message, _files(copies), skipped=True, modality=modality))
        phases = split_phases(slices, directions)
        if len(phases) > 1:
            findings.note(ReasonCode.PHASES, f"holds {len(phases)} images at each position, of different phases")
        for suffix, part in phases.items():
            results.append(_attempt(part, directions, findings, identity + suffix))
    except ScanError as error:
        results.append(_refusal(error, slices, identity))
    return results


def _attempt(
    slices: list[SliceHeader], directions: NDArray[np.float64], findings: Findings, identity: str
) -> Series | Refusal:
    own = Findings(findings.policy, list(findings.flags), list(findings.repairs))
    try:
        return _series(slices, directions, own, identity)
    except ScanError as error:
        return _refusal(error, slices, identity)


def _refusal(error: ScanError, slices: Sequence[SliceHeader], identity: str) -> Refusal:
    message = f"{_describe(slices)} {error}"
    return Refusal(error.code, message, _files(slices), modality=slices[0].modality, identity=identity)


def _check_slices(slices: Sequence[SliceHeader]) -> NDArray[np.float64]:
    """Check what all slices must share; return the (2, 3) row and column directions, LPS."""
    for number, header in enumerate(slices, start=1):
        if header.problem:
            code, message = header.problem
            raise SeriesError(code, f"can't be used: file {number} of {len(slices)} {message}")
    if len({header.patient for header in slices if header.patient}) > 1:
        raise SeriesError(ReasonCode.CONFLICT, "mixes slices of several patients under one series UID")
    if len(modalities := {header.modality for header in slices}) > 1:
        raise SeriesError(ReasonCode.CONFLICT, f"mixes {' and '.join(sorted(modalities))} images under one series UID")
    matrices = {(header.rows, header.columns) for header in slices}
    if len(matrices) > 1:
        sizes = ", ".join(f"{rows}x{columns}" for rows, columns in sorted(matrices))
        raise SeriesError(ReasonCode.MIXED_MATRIX, f"mixes slices of {sizes} pixels")
    if any(header.position is None or header.spacing is None or header.orientation is None for header in slices):
        raise SeriesError(
            ReasonCode.NO_POSITION, "has slices without position, orientation or pixel spacing; it can't be placed"
        )
    spacings = np.array([header.spacing for header in slices])
    if (np.abs(spacings / spacings[0] - 1) > SPACING_TOLERANCE).any():
        raise SeriesError(ReasonCode.MIXED_MATRIX, "mixes slices of different pixel spacing")
    cosines = np.array([header.orientation for header in slices]).reshape(-1, 2, 3)
    directions = unit_directions(cosines)
    if directions is None:
        raise SeriesError(ReasonCode.BAD_ORIENTATION, "states directions that are not perpendicular unit vectors")
    if np.abs(cosines - cosines[0]).max() > ORTHOGONALITY_TOLERANCE:
        raise SeriesError(ReasonCode.MIXED_ORIENTATION, "mixes slices of different orientation")
    return directions


def _check_values(slices: Sequence[SliceHeader], findings: Findings) -> None:
    """Note what the headers say against the values."""
    doubts = {doubt for header in slices for doubt in header.doubts}
    if any(header.slope == 0 for header in slices):
        raise SeriesError(ReasonCode.NO_RESCALE, "has a rescale slope of 0, which makes all values alike")
    if any(header.modality in (CT, PT) and not header.rescaled for header in slices):
        findings.note(
            ReasonCode.NO_RESCALE, "has slices without rescale slope and intercept: their values have no unit"
        )
    if ReasonCode.HU_SUSPECT in doubts:
        findings.note(ReasonCode.HU_SUSPECT, "says that its values are no HU (RescaleType)")
    if ReasonCode.SPACING_SUSPECT in doubts:
        findings.note(ReasonCode.SPACING_SUSPECT, "has a PixelSpacing that is not its detector's ImagerPixelSpacing")
    if any(header.photometric == "MONOCHROME1" for header in slices):
        findings.note(ReasonCode.MONOCHROME1, "is to be shown with an inverted grey scale (MONOCHROME1)")


def _series(slices: list[SliceHeader], directions: NDArray[np.float64], findings: Findings, identity: str) -> Series:
    if len(slices) < findings.policy.min_slices:
        raise SeriesError(
            ReasonCode.TOO_FEW_SLICES, f"has {len(slices)} slice(s), fewer than the {findings.policy.min_slices} wanted"
        )
    normal = slice_normal(directions)
    ordered = sorted(slices, key=lambda header: float(np.dot(header.position or (), normal)))
    positions = np.array([header.position for header in ordered])
    if len(ordered) == 1 and not ordered[0].thickness:
        findings.note(ReasonCode.SPACING_SUSPECT, "has one slice and states no thickness; 1 mm is taken for it")
    line = fit_line(positions, normal, fallback=ordered[0].thickness or 1.0)
    for fault in line.faults:
        findings.note(fault.code, fault.message, fault.repair or "")
        if fault.repair is None:
            raise SeriesError(fault.code, f"{fault.message}; that is too much to repair")
    row_spacing, column_spacing = ordered[0].spacing or (1.0, 1.0)
    affine = np.eye(4)
    affine[:3, 0], affine[:3, 1] = directions[0] * column_spacing, directions[1] * row_spacing
    affine[:3, 2], affine[:3, 3] = line.step, positions[0]
    affine[:2] *= -1  # LPS, DICOM's world, to RAS
    grid = Grid((ordered[0].columns, ordered[0].rows, line.count), affine)
    findings.check_axes(grid, "has")
    return Series(
        slices=tuple(ordered),
        grid=grid,
        line=line,
        modality=ordered[0].modality,
        policy=findings.policy,
        flags=tuple(findings.flags),
        repairs=tuple(findings.repairs),
        identity=identity,
        patient=ordered[0].patient or ordered[0].study or identity,
    )


def _identity(slices: Sequence[SliceHeader]) -> str:
    first = slices[0]
    if first.series:
        return f"{first.study}|{first.series}|{first.frame_of_reference}"
    return f"{first.frame_of_reference}|{min(header.instance or header.path.name for header in slices)}"


def _describe(slices: Sequence[SliceHeader]) -> str:
    first = slices[0]
    what = "frame(s)" if first.frames > 1 else "file(s)"
    return f"the {first.modality} series of {len(slices)} {what}"


def _files(slices: Iterable[SliceHeader]) -> tuple[Path, ...]:
    return tuple(dict.fromkeys(header.path for header in slices))
