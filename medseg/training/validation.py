"""Whole-volume validation: held-out scans are segmented as users will, and compared on their own grid."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from medseg.config import InferenceConfig
from medseg.inference.predictor import segment_prepared
from medseg.io.scan import read_case
from medseg.labels import LabelMap
from medseg.measures.features import CaseFeatures, measure_structures
from medseg.measures.intensity import measure_scan
from medseg.plan import Plan
from medseg.preprocessing.prepare import Prepared, prepare_image
from medseg.quality.metrics import StructureScore, evaluate_case
from medseg.quality.summary import mean_over_targets, summarise
from medseg.volume import Case, Mask


@dataclass(frozen=True, slots=True, eq=False)
class Comparison:
    """One held-out case: what the network said, what a person drew, and what is known without the person."""

    case_id: str
    prediction: Mask
    truth: Mask
    features: CaseFeatures


@dataclass(frozen=True, slots=True)
class Validator:
    """Segments and scores held-out cases with a network (or several, averaged).

    Calling it gives the mean Dice over cases and targets; a target that is neither there nor
    predicted does not count, a missed or invented one counts 0.
    """

    cases: tuple[Case, ...]
    plan: Plan
    labels: LabelMap
    inference: InferenceConfig
    device: torch.device

    def __call__(self, network: nn.Module) -> float:
        """Return the mean Dice of one network."""
        return mean_over_targets(summarise(score(self.compare((network,)), self.labels)), "dice") or 0.0

    def compare(self, networks: Sequence[nn.Module]) -> list[Comparison]:
        """Segment every held-out case; the networks are put back into the mode they were in."""
        modes = [network.training for network in networks]
        for network in networks:
            network.eval()
        comparisons = [self._compare(case, networks) for case in self.cases]
        for network, mode in zip(networks, modes, strict=True):
            network.train(mode)
        return comparisons

    def _compare(self, case: Case, networks: Sequence[nn.Module]) -> Comparison:
        volume, truth = read_case(case)
        if truth is None:
            raise ValueError(f"case {case.id} has no mask to compare with")
        prepared: Prepared = prepare_image(volume, self.plan)
        restored = segment_prepared(networks, prepared, self.plan, self.labels, self.inference, self.device)
        features = CaseFeatures(
            channels=measure_scan(volume),
            structures=measure_structures(volume, restored.mask, self.labels),
            uncertainty=restored.uncertainty,
        )
        return Comparison(case.id, restored.mask, truth, features)


def score(comparisons: Sequence[Comparison], labels: LabelMap) -> list[StructureScore]:
    """Return the scores of every case and target."""
    return [
        row
        for comparison in comparisons
        for row in evaluate_case(comparison.prediction, comparison.truth, labels, case=comparison.case_id)
    ]
