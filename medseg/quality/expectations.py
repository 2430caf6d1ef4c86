"""What training says of a good mask: the reference that segmented cases are checked against."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from medseg.measures.features import CaseFeatures, StructureFeatures
from medseg.measures.intensity import Intensity
from medseg.plan import Plan
from medseg.planning.fingerprint import CaseFingerprint, Fingerprint
from medseg.reference import Calibration, Range, Reference, StructureReference


def describe_training(fingerprint: Fingerprint, plan: Plan, labels: Sequence[str]) -> Reference:
    """Return the reference of a model.

    Parameters
    ----------
    fingerprint : of the training cases.
    plan : says which channels have a scale of their own.
    labels : names of the labels.
    """
    relative = tuple(channel.kind == "zscore" for channel in plan.normalisation)
    axes = zip(*(case.spacing for case in fingerprint.cases), strict=True)
    x, y, z = (found for axis in axes if (found := Range.of(axis)))
    return Reference(
        cases=len(fingerprint.cases),
        spacing=(x, y, z),
        relative=relative,
        structures={label: _describe(label, fingerprint.cases, relative) for label in labels},
    )


def with_held_out(reference: Reference, held_out: Iterable[CaseFeatures], calibration: Calibration | None) -> Reference:
    """Return the reference with what cases that no network had seen say of the network's own confidence."""
    by_target: dict[str, list[float]] = {}
    for features in held_out:
        for target, doubt in features.uncertainty.items():
            if doubt.soft_dice is not None:
                by_target.setdefault(target, []).append(doubt.soft_dice)
    ranges = {target: found for target, values in by_target.items() if (found := Range.of(values))}
    return reference.model_copy(update={"soft_dice": ranges, "calibration": calibration})


def on_common_scale(inside: Intensity, scan: Intensity, is_relative: bool) -> Intensity:
    """Return intensities as they are, or in standard deviations of the whole scan from its mean.

    Examples
    --------
    >>> on_common_scale(Intensity(mean=30, sd=4), Intensity(mean=10, sd=10), True)
    Intensity(mean=2.0, sd=0.4)
    """
    if not is_relative:
        return inside
    unit = scan.sd or 1.0
    return Intensity(mean=(inside.mean - scan.mean) / unit, sd=inside.sd / unit)


def _describe(label: str, cases: Sequence[CaseFingerprint], relative: Sequence[bool]) -> StructureReference:
    found = [(case, case.structures[label]) for case in cases if label in case.structures]
    if not found:
        return StructureReference(share=0.0)
    structures = [structure for _, structure in found]
    scaled = [_scaled(case, structure, relative) for case, structure in found]
    outside = [s.outside_share for s in structures if s.outside_share is not None]
    return StructureReference(
        share=len(found) / len(cases),
        volume_ml=Range.of([s.volume_ml for s in structures]),
        components=Range.of([float(s.components) for s in structures]),
        outside_share=Range.of(outside),
        touching=sum(bool(s.borders) for s in structures) / len(structures),
        mean=_ranges([[channel.mean for channel in case] for case in scaled]),
        sd=_ranges([[channel.sd for channel in case] for case in scaled]),
    )


def _scaled(case: CaseFingerprint, structure: StructureFeatures, relative: Sequence[bool]) -> list[Intensity]:
    channels = zip(structure.intensity, case.scan, relative, strict=True)
    return [on_common_scale(inside, scan, is_relative) for inside, scan, is_relative in channels]


def _ranges(cases: Sequence[Sequence[float]]) -> tuple[Range, ...]:
    return tuple(found for channel in zip(*cases, strict=True) if (found := Range.of(channel)))
