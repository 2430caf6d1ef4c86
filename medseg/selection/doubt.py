"""What a model says of a scan that nobody labelled: where it doubts, what it finds, and what the scan is like."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from medseg.config import InferenceConfig
from medseg.inference.channels_last import channels_last
from medseg.inference.forward import EnsembleForward, FeatureRecorder, stream_scan
from medseg.inference.predictor import prepare_scan
from medseg.inference.restore import decide
from medseg.inference.uncertainty import BLOCK, probabilities_and_entropy
from medseg.labels import LabelMap
from medseg.networks.model import Model
from medseg.selection.appearance import Parts, describe_appearance
from medseg.volume import Volume

MEMBER = 0.1
"""Probability from which a voxel belongs to a target's region: what is suspected counts, not only what is found."""

TOP = 0.1
"""Share of a region's voxels, the most doubtful, whose mean entropy is its doubt."""

BINS = 1000
"""Steps of the entropy from 0 to 1 in which voxels are counted."""


@dataclass(frozen=True, slots=True, eq=False)
class View:
    """What a model says of one scan.

    Attributes
    ----------
    doubt : by target, mean entropy (0 to 1) of the most doubtful tenth of its region; None: not even suspected.
    found : the targets with at least one voxel.
    parts : what the scan is like.
    """

    doubt: Mapping[str, float | None]
    found: frozenset[str]
    parts: Parts

    @property
    def score(self) -> float:
        """Mean doubt over the targets, each with equal say; one that is not suspected is not doubted."""
        return float(np.mean([value or 0.0 for value in self.doubt.values()]))


class Observer:
    """Looks at scans with a model; mirrored passes are left out.

    Parameters
    ----------
    model : its networks are moved to the device and put into evaluation mode.
    """

    def __init__(self, model: Model, device: torch.device) -> None:
        self.model, self.device = model, device
        first, *others = (network.to(device).eval() for network in model.networks)
        self.recorder = FeatureRecorder(channels_last(first, device))
        self.config: InferenceConfig = model.inference.model_copy(update={"flips": False})
        self.forward = EnsembleForward([self.recorder, *others], model.plan, self.config, device)

    def look(self, volume: Volume) -> View:
        """Return what the model says of a scan.

        Its description is the mean over windows of the first network's features; networks that don't show
        theirs leave the appearance.

        Raises
        ------
        ScanError
            As `prepare_scan`.
        """
        plan, labels = self.model.plan, self.model.labels
        prepared = prepare_scan(volume, self.model)
        pooled: list[Tensor] = []
        self.recorder.take()  # a scan before may have ended within a window

        def forward(windows: Tensor) -> Tensor:
            logits = self.forward(windows)
            features = self.recorder.take()
            if features is not None:
                pooled.extend(features.float().flatten(2).mean(2))
            return logits

        meter = DoubtMeter(labels)
        for slab in stream_scan(forward, prepared, plan, self.config, outputs=labels.outputs, device=self.device):
            meter.add(slab.logits)
        parts = (torch.stack(pooled).double().mean(0).cpu().numpy(),) if pooled else describe_appearance(volume)
        return View(meter.doubt(), meter.found(), parts)


class DoubtMeter:
    """Takes slabs of logits (`add`), keeps a histogram of entropies a target."""

    def __init__(self, labels: LabelMap) -> None:
        self.labels = labels
        self._counts = torch.zeros(len(labels.targets), BINS, dtype=torch.int64)
        self._voxels = torch.zeros(len(labels.targets) + 1, dtype=torch.int64)

    def add(self, logits: Tensor) -> None:
        """Count a slab of logits (K, X, Y, Z)."""
        layers = max(1, BLOCK * logits.shape[1] // logits.numel())
        for block in torch.split(logits, layers, 1):
            self._add(block)

    def _add(self, logits: Tensor) -> None:
        targets = len(self.labels.targets)
        self._voxels += torch.bincount(decide(logits, self.labels).flatten(), minlength=targets + 1).cpu()
        probabilities, entropies = probabilities_and_entropy(logits, self.labels)
        for target in range(targets):
            inside = entropies[min(target, len(entropies) - 1)][probabilities[target] >= MEMBER]
            bins = (inside * BINS).long().clamp_(0, BINS - 1)
            self._counts[target] += torch.bincount(bins, minlength=BINS).cpu()

    def doubt(self) -> dict[str, float | None]:
        """Return each target's mean entropy of the most doubtful tenth of its region; None without a region."""
        return {name: _mean_of_top(counts) for name, counts in zip(self.labels.targets, self._counts, strict=True)}

    def found(self) -> frozenset[str]:
        """Return the targets that won at least one voxel."""
        return frozenset(name for name, n in zip(self.labels.targets, self._voxels[1:].tolist(), strict=True) if n)


def _mean_of_top(counts: Tensor) -> float | None:
    """Return the mean of the largest `TOP` of the values that a histogram over [0, 1] counts."""
    total = int(counts.sum())
    if not total:
        return None
    wanted = max(1, round(TOP * total))
    largest = counts.flip(0)
    taken = (wanted - (largest.cumsum(0) - largest)).clamp(min=0).minimum(largest)
    centres = (torch.arange(BINS, 0, -1, dtype=torch.float64) - 0.5) / BINS
    return float((taken * centres).sum() / wanted)
