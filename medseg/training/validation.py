"""Whole-volume validation: held-out scans are segmented as users will, and compared on their own grid."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from medseg.config import InferenceConfig
from medseg.geometry import Grid
from medseg.inference.predictor import segment_prepared
from medseg.io.scan import read_case
from medseg.labels import LabelMap
from medseg.measures.features import CaseFeatures, measure_structures
from medseg.measures.intensity import measure_scan
from medseg.plan import Plan
from medseg.preprocessing.prepare import Prepared, prepare_image
from medseg.quality.calibration import HeldOut
from medseg.quality.degradation import degrade
from medseg.quality.metrics import StructureScore, evaluate_case
from medseg.quality.summary import mean_over_targets, summarise
from medseg.volume import Case, Mask, Volume


@dataclass(frozen=True, slots=True, eq=False)
class PackedMask:
    """A mask in little memory: two of 512x512x500 voxels have 262 MB, and those of all folds wait for the last one."""

    values: bytes
    dtype: np.dtype
    grid: Grid

    @classmethod
    def of(cls, mask: Mask) -> PackedMask:
        """Pack a mask, at the fastest level: outlines are few beside the voxels within."""
        return cls(zlib.compress(mask.array.tobytes(order="F"), level=1), mask.array.dtype, mask.grid)

    def unpack(self) -> Mask:
        """Return the mask."""
        array = np.frombuffer(bytearray(zlib.decompress(self.values)), self.dtype)
        return Mask(array.reshape(self.grid.shape, order="F"), self.grid)


@dataclass(frozen=True, slots=True, eq=False)
class Comparison:
    """One held-out case: what the network said, what a person drew, and what is known without the person.

    Attributes
    ----------
    degraded : how the network did on spoilt copies of the scan.
    """

    case_id: str
    prediction: PackedMask
    truth: PackedMask
    features: CaseFeatures
    degraded: tuple[HeldOut, ...] = ()

    @classmethod
    def of(
        cls, case: str, prediction: Mask, truth: Mask, features: CaseFeatures, degraded: tuple[HeldOut, ...] = ()
    ) -> Comparison:
        """Return the comparison of a prediction with the truth."""
        return cls(case, PackedMask.of(prediction), PackedMask.of(truth), features, degraded)

    @property
    def masks(self) -> tuple[Mask, Mask]:
        """Prediction and truth, unpacked anew at each call."""
        return self.prediction.unpack(), self.truth.unpack()


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

    def compare(self, networks: Sequence[nn.Module], degraded_copies: int = 0) -> list[Comparison]:
        """Segment every held-out case, and so many degraded copies of it.

        The networks are put back into the mode they were in.
        """
        modes = [network.training for network in networks]
        for network in networks:
            network.eval()
        comparisons = [self._compare(case, networks, degraded_copies) for case in self.cases]
        for network, mode in zip(networks, modes, strict=True):
            network.train(mode)
        return comparisons

    def _compare(self, case: Case, networks: Sequence[nn.Module], degraded_copies: int) -> Comparison:
        volume, truth = read_case(case)
        if truth is None:
            raise ValueError(f"case {case.id} has no mask to compare with")
        degraded = tuple(self._degraded(case.id, volume, truth, networks, copy) for copy in range(degraded_copies))
        mask, features = self._segment(volume, networks)
        return Comparison.of(case.id, mask, truth, features, degraded)

    def _degraded(self, case: str, volume: Volume, truth: Mask, networks: Sequence[nn.Module], copy: int) -> HeldOut:
        spoilt = degrade(volume, np.random.default_rng((zlib.crc32(case.encode()), copy)))
        mask, features = self._segment(spoilt, networks)
        return HeldOut(case, features, evaluate_case(mask, truth, self.labels, case=case), is_degraded=True)

    def _segment(self, volume: Volume, networks: Sequence[nn.Module]) -> tuple[Mask, CaseFeatures]:
        prepared: Prepared = prepare_image(volume, self.plan)
        restored = segment_prepared(networks, prepared, self.plan, self.labels, self.inference, self.device)
        features = CaseFeatures(
            channels=measure_scan(volume),
            structures=measure_structures(volume, restored.mask, self.labels),
            uncertainty=restored.uncertainty,
        )
        return restored.mask, features


def score(comparisons: Sequence[Comparison], labels: LabelMap) -> list[StructureScore]:
    """Return the scores of every case and target."""
    return [
        row for comparison in comparisons for row in evaluate_case(*comparison.masks, labels, case=comparison.case_id)
    ]
