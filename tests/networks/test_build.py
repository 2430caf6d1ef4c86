"""Every architecture answers by one contract, and says clearly what it can't do."""

import copy

import pytest
import torch
from torch import nn

from medseg.errors import PlanError
from medseg.networks.build import build_network, encoder_parameters, network_axes

SIZES = {"unet": 8, "segresnet": 16, "vnet": 32, "swinunetr": 64}


def plan_of(make_plan, name, dimensions, channels=1, **network):
    size = SIZES[name]
    patch = (size, size // 2, size // 2) if dimensions == 3 else (size, size // 2, 1)
    features = (8, 16, 32, 64) if name == "segresnet" else (12, 24)
    return make_plan(dimensions, channels, patch, name=name, features=features, **network)


@pytest.mark.parametrize("dimensions", [2, 3])
@pytest.mark.parametrize("name", SIZES)
def test_every_network_answers_by_the_contract(make_plan, name, dimensions):
    plan = plan_of(make_plan, name, dimensions)
    network = build_network(plan, 3)
    image = torch.randn(2, 1, *(plan.patch[axis] for axis in network_axes(plan)))
    with torch.inference_mode():
        trained = network.train()(image)
        tested = network.eval()(image)
    assert trained.logits.shape == tested.logits.shape == (2, 3, *image.shape[2:])
    assert tested.coarse == ()
    assert [c.shape[2] for c in trained.coarse] == ([8] if name == "segresnet" else [])


@pytest.mark.parametrize("name", SIZES)
def test_a_training_step_reaches_every_parameter_and_leaves_a_copyable_network(make_plan, name):
    plan = plan_of(make_plan, name, 2)
    network = build_network(plan, 2)
    output = network(torch.randn(2, 1, *(plan.patch[axis] for axis in network_axes(plan))))
    (output.logits.square().mean() + sum(c.square().mean() for c in output.coarse)).backward()
    assert [n for n, p in network.named_parameters() if p.grad is None] == []
    assert copy.deepcopy(network).state_dict().keys() == network.state_dict().keys()


@pytest.mark.parametrize("name", SIZES)
def test_a_frozen_encoder_is_a_true_part_that_leads_down(make_plan, name):
    network = build_network(plan_of(make_plan, name, 2), 2)
    encoder = {id(p) for p in encoder_parameters(network)}
    names = [n for n, p in network.named_parameters() if id(p) in encoder]
    assert 0 < len(names) == len(encoder) < len(list(network.parameters()))
    assert not [n for n in names if "up" in n.split(".")[1] or "decoder" in n or "head" in n or "out" in n]


def test_the_residual_unet_freezes_its_stem_too(make_plan):
    network = build_network(make_plan(residual=True), 2)
    assert {id(p) for p in network.stem.parameters()} <= {id(p) for p in encoder_parameters(network)}


def test_another_network_has_no_encoder_to_freeze():
    with pytest.raises(PlanError, match="a Linear has no encoder to freeze; train it without freeze_encoder"):
        list(encoder_parameters(nn.Linear(2, 2)))


def test_a_slice_network_takes_the_patch_without_the_slice_axis(make_plan):
    plan = make_plan(2).model_copy(update={"slice_axis": 0, "patch": (1, 8, 16)})
    topology = plan.network.model_copy(update={"kernels": ((1, 3, 3),) * 2, "strides": ((1, 1, 1), (1, 2, 2))})
    plan = plan.model_copy(update={"network": topology})
    assert network_axes(plan) == (1, 2)
    assert build_network(plan, 2).eval()(torch.randn(2, 1, 8, 16)).logits.shape == (2, 2, 8, 16)


@pytest.mark.parametrize(
    ("name", "patch", "message"),
    [
        ("unet", (2, 2, 2), "the patch 2x2x2 is one voxel at the coarsest stage; double plan.patch"),
        ("segresnet", (20, 16, 16), "segresnet needs a patch of multiples of 8, .* not 20x16x16; .* such as 16x16x16"),
        ("vnet", (16, 40, 32), "vnet needs a patch of multiples of 16, .* such as 16x32x32"),
        ("swinunetr", (32, 32, 32), "multiples of 32, at least one of them 64, not 32x32x32; .* such as 64x32x32"),
    ],
)
def test_a_patch_that_does_not_fit(make_plan, name, patch, message):
    features = (8, 16, 32, 64) if name == "segresnet" else (12, 24)
    strides = ((1, 1, 1), *[(2, 2, 2) if name == "unet" else (1, 1, 1)] * (len(features) - 1))
    with pytest.raises(PlanError, match=message):
        build_network(make_plan(patch=patch, name=name, features=features, strides=strides), 2)


def test_what_an_architecture_has_not(make_plan):
    with pytest.raises(PlanError, match="vnet takes 1, 2, 4, 8 or 16 image channels, not 3"):
        build_network(plan_of(make_plan, "vnet", 2, channels=3), 2)
    with pytest.raises(PlanError, match=r"segresnet has no dropout .* must be 0, not 0\.2"):
        build_network(plan_of(make_plan, "segresnet", 2, dropout=0.2), 2)
