"""Networks by name, from a plan."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import nn

from medseg.errors import PlanError
from medseg.networks.base import SegmentationNetwork
from medseg.networks.unet import UNet
from medseg.plan import Plan
from medseg.text import shown_sizes


def network_axes(plan: Plan) -> tuple[int, ...]:
    """Return which of x, y, z the network's spatial axes are, in order."""
    return tuple(axis for axis in range(3) if plan.dimensions == 3 or axis != plan.slice_axis)


def build_network(plan: Plan, outputs: int) -> SegmentationNetwork:
    """Build the plan's network with fresh weights, drawn from torch's global generator.

    Parameters
    ----------
    plan : its `network`, `channels`, `dimensions`, `slice_axis` and `patch` are used.
    outputs : logits a voxel, `LabelMap.outputs`.

    Raises
    ------
    PlanError
        If the patch does not fit the architecture.
    """
    if plan.network.name == "unet":
        _check_bottom(plan)
        return UNet(len(plan.channels), outputs, plan.network, network_axes(plan))
    from medseg.networks.monai_networks import build_monai_network  # late: importing monai takes seconds

    return build_monai_network(plan, outputs, network_axes(plan))


def build_blank(plan: Plan, outputs: int) -> SegmentationNetwork:
    """Build the plan's network for weights from elsewhere; torch's global generator is left as it was."""
    with torch.random.fork_rng(devices=[]):
        return build_network(plan, outputs)


def encoder_parameters(network: nn.Module) -> Iterator[nn.Parameter]:
    """Yield the parameters that fine-tuning with a frozen encoder leaves as they are.

    Raises
    ------
    PlanError
        If the network has no encoder that medseg knows.
    """
    if not isinstance(network, SegmentationNetwork):
        raise PlanError(f"a {type(network).__name__} has no encoder to freeze; train it without freeze_encoder")
    yield from network.encoder_parameters()


def _check_bottom(plan: Plan) -> None:
    """Refuse a patch of which one voxel is left at the bottom: instance norm makes every one of them equal."""
    if plan.patch == plan.network.divisor:
        raise PlanError(
            f"the patch {shown_sizes(plan.patch)} is one voxel at the coarsest stage; double plan.patch or remove the "
            "network's last stage"
        )
