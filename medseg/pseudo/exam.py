"""A teacher's answers on a labelled scan that it had not learnt from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from medseg.boxes import occupied_box
from medseg.inference.forward import streamed_axis
from medseg.labels import IGNORE_INDEX
from medseg.preprocessing.prepare import Prepared
from medseg.pseudo.calibration import Sample
from medseg.pseudo.forward import TeachersForward, stream
from medseg.pseudo.probability import decide_likely, probabilities, true_decisions, with_opinion

MARGIN = 5
"""Voxels around structures, drawn or predicted, within which teachers are tested: far background is always right and
would make any teacher look sound."""

DRAWN = 3000
"""Voxels of each decision that are kept of one slab."""


@dataclass(frozen=True, slots=True, eq=False)
class LabelledScan:
    """A scan as the network sees it, with true class indices (X, Y, Z) uint8; 255 ignored."""

    case: str
    prepared: Prepared
    target: NDArray[np.uint8]


@dataclass(frozen=True, slots=True, eq=False)
class Exam:
    """How a teacher did.

    Attributes
    ----------
    teacher : its number.
    dice : mean over targets, on the network's grid; None: there was nothing to find or found.
    soft_dice, agreement : what it thinks of its own answer: the Dice with its probabilities, and of its mirrorings.
    agreed, found : voxels of each decision whose features agree with it, and all of them; near structures.
    """

    case: str
    teacher: int
    sample: Sample
    dice: float | None
    soft_dice: float | None
    agreement: float | None
    agreed: tuple[int, ...]
    found: tuple[int, ...]


def examine(scan: LabelledScan, teacher: int, forward: TeachersForward, share: float = 0.0) -> Exam:
    """Test a teacher, the only one of `forward`, on a scan.

    Parameters
    ----------
    share : of the similarity to prototypes in its probabilities.
    """
    labels = forward.teachers.labels
    truth = true_decisions(scan.target, labels)
    axis = streamed_axis(scan.prepared, forward.teachers.plan)
    rng, drawn = np.random.default_rng(0), []
    tally = _Tally(len(labels.targets) + 1)
    with torch.inference_mode():
        for slab in stream(forward, scan.prepared):
            layers = [slice(None)] * 3
            layers[axis] = slice(slab.start, slab.start + slab.logits.shape[1 + axis])
            part = truth[tuple(layers)]
            logits = slab.logits[: labels.outputs].cpu()
            opinion = slab.logits[labels.outputs :].cpu() if forward.prototypes is not None else None
            likely = with_opinion(probabilities(logits, labels), opinion, share)
            decided = decide_likely(likely, labels).numpy()
            near = surroundings((decided != 0) | ((part != 0) & (part != IGNORE_INDEX))) & (part != IGNORE_INDEX)
            tally.count(decided, part, near, decided if opinion is None else opinion.argmax(0).numpy())
            tally.count_soft(likely if labels.regions else likely[1:], decided)
            (x, y, z), weight = _draw(decided, near, rng)
            similar = None if opinion is None else opinion[:, x, y, z]
            drawn.append(Sample(logits[:, x, y, z], scan.target[tuple(layers)][x, y, z], weight, similar))
    sample = _joined(drawn)
    return tally.result(scan.case, teacher, sample, forward.finish().agreement)


def surroundings(structures: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return the voxels within `MARGIN` of structures (X, Y, Z), along the axes and around corners alike."""
    box = occupied_box(structures.astype(np.uint8))
    near = np.zeros_like(structures)
    if box is None:
        return near
    wide = tuple(slice(max(0, s.start - MARGIN), s.stop + MARGIN) for s in box)
    near[wide] = ndimage.maximum_filter(structures[wide], 2 * MARGIN + 1, mode="constant")
    return near


class _Tally:
    """Counts of each decision over a scan."""

    def __init__(self, decisions: int) -> None:
        self.decisions = decisions
        self.agreed, self.near, self.found, self.true, self.common = np.zeros((5, decisions), dtype=np.int64)
        self.inside, self.size, self.everywhere = np.zeros((3, decisions - 1))

    def count(
        self, decided: NDArray[np.uint8], truth: NDArray[np.uint8], near: NDArray[np.bool_], opinion: NDArray
    ) -> None:
        known = truth != IGNORE_INDEX
        self.agreed += self._of(decided[near & (opinion == decided)])
        self.near += self._of(decided[near])
        self.found += self._of(decided[known])
        self.true += self._of(truth[known])
        self.common += self._of(truth[known & (truth == decided)])

    def count_soft(self, likely: Tensor, decided: NDArray[np.uint8]) -> None:
        for number, target in enumerate(likely.numpy()):
            member = decided == number + 1
            self.inside[number] += target[member].sum()
            self.size[number] += member.sum()
            self.everywhere[number] += target.sum()

    def result(self, case: str, teacher: int, sample: Sample, agreement: float | None) -> Exam:
        return Exam(
            case=case,
            teacher=teacher,
            sample=sample,
            dice=_mean_dice(self.common[1:], self.found[1:] + self.true[1:]),
            soft_dice=_mean_dice(self.inside, np.where(self.size > 0, self.size + self.everywhere, 0)),
            agreement=agreement,
            agreed=tuple(int(n) for n in self.agreed),
            found=tuple(int(n) for n in self.near),
        )

    def _of(self, values: NDArray[np.uint8]) -> NDArray[np.int64]:
        return np.bincount(values, minlength=self.decisions)


def _mean_dice(common: NDArray, sizes: NDArray) -> float | None:
    """Return the mean of 2 common / sizes where sizes are not 0."""
    return float((2 * common[sizes > 0] / sizes[sizes > 0]).mean()) if (sizes > 0).any() else None


def _draw(
    decided: NDArray[np.uint8], near: NDArray[np.bool_], rng: np.random.Generator
) -> tuple[tuple[NDArray[np.intp], ...], NDArray[np.float64]]:
    """Return indices and weights of at most `DRAWN` voxels of each decision near structures."""
    chosen, weight = [], []
    for decision in np.unique(decided[near]):
        members = np.flatnonzero(near & (decided == decision))
        kept = members if len(members) <= DRAWN else rng.choice(members, DRAWN, replace=False)
        chosen.append(kept)
        weight.append(np.full(len(kept), len(members) / len(kept)))
    index = np.concatenate(chosen) if chosen else np.zeros(0, dtype=np.int64)
    return np.unravel_index(index, decided.shape), np.concatenate(weight) if weight else np.zeros(0)


def _joined(samples: Sequence[Sample]) -> Sample:
    """Return the voxels of all slabs of a scan."""
    similar = [sample.opinion for sample in samples if sample.opinion is not None]
    return Sample(
        torch.cat([sample.logits for sample in samples], 1),
        np.concatenate([sample.truth for sample in samples]),
        np.concatenate([sample.weight for sample in samples]),
        torch.cat(similar, 1) if similar else None,
    )
