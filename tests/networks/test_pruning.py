"""Cut networks against their whole ones, whose dropped maps are silenced."""

from __future__ import annotations

import pytest
import torch

from medseg.errors import PlanError
from medseg.networks.build import build_network
from medseg.networks.pruning import _layers, narrowed, narrowed_plan, prune, without_finest
from medseg.networks.unet import UNet
from medseg.plan import NetworkPlan


def trained(plan, outputs=3) -> UNet:
    """Random weights and random scales, as after a training."""
    network = build_network(plan, outputs).eval()
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if parameter.dim() == 1:
                parameter.copy_(torch.rand(parameter.shape) + (0.1 if name.endswith("weight") else -0.5))
    return network


@pytest.fixture
def plan(make_plan):
    return make_plan(features=(8, 16, 24), patch=(8, 8, 8))


def test_nothing_is_cut_where_all_is_kept(plan):
    network = trained(plan)
    cut = prune(network, plan.network)
    assert cut.keys() == network.state_dict().keys()
    assert all(torch.equal(cut[name], tensor) for name, tensor in network.state_dict().items())


@pytest.mark.parametrize("dimensions", [2, 3])
def test_a_cut_network_answers_as_the_whole_one_with_the_other_maps_silent(make_plan, dimensions):
    plan = make_plan(dimensions, features=(8, 16, 24), patch=(16, 16, 16 if dimensions == 3 else 1))
    network = trained(plan)
    smaller = narrowed_plan(plan, 0.5)
    assert smaller.network.features == (4, 8, 12)
    cut = build_network(smaller, 3).eval()
    cut.load_state_dict(prune(network, smaller.network))
    for layer in _layers(network):
        if layer.is_head:
            continue
        kept = _kept_by(cut, network, layer)
        silent = [part for part in range(len(layer.weight)) if part not in kept]
        with torch.no_grad():
            if layer.norm:
                layer.norm[1].weight[silent] = 0
                layer.norm[1].bias[silent] = 0
            else:
                layer.conv.bias[silent] = 0
                layer.conv.weight[:, silent] = 0
    image = torch.randn(2, 1, *(16,) * dimensions)
    torch.testing.assert_close(cut(image).logits, network(image).logits, rtol=1e-4, atol=1e-5)


def _kept_by(cut, network, layer) -> set[int]:
    """Find which maps stayed by their biases, which are all different."""
    own = dict(network.named_parameters())[f"{layer.name}.bias"].tolist()
    left = dict(cut.named_parameters())[f"{layer.name}.bias"].tolist()
    assert len(set(own)) == len(own)
    return {own.index(value) for value in left}


def test_maps_that_nobody_reads_go_first(plan):
    network = trained(plan)
    read = network.encoder[0][1][0].weight  # the second convolution reads what the first one made
    with torch.no_grad():
        read[:, [1, 4, 5, 6]] = 0
    cut = prune(network, narrowed(plan.network, 0.5))
    torch.testing.assert_close(cut["encoder.0.0.0.bias"], network.encoder[0][0][0].bias[[0, 2, 3, 7]])


def test_maps_of_a_small_scale_go_however_large_the_weights_before_the_norm(plan):
    network = trained(plan)
    block = network.encoder[0][0]
    with torch.no_grad():
        block[0].weight[[0, 1, 2, 3]] *= 1000
        block[-2].weight[[0, 1, 2, 3]] = 1e-4
    cut = prune(network, narrowed(plan.network, 0.5))
    torch.testing.assert_close(cut["encoder.0.0.0.bias"], block[0].bias[[4, 5, 6, 7]])


def test_without_its_finest_stage_a_network_answers_at_full_size(plan):
    network = trained(plan)
    coarse = narrowed_plan(plan, 0.5, coarse=True)
    assert coarse.network.features == (8, 12)
    assert coarse.network.strides[0] == (2, 2, 2)
    assert coarse.network.divisor == plan.network.divisor
    student = build_network(coarse, 3)
    cut = prune(network, coarse.network)
    missing = student.state_dict().keys() - cut.keys()
    assert missing == {
        f"{name}.{part}" for name in ("encoder.0.0.0", "encoder.0.0.1", "heads.0") for part in ("weight", "bias")
    }
    assert not cut.keys() - student.state_dict().keys()
    student.load_state_dict({**student.state_dict(), **cut})
    assert student.eval()(torch.zeros(1, 1, 8, 8, 8)).logits.shape == (1, 3, 8, 8, 8)
    kept = student.state_dict()["encoder.1.0.0.bias"]
    assert set(kept.tolist()) <= set(network.state_dict()["encoder.2.0.0.bias"].tolist())


@pytest.mark.parametrize("residual", [False, True])
def test_networks_may_stride_at_once(make_plan, residual):
    plan = make_plan(features=(4, 8, 8), strides=((2, 2, 2),) * 3, patch=(16, 16, 16), residual=residual)
    output = build_network(plan, 3).train()(torch.zeros(1, 1, 16, 16, 16))
    assert output.logits.shape == (1, 3, 16, 16, 16)


def test_what_cannot_be_cut_is_refused(make_plan):
    residual = make_plan(features=(8, 16, 24), residual=True)
    with pytest.raises(PlanError, match="without residual blocks"):
        prune(build_network(residual, 2), residual.network)
    with pytest.raises(PlanError, match="three stages"):
        without_finest(make_plan().network)
    with pytest.raises(PlanError, match="no share"):
        narrowed(make_plan().network, 0)
    with pytest.raises(PlanError, match="not a vnet"):
        narrowed(make_plan(name="vnet").network, 0.5)
    with pytest.raises(ValueError, match="first stride"):
        NetworkPlan.model_validate({**make_plan(name="vnet").network.model_dump(), "strides": ((2, 2, 2), (2, 2, 2))})
