"""The U-Net: shapes for any plan, nnU-Net's size, and what training needs of it."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional
from torch.profiler import ProfilerActivity, profile

from medseg.networks.unet import UNet
from medseg.plan import NetworkPlan

HIPPOCAMPUS = NetworkPlan(features=(32, 64, 128, 256), kernels=((3, 3, 3),) * 4, strides=((1, 1, 1), *[(2, 2, 2)] * 3))


@st.composite
def topologies(draw: st.DrawFn) -> NetworkPlan:
    stages = draw(st.integers(2, 4))
    triple = st.tuples(*[st.sampled_from((1, 2))] * 3)
    kernels = st.tuples(*[st.sampled_from((1, 3))] * 3)
    return NetworkPlan(
        features=tuple(draw(st.integers(1, 6)) for _ in range(stages)),
        kernels=tuple(draw(kernels) for _ in range(stages)),
        strides=((1, 1, 1), *(draw(triple) for _ in range(stages - 1))),
        convolutions=draw(st.integers(1, 3)),
        residual=draw(st.booleans()),
        deep_supervision=draw(st.booleans()),
        dropout=draw(st.sampled_from((0.0, 0.3))),
    )


@settings(max_examples=25, deadline=None)
@given(topology=topologies(), axes=st.sampled_from(((0, 1, 2), (0, 1), (0, 2), (1, 2))), channels=st.integers(1, 3))
def test_logits_have_the_image_size_for_any_plan(topology, axes, channels):
    network = UNet(channels, 5, topology, axes)
    size = [2 * topology.divisor[axis] for axis in axes]
    image = torch.randn(2, channels, *size)

    trained, tested = network.train()(image), network.eval()(image)

    assert tested.logits.shape == trained.logits.shape == (2, 5, *size)
    assert tested.coarse == ()
    assert len(trained.coarse) == (max(0, len(topology.features) - 3) if topology.deep_supervision else 0)
    for level, logits in enumerate(trained.coarse, 1):
        for axis in axes:
            size[axes.index(axis)] //= topology.strides[level][axis]
        assert logits.shape == (2, 5, *size)


def test_size_is_that_of_nnunet():
    # PlainConvUNet of dynamic-network-architectures 0.4.4 has 5,603,177 parameters with this topology,
    # 387 of them in the coarsest head, whose loss it weighs with 0;
    # with equal weights the logits are equal bit for bit.
    network = UNet(1, 3, HIPPOCAMPUS)
    assert sum(p.numel() for p in network.parameters()) == 5_603_177 - (128 * 3 + 3)


def test_every_parameter_learns():
    topology = NetworkPlan(features=(4, 6, 8), kernels=((3, 3, 3),) * 3, strides=((1, 1, 1), *[(2, 2, 2)] * 2))
    network = UNet(2, 3, topology)
    output = network(torch.randn(2, 2, 8, 8, 8))
    (output.logits.square().mean() + sum(c.square().mean() for c in output.coarse)).backward()
    assert [name for name, p in network.named_parameters() if p.grad is None] == []


@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("axes", [(0, 1, 2), (0, 1)])
def test_gradients_are_those_of_a_plain_leaky_relu_without_its_copies(axes, residual, monkeypatch):
    topology = NetworkPlan(
        features=(4, 6), kernels=((3, 3, 3),) * 2, strides=((1, 1, 1), (2, 2, 2)), residual=residual, dropout=0.2
    )
    network, image = UNet(2, 3, topology, axes), torch.randn(2, 2, *[8] * len(axes))

    def learn():
        network.zero_grad()
        torch.manual_seed(0)
        with profile(activities=[ProfilerActivity.CPU]) as watched:
            network(image).logits.square().mean().backward()
        copies = sum("CopySlices" in event.name for event in watched.events())
        return copies, [p.grad.clone() for p in network.parameters() if p.grad is not None]

    copies, gradients = learn()
    monkeypatch.setattr("medseg.networks.unet.Activation.forward", nn.LeakyReLU.forward)
    more_copies, expected = learn()
    assert copies == 0 < more_copies
    assert all(torch.equal(mine, theirs) for mine, theirs in zip(gradients, expected, strict=True))


def test_a_copy_can_be_made_after_a_training_step_and_stands_alone():
    network = UNet(1, 2, HIPPOCAMPUS.model_copy(update={"features": (4, 4, 4, 4)}))
    optimiser = torch.optim.SGD(network.parameters(), lr=0.1)
    image = torch.randn(2, 1, 16, 16, 16)
    network(image).logits.square().mean().backward()
    optimiser.step()

    twin = copy.deepcopy(network).eval()
    before = twin(image).logits
    optimiser.step()

    assert torch.equal(twin(image).logits, before)
    assert not torch.equal(network.eval()(image).logits, before)


def test_initialisation_keeps_the_scale_of_the_maps():
    # He's initialisation: variance 2 / ((1 + a²) fan_in), zero bias.
    network = UNet(1, 2, HIPPOCAMPUS)
    conv = network.encoder[3][1][0]
    assert conv.weight.std().item() == pytest.approx((2 / (1.0001 * 27 * 256)) ** 0.5, rel=0.01)
    assert not conv.bias.any()


def test_a_new_residual_block_is_its_shortcut():
    topology = NetworkPlan(features=(4, 4), kernels=((3, 3, 3),) * 2, strides=((1, 1, 1), (2, 2, 2)), residual=True)
    block = UNet(1, 2, topology).encoder[0][0]
    maps = torch.randn(2, 4, 4, 4, 4)
    assert torch.equal(block(maps), functional.leaky_relu(maps, 0.01))


def test_dropout_drops_whole_maps_in_training_only():
    topology = NetworkPlan(features=(4, 8), kernels=((3, 3, 3),) * 2, strides=((1, 1, 1), (2, 2, 2)), dropout=0.5)
    network = UNet(1, 2, topology)
    image = torch.randn(2, 1, 8, 8, 8)
    assert not torch.equal(network(image).logits, network(image).logits)
    network.eval()
    assert torch.equal(network(image).logits, network(image).logits)


def test_autocast_changes_little():
    network = UNet(1, 3, HIPPOCAMPUS.model_copy(update={"features": (8, 8, 8, 8)})).eval()
    image = torch.randn(2, 1, 16, 16, 16)
    exact = network(image).logits
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rounded = network(image).logits
    assert (rounded - exact).std() < 0.05 * exact.std()


class LogitsOnly(torch.nn.Module):
    """What an export holds: torch.export can't store a named tuple it wasn't told of."""

    def __init__(self, network: UNet) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.network(image).logits


def test_export_round_trip(tmp_path):
    network = UNet(1, 3, HIPPOCAMPUS.model_copy(update={"features": (4, 4, 4, 4)})).eval()
    batch = {0: torch.export.Dim("batch", min=1, max=64)}
    image = torch.randn(2, 1, 8, 16, 8)
    exported = torch.export.export(LogitsOnly(network), (image,), dynamic_shapes=(batch,))
    torch.export.save(exported, tmp_path / "network.pt2")
    loaded = torch.export.load(tmp_path / "network.pt2").module()
    for size in (1, 2, 3):
        images = torch.randn(size, 1, 8, 16, 8)
        torch.testing.assert_close(loaded(images), network(images).logits)
