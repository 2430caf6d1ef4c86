"""Fake networks with known answers, and small plans."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from medseg.geometry import Grid
from medseg.labels import LabelMap
from medseg.outputs import NetworkOutput
from medseg.plan import Plan


class Threshold(nn.Module):
    """Class 1 where the image is above 0: logits (-image, image), the same at every place and mirroring."""

    def __init__(self) -> None:
        super().__init__()
        self.shapes: list[tuple[int, ...]] = []

    def forward(self, image: Tensor) -> NetworkOutput:
        """Return (B, 2, *spatial)."""
        self.shapes.append(tuple(image.shape))
        return NetworkOutput(torch.cat([-image[:, :1], image[:, :1]], dim=1))


class Positional(nn.Module):
    """Logits that differ at every voxel of a window, as real networks' do near the border."""

    def __init__(self, outputs: int = 3) -> None:
        super().__init__()
        self.outputs = outputs

    def forward(self, image: Tensor) -> NetworkOutput:
        """Return (B, K, *spatial)."""
        ramp = sum(torch.linspace(-1, 1, n).reshape(-1, *[1] * i) for i, n in enumerate(reversed(image.shape[2:])))
        channels = [torch.sin((k + 1) * image[:, 0] * 3 + (k + 2) * ramp) for k in range(self.outputs)]
        return NetworkOutput(torch.stack(channels, dim=1))


@pytest.fixture
def threshold() -> Threshold:
    """A network whose answer is known."""
    return Threshold()


@pytest.fixture
def make_plan(small_plan) -> Callable[..., Plan]:
    """A 3D plan for one clipped channel (air -1, scale 1); any field may be given."""
    return small_plan


@pytest.fixture
def labels() -> LabelMap:
    """One label, with a value that is not its class index."""
    return LabelMap.parse({"organ": 5})


@pytest.fixture
def oblique() -> Callable[..., Grid]:
    """A grid turned in space."""

    def make(shape, spacing=(1.0, 1.0, 1.0), order=(0, 1, 2), flips=(1, 1, 1), turn=(0.1, -0.2, 0.15)) -> Grid:
        from scipy.spatial.transform import Rotation

        affine = np.eye(4)
        affine[:3, :3] = Rotation.from_rotvec(turn).as_matrix()[:, list(order)] * np.array(flips) * spacing
        affine[:3, 3] = (-40, 13, 7)
        return Grid(shape, affine)

    return make
