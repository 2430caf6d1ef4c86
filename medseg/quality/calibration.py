"""The Dice to expect of a case without a true mask, fitted on cases that no network had seen.

The model is small on purpose, because a hospital's dataset has tens of cases: a ridge regression of
logit(Dice) on six features, each oriented so that more is better, with no negative weight. So more doubt
never raises the expectation, whatever the accidents of few cases. It is fitted by projected coordinate
descent, and the strength of the ridge is chosen by cross-validation.

The fitted cases are out of fold: each was segmented by the one network that had not learnt from it, before
post-processing; as it was scanned, and degraded (`medseg.quality.degradation`), because sound scans alone say
nothing about bad masks. An ensemble of the folds is usually a little better than what is expected of it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medseg.measures.features import CaseFeatures, StructureFeatures
from medseg.quality.expectations import on_common_scale
from medseg.quality.metrics import StructureScore
from medseg.reference import Calibration, Range, Ranking, Reference, StructureReference

FEATURES = ("mean_confidence", "least_confidence", "mean_soft_dice", "volume", "pieces", "intensity")
"""Features of a case, all oriented so that more is better; the first three say what the network thinks of
its mask, the others how usual the mask is. The mean probability inside the mask ranks best of all."""

FEWEST_CASES = 12
"""With fewer cases nothing is fitted: two numbers a feature."""

BAD_DICE = 0.7
"""A mask below this Dice is bad, for the AUROC: at 0.7 a radiologist redraws rather than corrects."""

CLIP = 0.01
"""Dice is clipped to [0.01, 0.99] before its logit is taken."""

RIDGES = (0.3, 1.0, 3.0, 10.0, 30.0, 100.0)
"""Strengths that are tried; features are standardised, and one unit weighs as much as one case."""

FARTHEST = 6.0
"""Standardised features are clipped to this distance from the mean: far away, worse is worse enough."""

FEW = 36
"""Up to so many cases, each is degraded twice for the fit; beyond it once, which then is as good."""

PARTS = 5
SWEEPS = 500
CONVERGED = 1e-9


@dataclass(frozen=True, slots=True)
class HeldOut:
    """A case that the network had not learnt from, segmented.

    Attributes
    ----------
    case : its id, the same for degraded copies of it.
    features : what is known without a true mask.
    scores : of its targets, against the true mask.
    is_degraded : whether the scan was spoilt.
    """

    case: str
    features: CaseFeatures
    scores: Sequence[StructureScore]
    is_degraded: bool = False


@dataclass(frozen=True, slots=True)
class Observation:
    """What a held-out case says.

    Attributes
    ----------
    features : see `FEATURES`.
    dice : mean Dice over its targets.
    """

    case: str
    features: tuple[float, ...]
    dice: float
    is_degraded: bool = False


def degraded_copies(cases: int) -> int:
    """Return how many degraded copies of each held-out case a fit asks for."""
    return 2 if cases <= FEW else 1


def case_features(features: CaseFeatures, reference: Reference) -> tuple[float, ...]:
    """Return the `FEATURES` of a case, every one finite.

    A target that was not found counts with a confidence and a soft Dice of 0 if every training case has it.
    Otherwise 1 minus the volume of its leftover probability, in units of the smallest volume in training:
    nothing found, nothing suspected is 1.
    """
    found = features.uncertainty
    sure = [s for name in found if (s := _or_absent(found[name].confidence, name, features, reference)) is not None]
    soft = [s for name in found if (s := _or_absent(found[name].soft_dice, name, features, reference)) is not None]
    known = [(s, r) for name, s in features.structures.items() if (r := reference.structures.get(name)) and r.volume_ml]
    return (
        float(np.mean(sure)) if sure else 0.0,
        min(sure, default=0.0),
        float(np.mean(soft)) if soft else 0.0,
        -max((_volume_distance(s, r.volume_ml) for s, r in known if r.volume_ml), default=0.0),
        -max((_extra_pieces(s, r) for s, r in known), default=0.0),
        -max((_intensity_distance(s, r, features, reference) for s, r in known), default=0.0),
    )


def observe(held_out: Iterable[HeldOut], reference: Reference) -> list[Observation]:
    """Return what held-out cases say; one with nothing to find and nothing found has no Dice and is left out."""
    found = []
    for case in held_out:
        dice = [score.dice for score in case.scores if score.dice is not None]
        if dice:
            features = case_features(case.features, reference)
            found.append(Observation(case.case, features, float(np.mean(dice)), case.is_degraded))
    return found


def fit_calibration(observations: Sequence[Observation]) -> Calibration | None:
    """Fit the expected Dice; None if there are too few cases.

    How well it ranks is measured on cases left out: in five parts, each predicted from the other four,
    with the strength of the ridge chosen anew without it. A case and its degraded copies are in one part.
    """
    cases = list(dict.fromkeys(observation.case for observation in observations))
    if len(cases) < FEWEST_CASES:
        return None
    features = np.array([observation.features for observation in observations])
    dice = np.array([observation.dice for observation in observations])
    owners = np.array([cases.index(observation.case) for observation in observations])
    left_out = np.empty(len(dice))
    for part in _parts(owners):
        left_out[part] = _predict(_fit(features[~part], dice[~part], owners[~part]), features[part])
    fit = _fit(features, dice, owners)
    sound = ~np.array([observation.is_degraded for observation in observations])
    return Calibration(
        features=FEATURES,
        mean=tuple(fit.mean.tolist()),
        sd=tuple(fit.sd.tolist()),
        weight=tuple(fit.weight.tolist()),
        bias=fit.bias,
        cases=len(cases),
        ranking=rank(left_out, dice),
        as_scanned=rank(left_out[sound], dice[sound]) if sound.any() else None,
    )


def can_expect(calibration: Calibration) -> bool:
    """Whether a calibration is on these `FEATURES`: a model of another version may know others."""
    return calibration.features == FEATURES


def expected_dice(features: Sequence[float], calibration: Calibration) -> float:
    """Return the Dice to expect of a case with these `FEATURES`, 0 to 1."""
    fit = _Fit(
        np.array(calibration.mean), np.array(calibration.sd), np.array(calibration.weight), float(calibration.bias)
    )
    return float(_predict(fit, np.array([features]))[0])


def rank(expected: NDArray[np.float64], dice: NDArray[np.float64], threshold: float = BAD_DICE) -> Ranking:
    """Return how well expected Dice orders cases by true Dice."""
    return Ranking(
        cases=len(dice),
        spearman=spearman(expected, dice),
        auroc=auroc(-expected, dice < threshold),
        threshold=threshold,
        error=float(np.mean(np.abs(expected - dice))),
    )


def spearman(first: NDArray[np.float64], second: NDArray[np.float64]) -> float | None:
    """Return the rank correlation, ties sharing their mean rank; None if either side has no spread."""
    ranks = [_ranks(values) - (len(values) + 1) / 2 for values in (first, second)]
    scale = math.sqrt(float((ranks[0] ** 2).sum() * (ranks[1] ** 2).sum()))
    return float((ranks[0] * ranks[1]).sum() / scale) if scale else None


def auroc(score: NDArray[np.float64], is_positive: NDArray[np.bool_]) -> float | None:
    """Return the probability that a positive case scores higher than a negative one; None without both."""
    positives, negatives = int(is_positive.sum()), int((~is_positive).sum())
    if not positives or not negatives:
        return None
    above = _ranks(score)[is_positive].sum() - positives * (positives + 1) / 2
    return float(above / (positives * negatives))


@dataclass(frozen=True, slots=True, eq=False)
class _Fit:
    mean: NDArray[np.float64]
    sd: NDArray[np.float64]
    weight: NDArray[np.float64]
    bias: float


def _fit(features: NDArray[np.float64], dice: NDArray[np.float64], owners: NDArray[np.intp]) -> _Fit:
    """Return the fit with the ridge that predicts left-out parts best, by mean absolute error of Dice."""

    def error(ridge: float) -> float:
        errors = []
        for part in _parts(owners):
            fit = _fit_with(features[~part], dice[~part], ridge)
            errors.append(np.abs(_predict(fit, features[part]) - dice[part]))
        return float(np.concatenate(errors).mean())

    return _fit_with(features, dice, min(RIDGES, key=error))


def _fit_with(features: NDArray[np.float64], dice: NDArray[np.float64], ridge: float) -> _Fit:
    """Minimise |logit(dice) - bias - X w|² + ridge |w|² over w >= 0."""
    mean, sd = features.mean(axis=0), features.std(axis=0)
    sd = np.where(sd > 1e-9, sd, 1.0)
    design = _standardise(features, mean, sd)
    wanted = _logit(dice)
    bias = float(wanted.mean())
    centred = design - design.mean(axis=0)
    gram, target = centred.T @ centred, centred.T @ (wanted - bias)
    weight = np.zeros(len(mean))
    for _ in range(SWEEPS):
        before = weight.copy()
        for i in range(len(weight)):
            rest = target[i] - gram[i] @ weight + gram[i, i] * weight[i]
            weight[i] = max(0.0, rest / (gram[i, i] + ridge))
        if np.abs(weight - before).max() < CONVERGED:
            break
    return _Fit(mean, sd, weight, bias - float(design.mean(axis=0) @ weight))


def _predict(fit: _Fit, features: NDArray[np.float64]) -> NDArray[np.float64]:
    logits = fit.bias + _standardise(features, fit.mean, fit.sd) @ fit.weight
    return 1 / (1 + np.exp(-np.clip(logits, -30, 30)))


def _standardise(
    features: NDArray[np.float64], mean: NDArray[np.float64], sd: NDArray[np.float64]
) -> NDArray[np.float64]:
    return np.clip((features - mean) / sd, -FARTHEST, FARTHEST)


def _logit(dice: NDArray[np.float64]) -> NDArray[np.float64]:
    share = np.clip(dice, CLIP, 1 - CLIP)
    return np.log(share / (1 - share))


def _parts(owners: NDArray[np.intp]) -> list[NDArray[np.bool_]]:
    """Return which observations are in each of a few parts: cases are dealt out in turn, copies with them."""
    _, order = np.unique(owners, return_inverse=True)
    return [order % PARTS == part for part in range(PARTS)]


def _ranks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return ranks from 1; equal values share their mean rank."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return (last - (counts - 1) / 2)[inverse]


def _or_absent(value: float | None, target: str, features: CaseFeatures, reference: Reference) -> float | None:
    """Return a value of a target that was found; else what its absence is worth, None if nothing is known of it."""
    known = reference.structures.get(target)
    if value is not None:
        return value
    if not known or not known.volume_ml:
        return None
    if known.share == 1.0:
        return 0.0
    return 1 - min(1.0, features.uncertainty[target].soft_ml / known.volume_ml.low)


def _volume_distance(found: StructureFeatures, known: Range) -> float:
    """Return by how many half ranges (of logarithms) a volume lies from the median, 0 within the middle."""
    half = max(math.log(known.high / known.low) / 2, 0.1) if known.low > 0 else 1.0
    return max(0.0, abs(math.log(found.volume_ml / known.median)) / half - 0.5) if known.median > 0 else 0.0


def _extra_pieces(found: StructureFeatures, known: StructureReference) -> float:
    usual = known.components.high if known.components else 1.0
    return math.log(max(1.0, found.components / max(1.0, usual)))


def _intensity_distance(
    found: StructureFeatures, known: StructureReference, features: CaseFeatures, reference: Reference
) -> float:
    """Return by how many half ranges the mean of the worst channel lies from the median, 0 within the middle."""
    distances = [0.0]
    channels = zip(found.intensity, features.channels, reference.relative, known.mean, strict=False)
    for inside, scan, is_relative, usual in channels:
        half = (usual.high - usual.low) / 2
        if half > 0:
            value = on_common_scale(inside, scan, is_relative).mean
            distances.append(abs(value - usual.median) / half - 0.5)
    return min(max(distances), 20.0)
