"""Which clean-up rules a model gets: those that helped on predictions of held-out cases."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medseg.boxes import Box, label_boxes, occupied_box, united
from medseg.labels import LabelMap
from medseg.postprocessing.clean import UNCHANGED, Structure, apply, belongs_to, structures_of
from medseg.rules import PostprocessingRules, StructureRule
from medseg.volume import Mask

MINIMUM_GAIN = 1e-4
"""Rise of the mean Dice below which a rule isn't worth its risk on unseen scans."""

SMALL_FRACTIONS = (0.01, 0.05, 0.2)
"""Candidates for the smallest component, as fractions of the structure's median true volume."""

Pair = tuple[Mask, Mask]
Counts = NDArray[np.int64]
Scores = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class RuleTrial:
    """One candidate rule and what it did to the Dice of the cases it was tried on.

    Attributes
    ----------
    structure, rule : what was tried, everything else unchanged.
    before, after : mean over the targets of their mean Dice over the cases, without and with the rule.
    fallen : the targets whose mean Dice fell.
    kept : whether the rule is among the chosen ones.
    """

    structure: str
    rule: StructureRule
    before: float
    after: float
    fallen: tuple[str, ...]
    kept: bool

    def describe(self) -> str:
        """Return the trial as one line."""
        verdict = "kept" if self.kept else f"not kept, {', '.join(self.fallen)} fell" if self.fallen else "not kept"
        return f"{self.structure}, {self.rule.describe()}: mean Dice {self.before:.4f} -> {self.after:.4f}, {verdict}"


@dataclass(frozen=True, slots=True)
class RulesChoice:
    """The chosen rules, and every trial that led to them."""

    rules: PostprocessingRules
    trials: tuple[RuleTrial, ...]


def choose_rules(cases: Sequence[Pair], labels: LabelMap) -> RulesChoice:
    """Choose the rules that help on predictions of cases the network didn't learn from.

    Every candidate is tried alone. As in nnU-Net, it counts only if the mean Dice rises and no target
    falls; here the rise must also reach `MINIMUM_GAIN`. The best of each structure are then tried
    together, and if that is no better than the best single one, that one alone is chosen.

    Parameters
    ----------
    cases : (prediction, truth) on the same grid; read up to three times, so they may load lazily.
    labels : their label map.

    Notes
    -----
    A structure absent from both masks of a case says nothing and is left out of its mean; one that is
    absent from one of them scores 0, so that removing a false finding from a healthy case counts.
    """
    candidates = _candidates(cases, labels)
    scores = np.array([_try_all(pair, candidates, labels) for pair in cases])  # case, unchanged + candidate, target
    before, after = scores[:, 0], scores[:, 1:]
    best: dict[str, tuple[float, StructureRule]] = {}
    for number, (structure, rule) in enumerate(candidates):
        gain = _gain(before, after[:, number])
        if gain > best.get(structure.name, (MINIMUM_GAIN, rule))[0]:
            best[structure.name] = gain, rule
    chosen = _combine(cases, labels, before, best)
    trials = tuple(
        RuleTrial(
            structure.name,
            rule,
            _mean(before),
            _mean(after[:, number]),
            tuple(labels.targets[target] for target in _fallen(before, after[:, number])),
            chosen.get(structure.name) == rule,
        )
        for number, (structure, rule) in enumerate(candidates)
    )
    return RulesChoice(PostprocessingRules(structures=chosen), trials)


def _combine(
    cases: Sequence[Pair], labels: LabelMap, before: Scores, best: dict[str, tuple[float, StructureRule]]
) -> dict[str, StructureRule]:
    """Return the best rules of all structures if together they beat each alone, else the best one."""
    chosen = {name: rule for name, (_, rule) in best.items()}
    if len(chosen) < 2:
        return chosen
    rules = PostprocessingRules(structures=chosen)
    cleaned = ((apply(p.array, p.grid, rules, labels), t.array) for p, t in cases)
    after = np.array([_dice(_joint(prediction, truth, labels), labels) for prediction, truth in cleaned])
    leader = max(best, key=lambda name: best[name][0])
    return chosen if _gain(before, after) > best[leader][0] else {leader: chosen[leader]}


def _candidates(cases: Sequence[Pair], labels: LabelMap) -> list[tuple[Structure, StructureRule]]:
    """Return what is tried, for each structure the simplest rules first: of equals the first wins."""
    structures = structures_of(labels)
    volumes = np.array(
        [[np.count_nonzero(belongs_to(t.array, s)) * t.grid.voxel_ml for s in structures] for _, t in cases]
    )
    candidates = []
    for structure, present in zip(structures, volumes.T, strict=True):
        typical = float(np.median(present[present > 0])) if present.any() else 0.0
        removals = [StructureRule(keep_largest=True)]
        removals += [StructureRule(min_ml=float(f"{typical * part:.2g}")) for part in SMALL_FRACTIONS if typical]
        filled = [rule.model_copy(update={"fill_holes": True}) for rule in (UNCHANGED, *removals)]
        candidates += [(structure, rule) for rule in (*removals, *filled)]
    return candidates


def _try_all(pair: Pair, candidates: Sequence[tuple[Structure, StructureRule]], labels: LabelMap) -> list[Scores]:
    """Return the Dice of each target of one case (K,): first unchanged, then with each candidate alone.

    Only the structure's box is looked at again: a rule changes nothing outside it.
    """
    prediction, truth = pair
    whole = _joint(prediction.array, truth.array, labels)
    boxes = label_boxes(prediction.array)
    scores = [_dice(whole, labels)]
    for structure, rule in candidates:
        box = united(boxes.get(value) for value in structure.values)
        if box is None:
            scores.append(scores[0])
            continue
        around = _padded(box, prediction.array.shape)
        part, true_part = prediction.array[around], truth.array[around]
        grid = prediction.grid.cropped([s.start for s in around], part.shape)
        cleaned = apply(part, grid, PostprocessingRules(structures={structure.name: rule}), labels)
        change = _joint(cleaned, true_part, labels) - _joint(part, true_part, labels)
        scores.append(_dice(whole + change, labels))
    return scores


def _padded(box: Box, shape: Sequence[int]) -> Box:
    """Return the box with one voxel of surroundings, so that what is a hole in it is one in the scan."""
    x, y, z = (slice(max(0, s.start - 1), min(size, s.stop + 1)) for s, size in zip(box, shape, strict=True))
    return x, y, z


def _joint(prediction: NDArray, truth: NDArray, labels: LabelMap) -> Counts:
    """Count the voxels of each (true class, predicted class); ignored voxels are left out."""
    width = len(labels.labels) + 1
    box = united([occupied_box(prediction), occupied_box(truth)])
    if box is None:
        return np.zeros((width, width), dtype=np.int64)
    true, predicted = labels.encode(truth[box]), labels.encode(prediction[box])
    counted = true < width
    pairs = true[counted].astype(np.intp) * width + predicted[counted]
    return np.bincount(pairs, minlength=width * width).reshape(width, width)


def _dice(joint: Counts, labels: LabelMap) -> Scores:
    """Return the Dice of each target (K,); NaN where both masks are empty."""
    index = {value: position for position, value in enumerate(labels.values, start=1)}
    scores = np.full(len(labels.targets), np.nan)
    for target in range(len(scores)):
        members = [index[value] for value in labels.members(target)]
        total = joint[members].sum() + joint[:, members].sum()
        if total:
            scores[target] = 2 * joint[np.ix_(members, members)].sum() / total
    return scores


def _target_means(scores: Scores) -> Scores:
    """Return each target's mean (K,) over the cases (N, K) where it is present; NaN if it never is."""
    present = ~np.isnan(scores)
    counts = present.sum(axis=0)
    return np.divide(
        np.where(present, scores, 0).sum(axis=0), counts, out=np.full(counts.shape, np.nan), where=counts > 0
    )


def _mean(scores: Scores) -> float:
    means = _target_means(scores)
    return float(means[~np.isnan(means)].mean()) if not np.isnan(means).all() else 0.0


def _fallen(before: Scores, after: Scores) -> list[int]:
    return np.flatnonzero(_target_means(after) < _target_means(before) - 1e-12).tolist()


def _gain(before: Scores, after: Scores) -> float:
    """Return the rise of the mean Dice; minus infinity if any target falls."""
    return -np.inf if _fallen(before, after) else _mean(after) - _mean(before)
