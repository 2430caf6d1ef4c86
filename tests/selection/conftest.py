"""A network that finds what is bright and shows features, its model, and scans that differ in a known way."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from medseg.config import InferenceConfig
from medseg.geometry import Grid
from medseg.labels import LabelMap
from medseg.networks.model import Model
from medseg.outputs import NetworkOutput
from medseg.plan import ChannelNormalisation, NetworkPlan
from medseg.volume import Volume

LABELS = LabelMap.parse({"liver": 1, "tumour": 2})


class Bright(nn.Module):
    """Logits (0, image, image - 4): liver above 0, tumour beside it where the image is far above."""

    def forward(self, image: Tensor) -> NetworkOutput:
        first = image[:, 0]
        logits = torch.stack([torch.zeros_like(first), first, 2 * first - 8], dim=1)
        return NetworkOutput(logits, features=torch.stack([first, first**2], dim=1)[..., ::2, ::2, ::2])


@pytest.fixture
def model(small_plan) -> Model:
    plan = small_plan(
        channels=("ct",),
        normalisation=(ChannelNormalisation(kind="clip", low=-1000, high=1000, mean=0, std=1),),
        network=NetworkPlan(features=(4, 8), kernels=((3, 3, 3),) * 2, strides=((1, 1, 1), (2, 2, 2))),
    )
    return Model((Bright(),), plan, LABELS, inference=InferenceConfig(overlap=0.0, flips=True, precision="float32"))


@pytest.fixture
def volume_of():
    def make(values) -> Volume:
        array = np.asarray(values, dtype=np.float32)
        return Volume(array[None], Grid(array.shape, np.eye(4)))

    return make
