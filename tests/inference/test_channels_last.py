"""The layout for CPUs: the same answers as the network's own, whatever its shape; the network stays as it was."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch

from medseg.inference.channels_last import ChannelsLast, _Norm, channels_last
from medseg.networks.build import build_network
from medseg.networks.layout import LAYOUTS, InstanceNorm2d, InstanceNorm3d
from medseg.networks.unet import NEGATIVE_SLOPE
from medseg.plan import NetworkPlan


def topology(**changes):
    network = {"features": (8, 16, 24), "kernels": ((3, 3, 3),) * 3, "strides": ((1, 1, 1), (2, 2, 1), (2, 2, 2))}
    return NetworkPlan(**{**network, **changes})


CPU = torch.device("cpu")

SHAPES = {
    "plain": topology(),
    "residual": topology(residual=True),
    "coarse": topology(strides=((2, 2, 2), (2, 2, 1), (2, 2, 2))),
    "flat kernels": topology(kernels=((3, 3, 1), (3, 3, 3), (3, 3, 3))),
    "without deep supervision": topology(deep_supervision=False),
}


def made(make_plan, network, channels=1, **plan):
    torch.manual_seed(0)
    names = tuple(f"channel {number}" for number in range(channels))
    normalisation = make_plan().normalisation * channels
    plan = make_plan(patch=(16, 24, 16), channels=names, normalisation=normalisation, network=network, **plan)
    return build_network(plan, 3).eval()


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("shape", SHAPES)
def test_answers_are_the_networks_own(make_plan, shape, channels):
    network = made(make_plan, SHAPES[shape], channels)
    windows = torch.randn(3, channels, 16, 24, 16)
    with torch.inference_mode():
        expected, found = network(windows), channels_last(network, CPU)(windows)
    assert expected.logits.std() > 0.1
    torch.testing.assert_close(found.logits, expected.logits, rtol=0, atol=1e-4)
    torch.testing.assert_close(found.features, expected.features, rtol=0, atol=1e-4)
    assert found.logits.is_contiguous()


@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("count", [1, 3])
def test_so_are_those_of_2d_networks(make_plan, residual, count):
    flat = topology(kernels=((3, 3, 1),) * 3, strides=((1, 1, 1), (2, 2, 1), (2, 2, 1)), residual=residual)
    torch.manual_seed(0)
    network = build_network(make_plan(dimensions=2, patch=(24, 16, 1), network=flat), 3).eval()
    slices = torch.randn(count, 1, 24, 16)
    with torch.inference_mode():
        expected, found = network(slices), channels_last(network, CPU)(slices)
    assert expected.logits.std() > 0.1
    torch.testing.assert_close(found.logits, expected.logits, rtol=0, atol=1e-4)
    torch.testing.assert_close(found.features, expected.features, rtol=0, atol=1e-4)
    assert found.logits.is_contiguous()


def test_bf16_differs_from_float32_as_the_networks_own_does(make_plan):
    network = made(make_plan, SHAPES["plain"])
    window = torch.randn(1, 1, 16, 24, 16)
    with torch.inference_mode():
        exact = network(window).logits
        with torch.autocast("cpu", torch.bfloat16):
            plain, found = network(window).logits, channels_last(network, CPU)(window).logits
    assert found.dtype == torch.bfloat16
    assert (found - exact).abs().mean() < 1.2 * (plain - exact).abs().mean()


@pytest.mark.parametrize("activated", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(16, 12, 8, 10), (20, 7, 5, 9), (13, 6, 4, 6), (200, 3, 3), (24, 40, 25), (1, 8, 8)])
def test_norm_and_activation_at_once_are_those_of_torch(shape, dtype, activated):
    """Also of maps whose mean is far from zero, and of rows of one voxel and of many."""
    layer = (InstanceNorm3d if len(shape) == 4 else InstanceNorm2d)(shape[0], affine=True)
    torch.nn.init.uniform_(layer.weight, 0.5, 2)
    torch.nn.init.normal_(layer.bias)
    maps = (torch.randn(2, *shape) + torch.linspace(-20, 20, shape[0]).view(1, -1, *[1] * (len(shape) - 1))).to(dtype)
    with torch.inference_mode():
        expected = torch.nn.functional.instance_norm(maps.float(), weight=layer.weight, bias=layer.bias)
        if activated:
            expected = torch.nn.functional.leaky_relu(expected, NEGATIVE_SLOPE)
        found = _Norm(layer, activated=activated)(maps.to(memory_format=LAYOUTS[maps.ndim]))
    assert found.dtype == dtype
    assert found.is_contiguous(memory_format=LAYOUTS[maps.ndim])
    tolerance = {torch.float32: 1e-4, torch.bfloat16: 1e-2}[dtype]  # bf16 has eight bits
    torch.testing.assert_close(found.float(), expected, rtol=tolerance, atol=tolerance)


IN_16_BITS = """
import torch
from medseg.inference.channels_last import channels_last
from medseg.networks.unet import UNet
from medseg.plan import NetworkPlan

torch.manual_seed(0)
topology = NetworkPlan(features=(4, 8), kernels=((3, 3, 3),) * 2, strides=((1, 1, 1), (2, 2, 2)))
network, window = UNet(1, 2, topology).eval(), torch.randn(2, 1, 8, 8, 8)
fast = channels_last(network, torch.device("cpu"))
for dtype in (torch.bfloat16, torch.float16):
    with torch.inference_mode(), torch.autocast("cpu", dtype):
        torch.testing.assert_close(fast(window).logits, network(window).logits, rtol=0, atol=0.1)
"""


def test_processors_without_instructions_for_16_bits_answer_in_them_all_the_same():
    """The model may ask for them, because it was validated on a GPU."""
    old = os.environ | {"ONEDNN_MAX_CPU_ISA": "AVX2"}
    done = subprocess.run([sys.executable, "-c", IN_16_BITS], env=old, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_window_answers_alike_alone_and_with_others(make_plan):
    network = channels_last(made(make_plan, SHAPES["plain"]), CPU)
    windows = torch.randn(3, 1, 16, 24, 16)
    with torch.inference_mode():
        torch.testing.assert_close(network(windows).logits[1:2], network(windows[1:2]).logits, rtol=0, atol=0)


def test_the_network_stays_as_it_was(make_plan):
    network = made(make_plan, SHAPES["plain"])
    layouts = {name: tensor.stride() for name, tensor in network.named_parameters()}
    kinds = [type(part) for part in network.modules()]
    assert isinstance(channels_last(network, CPU), ChannelsLast)
    assert layouts == {name: tensor.stride() for name, tensor in network.named_parameters()}
    assert kinds == [type(part) for part in network.modules()]


def test_other_networks_and_those_on_gpus_are_left_alone(make_plan):
    other = torch.nn.Conv3d(1, 2, 3)
    assert channels_last(other, CPU) is other
    elsewhere = made(make_plan, SHAPES["plain"])
    assert channels_last(elsewhere, torch.device("cuda")) is elsewhere
