"""Learning rate, optimisers and averaged weights against their formulas."""

import pytest
import torch
from torch import nn

from medseg.config import TrainingConfig
from medseg.training.optimisation import averaged, build_optimiser, learning_rate


def test_poly_schedule_is_the_formula_and_ends_near_zero():
    config = TrainingConfig(steps=200, learning_rate=0.01, poly_exponent=0.9, warmup_steps=0)
    for step in (0, 1, 57, 199):
        assert learning_rate(step, config) == pytest.approx(0.01 * (1 - step / 200) ** 0.9)
    assert learning_rate(199, config) < 1e-4


def test_warmup_rises_linearly_and_then_follows_poly():
    config = TrainingConfig(steps=100, learning_rate=1.0, warmup_steps=10)
    plain = TrainingConfig(steps=100, learning_rate=1.0, warmup_steps=0)
    assert learning_rate(0, config) == pytest.approx(0.1)
    assert learning_rate(4, config) == pytest.approx(0.5 * learning_rate(4, plain))
    assert learning_rate(50, config) == learning_rate(50, plain)


@pytest.mark.parametrize(("name", "kind"), [("sgd", torch.optim.SGD), ("adamw", torch.optim.AdamW)])
def test_frozen_parameters_are_left_out(name, kind):
    layer = nn.Linear(3, 2)
    layer.bias.requires_grad_(requires_grad=False)
    optimiser = build_optimiser(layer.parameters(), TrainingConfig(optimiser=name))
    assert isinstance(optimiser, kind)
    assert [p for group in optimiser.param_groups for p in group["params"]] == [layer.weight]


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_one_kernel_steps_as_the_formula_does(name):
    def after_steps(optimiser_of):
        torch.manual_seed(0)
        layer = nn.Linear(40, 30)
        optimiser = optimiser_of(layer)
        for _ in range(5):
            optimiser.zero_grad()
            layer(torch.randn(8, 40)).square().sum().backward()
            optimiser.step()
        return layer.weight.detach()

    config = TrainingConfig(optimiser=name, learning_rate=0.01, weight_decay=0.1)
    plain = {
        "sgd": lambda layer: torch.optim.SGD(
            layer.parameters(), lr=0.01, momentum=0.99, nesterov=True, weight_decay=0.1, foreach=False
        ),
        "adamw": lambda layer: torch.optim.AdamW(layer.parameters(), lr=0.01, weight_decay=0.1, foreach=False),
    }
    ours = after_steps(lambda layer: build_optimiser(layer.parameters(), config))
    torch.testing.assert_close(ours, after_steps(plain[name]))


@pytest.mark.parametrize(("precision", "fused"), [("auto", True), ("fp16", False)])
def test_gradients_can_be_clipped_in_every_precision(precision, fused):
    optimiser = build_optimiser(nn.Linear(3, 2).parameters(), TrainingConfig(precision=precision))
    assert all(bool(group["fused"]) == fused for group in optimiser.param_groups)
    assert getattr(optimiser, "_step_supports_amp_scaling", False) == fused  # what Fabric looks at before it clips


def test_average_follows_the_ramped_ema_formula():
    torch.manual_seed(0)
    network = nn.Linear(2, 1)
    average = averaged(network, decay=0.6)
    average.update_parameters(network)  # the first update copies
    expected = network.weight.detach().clone()
    for update in range(1, 30):
        with torch.no_grad():
            network.weight.add_(torch.randn_like(network.weight))
        average.update_parameters(network)
        decay = min(0.6, (1 + update) / (10 + update))
        expected = decay * expected + (1 - decay) * network.weight.detach()
    torch.testing.assert_close(average.module.weight.detach(), expected)


def test_decay_zero_keeps_the_plain_weights():
    network = nn.Linear(2, 1)
    average = averaged(network, decay=0.0)
    for _ in range(3):
        with torch.no_grad():
            network.weight.mul_(2.0)
        average.update_parameters(network)
    torch.testing.assert_close(average.module.weight, network.weight)
