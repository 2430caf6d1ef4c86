"""The choices that follow from the fingerprint alone: grid, slices, intensities, mirroring.

Each function returns the choice and the reason for it in one sentence.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from medseg.config import PlanConfig, Triple
from medseg.errors import PlanError
from medseg.labels import LabelMap
from medseg.plan import ChannelNormalisation
from medseg.planning.fingerprint import Fingerprint, Intensities
from medseg.text import shown_sizes, significant

ANISOTROPY = 3.0
"""An axis this many times coarser than the others, with as many times fewer voxels, is thick-sliced."""

FINE_PERCENTILE = 10.0
"""Percentile of a thick-sliced axis' spacings that becomes the target, so that thin-sliced scans keep detail."""

EQUAL_SPACING = 1.1
"""Axes within this factor of the coarsest count as equally coarse when the slice axis is chosen."""

HOUNSFIELD_HINT = -500.0
"""Scans of unstated modality with voxels below this look like CT: only lung and air lie there."""

AXES = "xyz"

SET = "set by the configuration"
"""Reason for everything that a person decided."""


def choose_spacing(fingerprint: Fingerprint, wishes: PlanConfig) -> tuple[Triple, str]:
    """Return the median spacing, finer along the axis of thick slices in 3D."""
    if wishes.spacing is not None:
        if min(wishes.spacing) <= 0:
            raise PlanError(
                f"plan.spacing must be positive along every axis, not {shown_sizes(wishes.spacing, '.4g')} mm"
            )
        return wishes.spacing, SET
    spacings = fingerprint.spacings()
    target = np.median(spacings, axis=0)
    finest, coarsest = (shown_sizes(ends, ".4g") for ends in (spacings.min(axis=0), spacings.max(axis=0)))
    reason = f"median of {len(spacings)} scans" + ("" if finest == coarsest else f" from {finest} to {coarsest} mm")
    thick = _thick_axis(fingerprint, target) if wishes.dimensions == 3 else None
    if thick is not None:
        others = float(np.delete(target, thick).max())
        fine = max(float(np.percentile(spacings[:, thick], FINE_PERCENTILE)), others)
        reason = (
            f"median of {len(spacings)} scans; but slices along {AXES[thick]} are thick (median {target[thick]:.4g} "
            f"mm, over {ANISOTROPY:g} times the other axes'), so that axis takes the {FINE_PERCENTILE:g}th percentile, "
            f"but at least the others' {others:.4g} mm"
        )
        target[thick] = fine
    x, y, z = map(significant, target)
    return (x, y, z), reason


def choose_slice_axis(fingerprint: Fingerprint, spacing: Triple) -> tuple[int, str]:
    """Return the only axis of one voxel of a usual scan, or the coarsest; of axes about as coarse, the last in x, y, z.

    Single slices often state a thickness of 1 mm for want of a true one, finer than their pixels.
    """
    single = np.flatnonzero(np.median([case.shape for case in fingerprint.cases], axis=0) == 1)
    if len(single) == 1:
        return int(single[0]), f"scans have one voxel along {AXES[single[0]]}: they are single slices"
    coarse = [axis for axis in range(3) if spacing[axis] * EQUAL_SPACING >= max(spacing)]
    axis = coarse[-1]
    if len(coarse) == 1:
        return axis, f"{AXES[axis]} is the coarsest axis ({spacing[axis]:.4g} mm)"
    return axis, f"{', '.join(AXES[a] for a in coarse)} are about equally coarse; slices across {AXES[axis]} are usual"


def choose_normalisation(
    fingerprint: Fingerprint, channels: Sequence[str], modalities: Sequence[str]
) -> tuple[tuple[ChannelNormalisation, ...], str]:
    """Return clipping and scaling by the dataset for CT, by each scan for everything else."""
    chosen, reasons = [], []
    for number, (channel, modality) in enumerate(zip(channels, modalities, strict=True)):
        found = fingerprint.intensities(number)
        if modality == "ct" and found is None:
            raise PlanError(f"channel {channel!r} is CT, but no mask has foreground to learn its range from")
        if modality == "ct" and found is not None:
            chosen.append(_clip(found))
            reasons.append(
                f"{channel} is CT: clipped to the foreground's 0.5 and 99.5 percentiles ({found.low:.4g} to "
                f"{found.high:.4g}), then its mean {found.mean:.4g} and standard deviation {found.std:.4g}"
            )
        else:
            chosen.append(ChannelNormalisation(kind="zscore"))
            kind = _kind(modality, is_ct=looks_like_ct(fingerprint, number))
            reasons.append(f"{channel} is {kind}: each scan to mean 0 and standard deviation 1")
    return tuple(chosen), "; ".join(reasons)


def looks_like_ct(fingerprint: Fingerprint, channel: int) -> bool:
    """Whether a usual scan has values that only air in Hounsfield units has."""
    darkest = fingerprint.darkest(channel)
    return darkest is not None and darkest < HOUNSFIELD_HINT


def choose_mirror(wishes: PlanConfig, labels: LabelMap) -> tuple[tuple[bool, bool, bool], str]:
    """Return all axes, but not x where the labels tell left from right."""
    if wishes.mirror is not None:
        return wishes.mirror, SET
    if labels.is_sided:
        return (False, True, True), "labels say left or right, and mirroring across x would swap them"
    return (True, True, True), "no label says left or right, so mirrored scans are as plausible"


def _thick_axis(fingerprint: Fingerprint, target: np.ndarray) -> int | None:
    """Return the axis with thick slices: both much coarser and with far fewer voxels than the others."""
    axis = int(np.argmax(target))
    shape = np.median([case.content_shape for case in fingerprint.cases], axis=0)
    is_coarse = target[axis] > ANISOTROPY * np.delete(target, axis).max()
    is_short = shape[axis] * ANISOTROPY < np.delete(shape, axis).min()
    return axis if is_coarse and is_short else None


def _clip(found: Intensities) -> ChannelNormalisation:
    return ChannelNormalisation(
        kind="clip",
        low=significant(found.low),
        high=significant(found.high),
        mean=significant(found.mean),
        std=significant(found.std) if found.std > 0 else 1.0,
    )


def _kind(modality: str, *, is_ct: bool) -> str:
    if modality == "mr":
        return "MR, whose units are arbitrary"
    return "of no stated modality" + (" (it looks like CT: then set dataset.modality to ct)" if is_ct else "")
