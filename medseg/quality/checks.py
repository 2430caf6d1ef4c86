"""Checks of a segmented case without a true mask: what a person should look at, and why.

A check compares the case's features (`medseg.measures.features`) with what training cases were like
(`medseg.reference`). A finding is a stable word for tables and scripts, and a sentence for people. Nothing
here says that a mask is wrong: it says what is unusual about it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from medseg.batch.record import CaseRecord
from medseg.errors import ReasonCode
from medseg.labels import LabelMap, side_in
from medseg.measures.features import CaseFeatures, StructureFeatures, TargetUncertainty
from medseg.quality.expectations import on_common_scale
from medseg.reference import FEW_CASES, Range, Reference, StructureReference
from medseg.text import Word

MARGIN = 0.25
"""A range is widened by this share of its width at both ends: of a dozen training cases alone, a new sound
case lies outside two times in thirteen."""

ALWAYS = 0.95
"""A structure that at least this share of the training cases has is expected in every case."""

OFTEN_TOUCHING = 0.5
"""Where more training masks than this touch the scan's border, touching it means nothing."""

OUTSIDE_MARGIN = 0.05
"""Share of a lesion away from its organ that is tolerated beyond what training masks have."""

SURE = 0.75
"""Soft Dice below which a target is uncertain, where held-out cases don't say what is usual."""

AGREEING = 0.85
"""Dice of folds or mirrorings with their average below which they disagree."""

SIDE_NAMES = {"L": "left", "R": "right", "P": "posterior", "A": "anterior", "I": "lower", "S": "upper"}
AXES = ("x", "y", "z")


class Flag(Word):
    """What is unusual; stable words."""

    EMPTY = "EMPTY"
    MISSING = "MISSING"
    SUSPECTED = "SUSPECTED"
    LEFT_RIGHT_SWAP = "LEFT_RIGHT_SWAP"
    VOLUME_LOW = "VOLUME_LOW"
    VOLUME_HIGH = "VOLUME_HIGH"
    FRAGMENTS = "FRAGMENTS"
    OUTSIDE_ORGAN = "OUTSIDE_ORGAN"
    TOUCHES_BORDER = "TOUCHES_BORDER"
    INTENSITY = "INTENSITY"
    RESOLUTION = "RESOLUTION"
    UNCERTAIN = "UNCERTAIN"
    DISAGREEMENT = "DISAGREEMENT"
    INGEST = "INGEST"


GRAVE = frozenset({Flag.EMPTY, Flag.LEFT_RIGHT_SWAP})
"""Flags that stand for a wrong mask whatever the network's confidence says."""

MEANINGS = {
    Flag.EMPTY: "nothing was found",
    Flag.MISSING: "a structure is missing",
    Flag.SUSPECTED: "something was almost found",
    Flag.LEFT_RIGHT_SWAP: "left and right seem to be swapped",
    Flag.VOLUME_LOW: "smaller than in training",
    Flag.VOLUME_HIGH: "larger than in training",
    Flag.FRAGMENTS: "in more pieces than in training",
    Flag.OUTSIDE_ORGAN: "a lesion lies outside its organ",
    Flag.TOUCHES_BORDER: "cut by the edge of the scan",
    Flag.INTENSITY: "brighter, darker or more mixed inside than in training",
    Flag.RESOLUTION: "voxels of another size than in training",
    Flag.UNCERTAIN: "the network was unsure",
    Flag.DISAGREEMENT: "the networks or mirrorings disagree",
    Flag.INGEST: "something was odd about the scan's files",
}
"""Each flag in a few words."""

INGEST_MEANINGS = {
    ReasonCode.GANTRY_TILT: "the slices are tilted (gantry tilt)",
    ReasonCode.VARIABLE_SPACING: "the slices are not evenly spaced",
    ReasonCode.MISSING_SLICE: "slices are missing",
    ReasonCode.PHASES: "it is one of several phases of its series",
    ReasonCode.EMPTY: "a slice, or the whole scan, is of one value",
    ReasonCode.NOT_FINITE: "some voxels were no numbers",
    ReasonCode.PIXEL_PADDING: "pixels outside the field of view hold a padding value",
    ReasonCode.SPACING_SUSPECT: "the pixel spacing is not the detector's, or a single slice has no thickness",
    ReasonCode.HU_SUSPECT: "the intensities don't look like Hounsfield units",
    ReasonCode.NO_RESCALE: "the files give no rescaling of the intensities",
    ReasonCode.FOV_TRUNCATED: "the body is cut by the field of view",
    ReasonCode.NONORTHONORMAL_AFFINE: "the scan's axes are not perpendicular",
    ReasonCode.QFORM_SFORM_DISAGREE: "the file gives two places for the scan (qform and sform)",
    ReasonCode.NO_SPATIAL_CODES: "the file doesn't say how the scan lies in space",
    ReasonCode.MONOCHROME1: "viewers show it with an inverted grey scale; its values are kept",
    ReasonCode.DUPLICATE: "some slices were there twice",
    ReasonCode.TOO_FEW_SLICES: "the scan has very few slices",
}
"""Flags of reading in words; any other is named by its code."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One unusual thing about one case.

    Attributes
    ----------
    flag : what kind.
    structure : label or target it is about; "" for the whole case.
    sentence : the same for people, with the numbers.
    """

    flag: Flag
    structure: str
    sentence: str


def check_case(record: CaseRecord, labels: LabelMap, reference: Reference | None) -> tuple[Finding, ...]:
    """Return everything unusual about a case, the gravest kind first.

    Parameters
    ----------
    record : of the case; without features only what reading noticed is known.
    labels : names of the structures, and which lie in which.
    reference : what training cases were like; None: only what needs no comparison is checked.
    """
    findings = [*_check_ingest(record)]
    if record.features:
        structures = record.features.structures
        findings += _check_sides(structures, labels)
        findings += _check_uncertainty(record.features.uncertainty, reference)
        if reference:
            findings += _check_presence(structures, reference)
            findings += _check_suspicion(record.features, reference)
            findings += _check_spacing(record, reference)
            for name, found in structures.items():
                known = reference.structures.get(name)
                if known and known.volume_ml:
                    findings += _check_structure(name, found, known)
                    findings += _check_intensity(name, record, known, reference)
    order = list(Flag)
    return tuple(sorted(findings, key=lambda finding: order.index(finding.flag)))


def limits(known: Range) -> tuple[float, float] | None:
    """Return the smallest and largest value that is not unusual; None if too few cases are known."""
    if known.cases < FEW_CASES:
        return None
    margin = MARGIN * (known.high - known.low)
    return known.low - margin, known.high + margin


def volume_limits(known: Range) -> tuple[float, float] | None:
    """Return the limits of a volume, whose logarithms are compared: doubling is as unusual as halving."""
    if known.cases < FEW_CASES or known.low <= 0:
        return None
    margin = MARGIN * math.log(known.high / known.low)
    return known.low * math.exp(-margin), known.high * math.exp(margin)


def side_pairs(labels: LabelMap) -> list[tuple[str, str]]:
    """Return the names of labels that differ by their side alone, the left one first.

    Examples
    --------
    >>> side_pairs(LabelMap.parse({"kidney_right": 1, "kidney_left": 2, "liver": 3}))
    [('kidney_left', 'kidney_right')]
    """
    sides: dict[str, dict[str, str]] = {}
    for label in labels.labels:
        if found := side_in(label.name):
            side, rest = found
            sides.setdefault(rest, {})[side[0]] = label.name
    return [(pair["l"], pair["r"]) for pair in sides.values() if len(pair) == 2]


def _check_ingest(record: CaseRecord) -> Iterator[Finding]:
    known = {code.value: meaning for code, meaning in INGEST_MEANINGS.items()}
    for code in record.flags:
        done = f"; {record.repairs[code]}" if code in record.repairs else ""
        yield Finding(Flag.INGEST, "", f"Reading the scan: {known.get(code, 'something was odd')} ({code}){done}.")


def _check_presence(structures: dict[str, StructureFeatures], reference: Reference) -> Iterator[Finding]:
    expected = {name: known.share for name, known in reference.structures.items() if known.share >= ALWAYS}
    if not structures and expected:
        having = f"{_how_many(min(expected.values()))} has {' and '.join(expected)}"
        yield Finding(Flag.EMPTY, "", f"Nothing was found, though {having}.")
        return
    for name, share in expected.items():
        if name not in structures:
            yield Finding(Flag.MISSING, name, f"No {name} was found, though {_how_many(share)} has it.")


def _how_many(share: float) -> str:
    return "every training case" if share == 1 else "nearly every training case"


def _check_suspicion(features: CaseFeatures, reference: Reference) -> Iterator[Finding]:
    """Name what is not in the mask though its probabilities add up to as much as the smallest in training."""
    for target, doubt in features.uncertainty.items():
        known = reference.structures.get(target)
        if doubt.soft_dice is None and known and known.volume_ml and 0 < known.volume_ml.low <= doubt.soft_ml:
            yield Finding(
                Flag.SUSPECTED,
                target,
                f"No {target} was found, but low probabilities of it add up to {millilitres(doubt.soft_ml)}: "
                "it may have been missed.",
            )


def _check_structure(name: str, found: StructureFeatures, known: StructureReference) -> Iterator[Finding]:
    yield from _check_volume(name, found, known)
    pieces = known.components
    if pieces and pieces.cases >= FEW_CASES and found.components > pieces.high:
        yield Finding(
            Flag.FRAGMENTS,
            name,
            f"{name} is in {found.components} pieces, the largest with {found.largest_share:.0%} of it; in training "
            f"it has at most {pieces.high:.0f}.",
        )
    if found.outside_share is not None:
        usual = known.outside_share.high if known.outside_share else 0.0
        if found.outside_share > usual + OUTSIDE_MARGIN:
            yield Finding(
                Flag.OUTSIDE_ORGAN,
                name,
                f"{found.outside_share:.0%} of {name} doesn't touch the organ it should lie in.",
            )
    if found.borders and known.touching <= OFTEN_TOUCHING:
        sides = " and ".join(SIDE_NAMES[letter] for letter in found.borders)
        yield Finding(
            Flag.TOUCHES_BORDER, name, f"{name} reaches the {sides} edge of the scan: part of it may be cut off."
        )


def _check_volume(name: str, found: StructureFeatures, known: StructureReference) -> Iterator[Finding]:
    usual = known.volume_ml
    bounds = volume_limits(usual) if usual else None
    if not usual or not bounds or bounds[0] <= found.volume_ml <= bounds[1]:
        return
    is_low = found.volume_ml < bounds[0]
    yield Finding(
        Flag.VOLUME_LOW if is_low else Flag.VOLUME_HIGH,
        name,
        f"{name} has {millilitres(found.volume_ml)}, {'less' if is_low else 'more'} than in training "
        f"({millilitres(usual.low)} to {millilitres(usual.high)}).",
    )


def _check_intensity(
    name: str, record: CaseRecord, known: StructureReference, reference: Reference
) -> Iterator[Finding]:
    if not record.features:
        return
    inside, scan = record.features.structures[name].intensity, record.features.channels
    channels = list(zip(inside, scan, reference.relative, known.mean, known.sd, strict=False))
    for number, (values, whole, is_relative, means, sds) in enumerate(channels, start=1):
        scaled = on_common_scale(values, whole, is_relative)
        where = f"{name} in channel {number}" if len(channels) > 1 else name
        unit = " standard deviations from the scan's mean" if is_relative else ""
        for word, value, usual in (("mean", scaled.mean, means), ("spread", scaled.sd, sds)):
            bounds = limits(usual)
            if bounds and not bounds[0] <= value <= bounds[1]:
                yield Finding(
                    Flag.INTENSITY,
                    name,
                    f"The intensity inside {where} is unusual: its {word} is {value:.3g}{unit}, in training "
                    f"{usual.low:.3g} to {usual.high:.3g}.",
                )


def _check_spacing(record: CaseRecord, reference: Reference) -> Iterator[Finding]:
    by_world = {letter: axis for axis, pair in zip(AXES, ("LR", "PA", "IS"), strict=True) for letter in pair}
    for code, size in zip(record.geometry.axcodes, record.geometry.spacing, strict=True):
        axis = by_world[code]
        usual = reference.spacing[AXES.index(axis)]
        bounds = volume_limits(usual)  # sizes, too, are compared by their ratio
        if bounds and not bounds[0] * 0.99 <= size <= bounds[1] * 1.01:
            yield Finding(
                Flag.RESOLUTION,
                "",
                f"The voxels are {size:.3g} mm along {axis}, in training {usual.low:.3g} to {usual.high:.3g} mm.",
            )


def _check_sides(structures: dict[str, StructureFeatures], labels: LabelMap) -> Iterator[Finding]:
    """Compare centroids along x, which grows towards the patient's right (RAS+)."""
    for left, right in side_pairs(labels):
        if left in structures and right in structures:
            distance = structures[right].centroid_mm[0] - structures[left].centroid_mm[0]
            if distance < 0:
                yield Finding(
                    Flag.LEFT_RIGHT_SWAP,
                    left,
                    f"{left} lies {-distance:.0f} mm to the patient's right of {right}: left and right are swapped, "
                    "in the mask or in the scan's orientation.",
                )


def _check_uncertainty(uncertainty: dict[str, TargetUncertainty], reference: Reference | None) -> Iterator[Finding]:
    for target, doubt in uncertainty.items():
        usual = reference.soft_dice.get(target) if reference else None
        enough = usual.p5 if usual and usual.cases >= FEW_CASES else SURE
        if doubt.soft_dice is not None and doubt.soft_dice < enough:
            yield Finding(
                Flag.UNCERTAIN,
                target,
                f"The network was unsure of {target}: by its own probabilities it expects a Dice of "
                f"{doubt.soft_dice:.2f}; below {enough:.2f} is unusual.",
            )
        if doubt.agreement is not None and doubt.agreement < AGREEING:
            yield Finding(
                Flag.DISAGREEMENT,
                target,
                f"Single networks or mirrorings agree with their average on {target} by a Dice of only "
                f"{doubt.agreement:.2f}.",
            )


def millilitres(volume: float) -> str:
    """Return a volume with the digits that matter.

    Examples
    --------
    >>> millilitres(1534.2), millilitres(0.0123)
    ('1534 ml', '0.012 ml')
    """
    return f"{volume:.0f} ml" if volume >= 100 else f"{volume:.1f} ml" if volume >= 1 else f"{volume:.2g} ml"
