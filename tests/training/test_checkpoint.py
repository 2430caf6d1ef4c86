"""A training goes on from its checkpoint, wherever it was written."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch
from lightning_fabric.plugins import Precision
from torch import nn

from medseg.config import TrainingConfig
from medseg.training.checkpoint import TrainingState, load_checkpoint, memory, save_checkpoint
from medseg.training.optimisation import averaged, build_optimiser

LAYOUTS = torch.contiguous_format, torch.channels_last_3d
"""Of weights on a GPU in float32, and of all others."""


def state_of(network, optimiser):
    settings = TrainingConfig(optimiser=optimiser, precision="float32")
    return TrainingState(
        network=network,
        average=averaged(network, 0.9),
        method=nn.Identity(),
        optimiser=build_optimiser(network.parameters(), settings),
        precision=Precision(),
    )


def train(state, images):
    for image in images:
        state.optimiser.zero_grad()
        state.network(image).square().mean().backward()
        state.optimiser.step()


@pytest.mark.parametrize("optimiser", ["sgd", "adamw"])
@pytest.mark.parametrize(("before", "after"), [LAYOUTS, LAYOUTS[::-1]])
def test_a_training_goes_on_where_weights_lie_otherwise(tmp_path, optimiser, before, after):
    torch.manual_seed(0)
    network, images = nn.Conv3d(4, 6, 3), torch.randn(6, 1, 4, 5, 5, 5)
    first = state_of(deepcopy(network).to(memory_format=before), optimiser)
    train(first, images[:3])
    save_checkpoint(first, tmp_path / "checkpoint.pt", [memory(first)])
    second = state_of(network.to(memory_format=after), optimiser)
    load_checkpoint(second, tmp_path / "checkpoint.pt")
    for state in (first, second):
        train(state, images[3:])
    torch.testing.assert_close(second.network.weight, first.network.weight)
