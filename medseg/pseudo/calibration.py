"""How far teachers can be believed, measured on labelled scans that they had not learnt from.

* One *temperature* T: probabilities are softmax(logits / T), with the T that makes the true labels most
  likely (Guo et al., "On calibration of modern neural networks", ICML 2017).
* The *expected calibration error* (ECE) before and after: mean distance of confidence and accuracy over
  fifteen equal bins of confidence (the same paper).
* A *threshold* for each class: the smallest confidence above which the wanted share of voxels is right. It lies
  between bounds, and where it would let less than a share of the class's voxels through it falls, at most to the
  lower bound, so that classes that networks are seldom sure of don't starve. What lies below that bound is never
  learnt from. Raising the wanted share or the bounds never lowers a threshold.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from torch import Tensor

from medseg.config import PseudoLabelConfig
from medseg.labels import LabelMap
from medseg.pseudo.probability import (
    confidence,
    decide_likely,
    negative_log_likelihood,
    probabilities,
    true_decisions,
    with_opinion,
)

BINS = 15
"""Of the calibration error (Guo et al.)."""

COOLEST, HOTTEST = 0.1, 10.0
"""Bounds of the temperature: beyond, the teachers know nothing, or there is nothing to learn from."""

BLIND_THRESHOLD = 0.85
"""Threshold of all classes where no scan was held out to choose by: TCSeg's (ICML 2026), whose results hardly depend
on it."""

LADDER = np.arange(201) / 200
"""Thresholds that are tried, those between the bounds. They don't follow the bounds: finer steps after a higher
bound could end lower."""


@dataclass(frozen=True, slots=True, eq=False)
class Sample:
    """Voxels of one labelled scan, seen by a teacher that had not learnt from it.

    Attributes
    ----------
    logits : (K, n) float32.
    truth : (n,) uint8 class indices, none ignored.
    weight : (n,) how many voxels each stands for.
    opinion : (decisions, n) similarities to class prototypes; None: there are none.
    """

    logits: Tensor
    truth: NDArray[np.uint8]
    weight: NDArray[np.float64]
    opinion: Tensor | None = None


@dataclass(frozen=True, slots=True)
class Calibration:
    """What was measured.

    Attributes
    ----------
    temperature : what logits are divided by.
    thresholds : least confidence of each decision, background first.
    ece_before, ece_after : calibration error without and with the temperature; None: nothing was held out.
    cases : labelled scans that it was measured on.
    """

    temperature: float
    thresholds: tuple[float, ...]
    ece_before: float | None = None
    ece_after: float | None = None
    cases: int = 0


def calibrate(samples: Sequence[Sample], labels: LabelMap, config: PseudoLabelConfig) -> Calibration:
    """Fit temperature and thresholds; without voxels to look at T is 1 and every threshold `BLIND_THRESHOLD`."""
    decisions = len(labels.targets) + 1
    samples = [sample for sample in samples if len(sample.truth)]  # none: rightly nothing found
    if not samples:
        return Calibration(1.0, (float(np.clip(BLIND_THRESHOLD, *config.thresholds)),) * decisions)
    temperature = fit_temperature(samples, labels) if config.calibrate else 1.0
    share = config.prototype_share
    before, after = (pooled_verdicts(samples, labels, heat, share) for heat in (1.0, temperature))
    return Calibration(
        temperature=temperature,
        thresholds=tuple(choose_threshold(after.of(decision), config) for decision in range(decisions)),
        ece_before=calibration_error(before),
        ece_after=calibration_error(after),
        cases=len(samples),
    )


def fit_temperature(samples: Sequence[Sample], labels: LabelMap) -> float:
    """Return the temperature of least negative log-likelihood, every scan with the same say."""
    parts = [(s.logits.double(), torch.from_numpy(s.truth), torch.from_numpy(s.weight)) for s in samples]

    def cost(logarithm: float) -> float:
        heat = float(np.exp(logarithm))
        costs = [
            (negative_log_likelihood(logits / heat, truth, labels) * weight).sum() / weight.sum()
            for logits, truth, weight in parts
        ]
        return float(torch.stack(costs).mean())

    found = minimize_scalar(cost, bounds=(np.log(COOLEST), np.log(HOTTEST)), method="bounded")
    return float(np.exp(found.x))


@dataclass(frozen=True, slots=True, eq=False)
class Verdicts:
    """Voxels with their decision, its confidence, whether it is right, and how many voxels each stands for; (n,)."""

    decided: NDArray[np.uint8]
    confidence: NDArray[np.float64]
    right: NDArray[np.bool_]
    weight: NDArray[np.float64]

    def of(self, decision: int) -> Verdicts:
        """Return the voxels of one decision."""
        chosen = self.decided == decision
        return Verdicts(*(array[chosen] for array in (self.decided, self.confidence, self.right, self.weight)))


def choose_threshold(verdicts: Verdicts, config: PseudoLabelConfig) -> float:
    """Return the threshold of one decision; the upper bound where it was never made."""
    low, high = config.thresholds
    if not len(verdicts.weight):
        return high
    order = np.argsort(-verdicts.confidence, kind="stable")
    sure, weight = verdicts.confidence[order], verdicts.weight[order]
    kept = np.cumsum(weight)
    right = np.cumsum(weight * verdicts.right[order])
    tried = LADDER[(low <= LADDER) & (high >= LADDER)]
    count = np.searchsorted(-sure, -tried, side="right")  # voxels at least as sure as each
    precise = [
        value for value, n in zip(tried, count, strict=True) if n and right[n - 1] >= config.precision * kept[n - 1]
    ]
    fits = float(precise[0]) if precise else high
    generous = float(sure[min(np.searchsorted(kept, config.keep * kept[-1]), len(sure) - 1)])
    return max(low, min(fits, generous))


def calibration_error(verdicts: Verdicts) -> float:
    """Return the expected calibration error."""
    bins = np.minimum((verdicts.confidence * BINS).astype(int), BINS - 1)
    gaps = np.bincount(bins, verdicts.weight * (verdicts.confidence - verdicts.right), minlength=BINS)
    return float(np.abs(gaps).sum() / verdicts.weight.sum())


def pooled_verdicts(samples: Sequence[Sample], labels: LabelMap, temperature: float, share: float = 0.0) -> Verdicts:
    """Return all samples' voxels, with a share of similarity; each scan weighs as much as the others."""
    parts = []
    for sample in samples:
        likely = with_opinion(probabilities(sample.logits, labels, temperature), sample.opinion, share)
        decided = decide_likely(likely, labels).numpy()
        right = decided == true_decisions(sample.truth, labels)
        parts.append((decided, confidence(likely, labels).double().numpy(), right, sample.weight / sample.weight.sum()))
    return Verdicts(*(np.concatenate(arrays) for arrays in zip(*parts, strict=True)))
