"""A task in which unlabelled scans must help: two blobs in heavy noise, of which a single scan is labelled.

A network that sees only that scan learns its noise by heart. The teacher's mistakes on other scans differ from scan to
scan, so that a student of both learns what they share.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import nn

from medseg.config import TrainingConfig, UnlabelledConfig
from medseg.data.mixing import draw_box
from medseg.labels import LabelMap
from medseg.losses.segmentation import SegmentationLoss
from medseg.outputs import NetworkOutput
from medseg.training.methods import Supervised
from medseg.training.mixing import MixedMethod
from medseg.training.optimisation import averaged

LABELS = LabelMap.parse({"dim": 1, "bright": 2})
SIZE = (24, 24)
STEPS, FIRST = 200, 0.25


class Network(nn.Module):
    """Three convolutions."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        sizes = (1, 16, 16, 16)
        stages = ([nn.Conv2d(i, o, 3, padding=1), nn.ReLU()] for i, o in pairwise(sizes))
        self.layers = nn.Sequential(*(layer for stage in stages for layer in stage), nn.Conv2d(16, 3, 1))

    def forward(self, image):
        return NetworkOutput(self.layers(image))


def scans(count, rng):
    """Return images (count, 1, *SIZE) and targets (count, *SIZE): discs of intensity 1 and 2, noise of 1."""
    target = torch.zeros(count, *SIZE, dtype=torch.uint8)
    rows, columns = torch.meshgrid(*map(torch.arange, SIZE), indexing="ij")
    for mask in target:
        for label, middle in ((1, 6), (2, 17)):
            row, column = torch.tensor([12, middle]) + 4 * torch.rand(2, generator=rng) - 2
            radius = 3 + 2 * torch.rand((), generator=rng)
            mask[(rows - row) ** 2 + (columns - column) ** 2 < radius**2] = label
    return (target + torch.randn(target.shape, generator=rng))[:, None], target


def unlabelled_patches(images, rng, boxes):
    """Return two of the images, one to paste into and one to paste."""
    chosen = images[torch.randperm(len(images), generator=rng)[:2]]
    inside, outside = (draw_box(SIZE, 2 / 3, boxes) for _ in range(2))
    return {
        "weak": chosen,
        "strong": chosen,
        "target": torch.full((2, *SIZE), 255, dtype=torch.uint8),
        "weight": torch.ones(2, *SIZE),
        "paste": torch.stack([inside, ~outside]),
    }


def held_out_dice(seed, mixed):
    """Train on one labelled scan, with 24 unlabelled ones or without, and return the mean Dice of 40 others."""
    rng = torch.Generator().manual_seed(seed)
    (image, target), (others, _), (tests, truth) = (scans(count, rng) for count in (1, 24, 40))
    batch = {"image": image.repeat(2, 1, 1, 1), "target": target.repeat(2, 1, 1)}
    network = Network()
    average = averaged(network, 0.98)
    loss = SegmentationLoss(LABELS, TrainingConfig(batch_dice=True))
    config = UnlabelledConfig(method="mix-teacher", labelled_first=FIRST)
    learning = MixedMethod(loss, LABELS, config, 0.5, torch.no_grad()(average))
    method = learning if mixed else Supervised(loss)
    optimiser, boxes = torch.optim.Adam(network.parameters(), 0.005), np.random.default_rng(seed)
    for step in range(STEPS):
        late = mixed and step >= FIRST * STEPS
        patches = {"unlabelled": unlabelled_patches(others, rng, boxes)} if late else {}
        optimiser.zero_grad()
        method.step(network, {**batch, **patches}, step / STEPS)["loss"].backward()
        optimiser.step()
        average.update_parameters(network)
    with torch.no_grad():
        found = average(tests).logits.argmax(1)
    return np.mean(
        [2 * ((found == c) & (truth == c)).sum() / ((found == c).sum() + (truth == c).sum()) for c in (1, 2)]
    )


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_unlabelled_scans_make_two_blobs_better_found(seed):
    assert held_out_dice(seed, mixed=True) > held_out_dice(seed, mixed=False) + 0.02
