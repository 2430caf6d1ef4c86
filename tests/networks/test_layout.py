"""Channels-last training on a CPU: the same results and gradients, in maps that stay as they lie."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from medseg.networks.layout import LAYOUTS, InstanceNorm2d, InstanceNorm3d, lay_out
from medseg.networks.unet import ConvBlock, UNet
from medseg.plan import NetworkPlan

KINDS = {4: (InstanceNorm2d, nn.InstanceNorm2d), 5: (InstanceNorm3d, nn.InstanceNorm3d)}

TOPOLOGY = NetworkPlan(features=(8, 16, 24), kernels=((3, 3, 3),) * 3, strides=((1, 1, 1), (2, 2, 2), (2, 2, 2)))


def made(*, residual: bool = False, axes=(0, 1, 2), dropout: float = 0.0) -> UNet:
    torch.manual_seed(0)
    return UNet(1, 3, TOPOLOGY.model_copy(update={"residual": residual, "dropout": dropout}), axes)


def descended(network: UNet, image: torch.Tensor) -> dict[str, torch.Tensor]:
    """Return the gradients of a loss of all heads."""
    output = network.train()(image)
    sum(logits.sin().mean() for logits in (output.logits, *output.coarse)).backward()
    return {name: parameter.grad for name, parameter in network.named_parameters()}


@settings(max_examples=30, deadline=None)
@given(
    st.integers(1, 3),
    st.integers(1, 9),
    st.lists(st.integers(2, 6), min_size=2, max_size=3),
    st.floats(-50, 50),
    st.integers(0, 99),
)
def test_norm_is_torchs_in_every_layout(count, channels, size, mean, seed):
    ours, theirs = (kind(channels, affine=True) for kind in KINDS[2 + len(size)])
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter, own in zip(ours.parameters(), theirs.parameters(), strict=True):
            own.copy_(parameter.normal_(generator=generator))
    maps = (mean + torch.randn((count, channels, *size), generator=generator)).requires_grad_()
    weight = torch.randn(maps.shape, generator=generator)
    for layout in (torch.contiguous_format, LAYOUTS[maps.ndim]):
        laid = maps.contiguous(memory_format=layout)
        found, expected = ours(laid), theirs(maps)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-3)
        assert found.is_contiguous(memory_format=layout)
        of = (maps, *ours.parameters()), (maps, *theirs.parameters())
        gradients = [torch.autograd.grad((y * weight).sum(), x) for y, x in zip((found, expected), of, strict=True)]
        for one, other in zip(*gradients, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-2)


@pytest.mark.parametrize("axes", [(0, 1, 2), (0, 1)])
@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("count", [1, 2])
def test_gradients_are_those_of_torchs_layout(residual, axes, count):
    image = torch.randn(count, 1, *(16, 24, 16)[: len(axes)])
    plain, laid = (
        descended(network, image)
        for network in (made(residual=residual, axes=axes), lay_out(made(residual=residual, axes=axes), torch.float32))
    )
    assert plain.keys() == laid.keys()
    for name, gradient in plain.items():
        torch.testing.assert_close(laid[name], gradient, rtol=1e-3, atol=1e-5, msg=name)


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_maps_stay_as_they_lie(dropout):
    network, layouts = lay_out(made(dropout=dropout), torch.float32).train(), []
    for block in network.modules():
        if isinstance(block, ConvBlock):
            block.register_forward_hook(lambda _, __, maps: layouts.append(maps))
    network(torch.randn(2, 1, 16, 24, 16))
    assert len(layouts) == 10
    assert all(maps.is_contiguous(memory_format=torch.channels_last_3d) for maps in layouts)


def test_other_networks_are_left_alone():
    network = nn.Sequential(nn.Conv3d(2, 4, 3), nn.InstanceNorm3d(4, affine=True))
    assert lay_out(network, torch.float32) is network
    assert network[0].weight.is_contiguous()
