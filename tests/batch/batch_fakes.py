"""A predictor that thresholds, without torch; worker processes of the tests import it, too."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from medseg.inference.ladder import Rung
from medseg.labels import LabelMap
from medseg.volume import Mask, Volume

LABELS = LabelMap.parse({"organ": 1, "tumour": 3})


class FakeDevice:
    type = "cpu"

    def __str__(self):
        return self.type


@dataclass
class FakeModel:
    labels: LabelMap = LABELS
    name: str = "fake"


@dataclass
class FakePrediction:
    mask: Mask
    confidence: float
    timings: dict[str, float]
    uncertainty: dict = field(default_factory=dict)
    rung: Rung = Rung.FULL


@dataclass
class ThresholdPredictor:
    """Marks voxels above 0 as 1 and above 10 as 3; raises what `errors` holds for a voxel value."""

    model: FakeModel = field(default_factory=FakeModel)
    device: FakeDevice = field(default_factory=FakeDevice)
    errors: dict[int, Exception] = field(default_factory=dict)
    seen: list[float] = field(default_factory=list)

    def prepare(self, volume: Volume) -> Volume:
        return volume

    def infer(self, volume: Volume) -> FakePrediction:
        first = float(volume.array[0, 0, 0, 0])
        self.seen.append(first)
        if round(first) in self.errors:
            raise self.errors[round(first)]
        mask = (volume.array[0] > 0).astype(np.uint8)
        mask[volume.array[0] > 10] = 3
        return FakePrediction(Mask(mask, volume.grid), 0.75, {"network": 0.01})

    def clean(self, prediction: FakePrediction) -> FakePrediction:
        return prediction
