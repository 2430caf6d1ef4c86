"""The memory estimate against nnU-Net's own count and against what autograd really keeps."""

from __future__ import annotations

import pytest

from medseg.config import NetworkConfig
from medseg.plan import ChannelNormalisation, Plan
from medseg.planning.memory import budget, feature_values, needed_gb
from medseg.planning.topology import Architect, Design

KEPT_PER_VALUE = 1.97
"""Values that autograd keeps for each one of nnU-Net's count (measured, torch 2.13)."""


def design(dimensions: int = 3, **network: object) -> Design:
    axes, patch = ((0, 1, 2), (32, 32, 32)) if dimensions == 3 else ((0, 1), (64, 64, 1))
    return Architect(NetworkConfig.model_validate(network), (1.0, 1.0, 1.0), axes, 1).design(patch)


def test_unet_equals_nnunet_s_count() -> None:
    """As PlainConvUNet.compute_conv_feature_map_size counts three stages of 8, 16, 32 features, by hand."""
    found = Architect(NetworkConfig(features=8), (1.0, 1.0, 1.0), (0, 1, 2), 1).design((16, 16, 16))
    assert found.network.features == (8, 16, 32)
    encoder = 2 * 8 * 16**3 + 2 * 16 * 8**3 + 2 * 32 * 4**3
    decoder = (2 * 16 + 16 + 3) * 8**3 + (2 * 8 + 8 + 3) * 16**3  # convolutions, upsampling, outputs of two stages
    assert feature_values(found.network, found.patch, outputs=3) == encoder + decoder


def test_budget_scales_with_memory() -> None:
    assert budget(8, 3) == 2 * 560e6
    assert budget(24, 2) == 3 * 12 * 85e6
    assert needed_gb(budget(5.5, 3), 3) == pytest.approx(5.5)


@pytest.mark.parametrize("dimensions", [2, 3])
@pytest.mark.parametrize("network", [{}, {"residual": True}, {"deep_supervision": False}])
def test_estimate_follows_what_autograd_keeps(dimensions: int, network: dict[str, object]) -> None:
    found = design(dimensions, features=16, **network)
    kept = _kept(found, dimensions)
    assert feature_values(found.network, found.patch, outputs=3) * KEPT_PER_VALUE == pytest.approx(kept, rel=0.05)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["segresnet", "vnet", "swinunetr"])
def test_estimate_of_monai_networks(name: str) -> None:
    found = Architect(NetworkConfig(name=name, features=24), (1.0, 1.0, 1.0), (0, 1, 2), 1).design((64, 64, 64))  # type: ignore[arg-type]
    kept = _kept(found, 3)
    assert feature_values(found.network, found.patch, outputs=3) * KEPT_PER_VALUE == pytest.approx(kept, rel=0.1)


def _kept(found: Design, dimensions: int) -> int:
    """Values that autograd keeps for one backward pass, without the weights."""
    import torch

    from medseg.networks.build import build_network

    plan = Plan(
        dimensions=3 if dimensions == 3 else 2,
        spacing=(1, 1, 1),
        slice_axis=2,
        patch=found.patch,
        batch=2,
        channels=("image",),
        normalisation=(ChannelNormalisation(kind="zscore"),),
        mirror=(True, True, True),
        network=found.network,
    )
    network = build_network(plan, 3).train()
    weights = {parameter.untyped_storage().data_ptr() for parameter in network.parameters()}
    storages: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            storages[storage.data_ptr()] = storage.nbytes() // 4
        return tensor

    shape = found.patch[:dimensions]
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        answer = network(torch.zeros(1, 1, *shape))
    del answer
    return sum(storages.values())
